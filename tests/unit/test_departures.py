"""What the rules of an uplink's clocks are good for, in a link that is simulated: rates, order and bounds.

The datapath keeps the same rules (tests/packet/test_qos.py).
"""

from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.packet.departures import AROUND_A_FRAME, HORIZON_NS, PRIORITIES, Class, Clocks, Departure, takes

MBIT, MS, S = 10**6, 10**6, 10**9
CAPACITY = 100 * MBIT
FULL = 1514
NS_OF_ONE = takes(FULL + AROUND_A_FRAME, CAPACITY)

classes = st.builds(
    Class,
    st.integers(0, PRIORITIES - 1),
    st.just(0),
    st.sampled_from([0, 10 * MBIT, 40 * MBIT]),
    st.sampled_from([0, 60 * MBIT]),
)
arrivals = st.lists(
    st.tuples(st.integers(0, 2 * NS_OF_ONE), st.integers(0, 3), st.integers(60, FULL)), max_size=200
)


def offered(demand: dict[int, int], seconds: float = 1.0) -> Iterator[tuple[int, int]]:
    """(when, class) of full packets that arrive evenly at these rates in bit/s."""
    every = [
        (int(turn * FULL * 8 * S / rate), number)
        for number, rate in demand.items()
        for turn in range(int(seconds * rate / 8 / FULL))
    ]
    return iter(sorted(every))


def carried(of: dict[int, Class], demand: dict[int, int], seconds: float = 1.0) -> dict[int, float]:
    """The rates in Mbit/s at which each class departs, in the second half."""
    clocks, half = Clocks(CAPACITY), int(seconds * S / 2)
    octets: Counter[int] = Counter()
    for now, number in offered(demand, seconds):
        left = clocks.send(now, number, of[number], FULL)
        if left and half <= left.at < 2 * half:
            octets[number] += FULL
    return {number: octets[number] * 8 * S / half / MBIT for number in of}


@pytest.mark.parametrize(
    ("of", "demand", "expected"),
    [
        ({4: Class(3)}, {4: 50}, {4: 50}),
        ({4: Class(3)}, {4: 300}, {4: 98}),
        ({4: Class(5), 5: Class(1)}, {4: 60, 5: 300}, {4: 60, 5: 38}),
        ({4: Class(5), 5: Class(1)}, {4: 300, 5: 300}, {4: 98, 5: 0}),
        ({4: Class(5), 5: Class(1, 0, 20 * MBIT)}, {4: 300, 5: 300}, {4: 78, 5: 20}),
        ({4: Class(5), 5: Class(1, 0, 20 * MBIT)}, {4: 300, 5: 10}, {4: 88, 5: 10}),
        ({4: Class(5), 5: Class(1, 0, 20 * MBIT)}, {4: 50, 5: 300}, {4: 50, 5: 48}),
        ({4: Class(5, 0, 0, 30 * MBIT), 5: Class(1)}, {4: 300, 5: 300}, {4: 30, 5: 68}),
        ({4: Class(5, 0, 0, 30 * MBIT)}, {4: 300}, {4: 30}),
    ],
    ids=str,
)
def test_rates(of: dict[int, Class], demand: dict[int, int], expected: dict[int, int]) -> None:
    found = carried(of, {number: rate * MBIT for number, rate in demand.items()})
    assert found == pytest.approx(expected, abs=3)


@given(st.lists(classes, min_size=4, max_size=4), arrivals)
@settings(deadline=None)
def test_a_class_departs_in_order_and_within_its_bounds(
    of: list[Class], arriving: list[tuple[int, int, int]]
) -> None:
    clocks, now = Clocks(CAPACITY), S
    before: dict[int, Departure] = {}
    for gap, number, length in arriving:
        now += gap
        left = clocks.send(now, number, of[number], length)
        assert clocks.free == sorted(clocks.free, reverse=True), (
            "a lower priority is free before a higher one"
        )
        if left is None:
            continue
        assert now <= left.at <= now + max(HORIZON_NS, 8 * 30 * NS_OF_ONE)
        assert number not in before or before[number].at < left.at
        before[number] = left


@given(arrivals, arrivals)
@settings(deadline=None)
def test_higher_priorities_do_not_wait_for_lower_ones(
    high: list[tuple[int, int, int]], low: list[tuple[int, int, int]]
) -> None:
    """What departs when, with the others there and without."""

    def run(*lanes: tuple[int, list[tuple[int, int, int]]]) -> list[int | None]:
        clocks, every = Clocks(CAPACITY), []
        for priority, lane in lanes:
            now = S
            for gap, _, length in lane:
                now += gap
                every.append((now, priority, length))
        left = [
            (priority, clocks.send(now, priority, Class(priority), length))
            for now, priority, length in sorted(every)
        ]
        return [one.at if one else None for priority, one in left if priority == 5]

    assert run((5, high), (2, low)) == run((5, high))


@given(st.lists(classes, min_size=4, max_size=4), arrivals)
@settings(deadline=None)
def test_nothing_waits_for_an_idle_link(of: list[Class], arriving: list[tuple[int, int, int]]) -> None:
    """A class without a most departs no later than the whole of what came before takes."""
    clocks, now, busy = Clocks(CAPACITY), S, 0
    for gap, number, length in arriving:
        now += gap
        left = clocks.send(now, number, of[number], length)
        if left is None:
            continue
        if not of[number].most:
            assert left.at <= max(now, busy)
        busy = max(now, busy) + takes(length + AROUND_A_FRAME, CAPACITY)
