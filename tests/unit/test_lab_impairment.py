"""When frames are due on an impaired segment, in simulated time; and which values are possible."""

from collections.abc import Iterator
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshfabric.lab.impairment import (
    ETHERNET_HEADER,
    LEAST_QUEUE,
    NONE,
    NS_PER_MS,
    Impairment,
    Schedule,
    check_impairment,
    room,
)
from meshfabric.model.errors import InputError

MTU = 1500
FRAME = MTU + 14
MS = NS_PER_MS
SECOND_MS = 1000

impairments = st.builds(
    lambda delay, part, loss, rate: Impairment(delay, delay * part, loss, rate),
    st.sampled_from([0.0, 0.5, 10.0, 300.0]),
    st.sampled_from([0.0, 0.3, 1.0]),
    st.sampled_from([0.0, 5.0, 100.0]),
    st.sampled_from([0.0, 0.01, 1.0, 100.0]),
)
offers = st.lists(st.tuples(st.integers(0, 3 * MS), st.integers(60, FRAME)), max_size=60)


def never() -> float:
    """A chance at which nothing is lost, and of jitter the most."""
    return 1.0


def slow_twin(
    given: Impairment, offered: list[tuple[int, int]], chance: Iterator[float]
) -> list[float | None]:
    """In netem's own words (netem_enqueue): what the queue leaves of the delay, then the length."""
    queue: list[float] = []
    told: list[float | None] = []
    for now, length in offered:
        queue = [due for due in queue if due > now]
        lost = given.loss_percent > 0 and next(chance) < given.loss_percent / 100
        if lost or len(queue) >= room(given, MTU):
            told.append(None)
            continue
        delay = given.delay_ms * MS
        if given.jitter_ms:
            delay += (2 * next(chance) - 1) * given.jitter_ms * MS
        start = float(now)
        if queue:
            delay = max(0.0, delay - (queue[-1] - start))
            start = queue[-1]
        due = start + delay + (length * 8 * 1000 / given.rate_mbit if given.rate_mbit else 0)
        queue.append(due)
        told.append(due)
    return told


def carried(schedule: Schedule, offered: list[tuple[int, int]]) -> list[int | None]:
    """What becomes of frames at (time, length), each delivered in time."""
    under_way: list[int] = []
    told = []
    for now, length in offered:
        while under_way and under_way[0] <= now:
            under_way.pop(0)
            schedule.delivered()
        told.append(schedule.take(now, length))
        if told[-1] is not None:
            under_way.append(told[-1])
    return told


def chances(seed: int) -> Iterator[float]:
    source = Random(seed)
    while True:
        yield source.random()


@given(impairments, offers, st.integers())
@settings(max_examples=300)
def test_frames_are_due_when_netem_would_send_them(
    given: Impairment, steps: list[tuple[int, int]], seed: int
) -> None:
    now, offered = 0, []
    for step, length in steps:
        now += step
        offered.append((now, length))
    told = carried(Schedule(given, MTU, Random(seed).random), offered)
    expected = slow_twin(given, offered, chances(seed))
    assert [one is None for one in told] == [one is None for one in expected]
    for one, other in zip(told, expected, strict=True):
        if one is not None and other is not None:
            assert abs(one - other) <= len(offered) + 1  # nanoseconds of rounding


@given(impairments, impairments, offers, st.integers(0, 60))
def test_none_overtakes_another_though_the_impairment_changes(
    first: Impairment, then: Impairment, steps: list[tuple[int, int]], at: int
) -> None:
    schedule = Schedule(first, MTU, Random(1).random)
    now, told = 0, []
    for i, (step, length) in enumerate(steps):
        now += step
        if i == at:
            schedule.change(then)
        told.append(schedule.take(now, length))
    due = [one for one in told if one is not None]
    assert due == sorted(due)


def test_a_delay_is_added_once() -> None:
    schedule = Schedule(Impairment(delay_ms=10), MTU, never)
    assert [schedule.take(now, FRAME) for now in (0, 3, 5 * MS)] == [10 * MS, 10 * MS + 3, 15 * MS]


def test_jitter_stays_within_its_bounds_and_fills_them() -> None:
    schedule = Schedule(Impairment(delay_ms=10, jitter_ms=4), MTU, Random(2).random)
    late = [due - now for now in range(0, SECOND_MS * 100 * MS, 100 * MS) if (due := schedule.take(now, 60))]
    assert 6 * MS <= min(late) < 6.1 * MS
    assert 13.9 * MS < max(late) <= 14 * MS


def test_a_rate_is_kept_to_however_much_is_offered() -> None:
    """100 Mbit/s of whole frames are one each 121 µs; what is more waits, then finds no room."""
    schedule = Schedule(Impairment(rate_mbit=100), MTU, never)
    told = carried(schedule, [(now, FRAME) for now in range(0, SECOND_MS * MS, 50_000)])
    due = [one for one in told if one is not None and one <= SECOND_MS * MS]
    assert len(due) == pytest.approx(100e6 / 8 / FRAME, abs=2)
    assert {later - sooner for sooner, later in pairwise(due)} == {FRAME * 8 * 10}
    assert None in told


def test_a_full_queue_drops_the_last_and_takes_again_after_a_delivery() -> None:
    schedule = Schedule(Impairment(rate_mbit=1), MTU, never)
    most = room(Impairment(rate_mbit=1), MTU)
    assert all(schedule.take(0, FRAME) for _ in range(most))
    assert schedule.take(0, FRAME) is None
    schedule.delivered()
    assert schedule.take(0, FRAME)
    assert schedule.take(0, FRAME) is None


def test_the_loss_is_what_was_asked_for_and_the_same_each_time() -> None:
    def lost() -> list[bool]:
        schedule = Schedule(Impairment(loss_percent=0.5), MTU, Random("n0u0").random)
        return [one is None for one in carried(schedule, [(now * MS, 60) for now in range(20_000)])]

    assert 60 <= sum(lost()) <= 140
    assert lost() == lost()
    nothing = Schedule(Impairment(loss_percent=100), MTU, Random(1).random)
    assert [nothing.take(now, 60) for now in range(100)] == [None] * 100


def test_a_black_hole_swallows_what_is_larger() -> None:
    schedule = Schedule(Impairment(black_hole_mtu=1400), MTU, never)
    assert schedule.take(0, 1400 + ETHERNET_HEADER) is not None
    assert schedule.take(0, 1400 + ETHERNET_HEADER + 1) is None


def test_there_is_room_for_the_delay_and_a_tenth_of_a_second() -> None:
    assert room(Impairment(delay_ms=10, rate_mbit=100), MTU) == LEAST_QUEUE + int(110 * 1e5 / (FRAME * 8))
    assert room(Impairment(rate_mbit=0.01), MTU) == LEAST_QUEUE
    assert room(NONE, MTU) == LEAST_QUEUE + 10_000


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (NONE, ""),
        (Impairment(10), "10 ms"),
        (Impairment(10, 2.5, 0.5, 100), "10 ms ± 2.5 ms, 0.5% lost, 100 Mbit/s"),
        (Impairment(loss_percent=1), "1% lost"),
        (Impairment(black_hole_mtu=1400), "nothing above 1400 bytes"),
    ],
)
def test_it_is_said_in_words(given: Impairment, words: str) -> None:
    assert str(given) == words


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (Impairment(-1), "delay_ms: delay_ms is -1 (0 to 10000 are possible)"),
        (Impairment(float("nan")), "delay_ms: delay_ms is nan (0 to 10000 are possible)"),
        (Impairment(1, 2), "jitter_ms: jitter_ms is 2 (at most the delay)"),
        (Impairment(1, -1), "jitter_ms: jitter_ms is -1 (at most the delay)"),
        (Impairment(loss_percent=101), "loss_percent: loss_percent is 101 (0 to 100 are possible)"),
        (Impairment(rate_mbit=0.001), "rate_mbit: rate_mbit is 0.001 (0.01 to 10000 are possible)"),
        (
            Impairment(black_hole_mtu=1279),
            "black_hole_mtu: black_hole_mtu is 1279 (1280 to 65535 are possible)",
        ),
        (Impairment(rate_mbit=20_000), "rate_mbit: rate_mbit is 20000 (0.01 to 10000 are possible)"),
    ],
)
def test_what_is_not_possible_is_refused(given: Impairment, message: str) -> None:
    with pytest.raises(InputError) as caught:
        check_impairment(given, lambda key: key)
    assert str(caught.value) == message
    check_impairment(NONE, lambda key: key)
