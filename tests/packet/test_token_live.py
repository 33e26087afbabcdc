"""The token goes round by itself, without an agent, behind each kind of queue: traffic begins it."""

import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from meshfabric.kernel import links
from meshfabric.model.tables import Reason
from tests.features import requires
from tests.packet.duo import INTERVAL_MS, LOOP, Duo, Side, streaming
from tests.patience import PATIENCE, until

pytestmark = requires("delay")

QUEUES = [pytest.param("fq", marks=requires("fq")), "tbf", "htb"]
CUTS = 5
OUTAGE_MS = 300 * PATIENCE
"""For sanity; what is reached is printed."""
BACK_S = 0.3 * PATIENCE
LONG_S = 1.0 * PATIENCE
A_LITTLE_S = 0.5 * PATIENCE
LOOK_S = 0.1 * PATIENCE


@pytest.fixture(scope="module", params=QUEUES)
def built(request: pytest.FixtureRequest) -> Iterator[Duo]:
    with ExitStack() as stack:
        yield Duo(stack, request.param)


@pytest.fixture
def duo(built: Duo) -> Duo:
    """Both wires carry, both tunnels answer on both sides."""
    built.heal()
    with streaming(built) as streams:
        until(lambda: all(one.passes() for one in streams))
        until(lambda: all(is_up(side, index) for side in built.sides for index in (0, 1)))
    return built


def is_up(side: Side, index: int) -> bool:
    state = side.path(index)
    return state.streak >= 3 and state.open_probes < 3


def ticks_in(side: Side, seconds: float) -> float:
    """Times a second that the token came round."""
    before, begun = side.token.ticks, time.monotonic()
    time.sleep(seconds)
    return (side.token.ticks - before) / (time.monotonic() - begun)


def test_traffic_begins_it_and_it_keeps_time(duo: Duo) -> None:
    with streaming(duo):
        rate = ticks_in(duo.sides[0], LONG_S)
    print(f"{rate:.1f} ticks a second")
    assert 500 / INTERVAL_MS < rate < 1100 / INTERVAL_MS


def test_a_cut_costs_little_and_the_preferred_way_is_taken_again(duo: Duo) -> None:
    outages = [outage for _ in range(CUTS) for outage in outages_of_a_cut(duo)]
    print(f"outages in ms: {' '.join(f'{one:.0f}' for one in sorted(outages))}")
    print(f"median {statistics.median(outages):.0f} ms")
    assert max(outages) < OUTAGE_MS


def outages_of_a_cut(duo: Duo) -> list[float]:
    """Of both streams, when the preferred wire is cut; then it is healed, and used again."""
    with streaming(duo) as streams:
        until(lambda: all(one.passes() for one in streams))
        time.sleep(BACK_S)
        duo.cut_wire(0)
        until(lambda: all(one.came_back() for one in streams))
        duo.heal()
        until(lambda: all(is_up(side, 0) for side in duo.sides))
        lost = [one.lost for one in streams]
        duo.cut_wire(1)  # where nothing is any more
        time.sleep(BACK_S)
        duo.heal()
        until(lambda: all(one.passes() for one in streams))
    assert [one.lost for one in streams] == lost
    return [one.outage_ms for one in streams]


def test_who_dies_in_one_direction_is_noticed_at_both_ends(duo: Duo) -> None:
    one, two = duo.sides
    before = [lost(side) for side in duo.sides]
    with streaming(duo) as streams:
        until(lambda: all(stream.passes() for stream in streams))
        duo.cut_wire(0, senders=(one.number,))
        until(lambda: not is_up(one, 0) and not is_up(two, 0))
        time.sleep(BACK_S)  # the last of the unanswered ones may have been under way
        duo.heal()
        until(lambda: is_up(one, 0) and is_up(two, 0))
    (out, back), (other_out, other_back) = (
        (lost(side)[0] - then[0], lost(side)[1] - then[1])
        for side, then in zip(duo.sides, before, strict=True)
    )
    assert out >= 3 > back, "its questions did not arrive"
    assert other_back >= 3 > other_out, "its answers did not"


def lost(side: Side) -> tuple[int, int]:
    """Probes by the first wire that did not arrive, and answers."""
    return side.path(0).lost_out, side.path(0).lost_back


def test_it_ends_when_nobody_speaks_and_begins_again_with_traffic(duo: Duo) -> None:
    side = duo.sides[0]
    quieten(side)
    until(lambda: side.token.ticked_ns == 0)
    ticks = side.token.ticks
    time.sleep(A_LITTLE_S)
    assert side.token.ticks == ticks
    starts = side.token.starts
    with streaming(duo):
        until(lambda: side.token.ticks > ticks)
    assert side.token.starts > starts


def quieten(side: Side) -> None:
    """As if nothing had been said for long."""
    active = side.datapath.maps["active"]
    active.update_batch((key, bytes(active.value_size)) for key in list(active.keys()))


def test_a_cut_while_nobody_spoke_costs_no_more(duo: Duo) -> None:
    for side in duo.sides:
        quieten(side)
    until(lambda: all(side.token.ticked_ns == 0 for side in duo.sides))
    duo.cut_wire(0)
    with streaming(duo) as streams:
        until(lambda: all(one.passes() for one in streams))
    print(f"lost {' and '.join(str(one.lost) for one in streams)} of the first datagrams, 1 ms apart")
    assert all(0 < one.lost < OUTAGE_MS for one in streams)


def test_a_starter_has_idle_nodes_probed(duo: Duo) -> None:
    side = duo.sides[0]
    quieten(side)
    until(lambda: side.token.ticked_ns == 0)
    time.sleep(LONG_S * 1.1)  # until their next turn is due
    sent = [side.path(index).sent for index in (0, 1)]
    side.start()
    until(lambda: side.token.ticked_ns == 0 and side.path(0).sent > sent[0])
    assert [side.path(index).sent for index in (0, 1)] == [one + 1 for one in sent]


def test_there_is_never_more_than_one(duo: Duo) -> None:
    side = duo.sides[0]
    with streaming(duo):
        until(lambda: side.token.ticked_ns > 0)
        starts = side.token.starts
        for _ in range(100):
            side.start()
        rate = ticks_in(side, LONG_S)
    assert rate < 1100 / INTERVAL_MS
    assert side.token.starts == starts


HURTS = {
    "its device is set down and up": "ip link set mftick0 down && sleep 0.2 && ip link set mftick0 up",
    "the other is set down and up": "ip link set mftick1 down && sleep 0.2 && ip link set mftick1 up",
    "its packets are thrown away": "tc qdisc replace dev mftick0 root handle 2: tbf rate 8 burst 10 limit 10",
}


@pytest.mark.parametrize("name", HURTS)
def test_it_heals(duo: Duo, name: str) -> None:
    side = duo.sides[0]
    with streaming(duo):
        until(lambda: side.token.ticked_ns > 0)
        side.place.run(subprocess.run, HURTS[name], shell=True, check=True)
        side.place.run(side.make_loop)  # as the agent repairs it; a device that is up again needs nobody
        until(lambda: ticks_in(side, LOOK_S) > 500 / INTERVAL_MS)


def test_without_its_queue_it_does_not_run_wild(duo: Duo) -> None:
    """A packet sent back at once passes a few times; the next token comes three intervals later."""
    side = duo.sides[0]
    with streaming(duo):
        until(lambda: side.token.ticked_ns > 0)
        side.place.run(subprocess.run, ["tc", "qdisc", "del", "dev", LOOP[0], "root"], check=True)
        rate = ticks_in(side, LONG_S)
        print(f"{rate:.0f} ticks a second")
        assert 0 < rate < 1000 / INTERVAL_MS
        side.place.run(side.make_loop)
        until(lambda: ticks_in(side, LOOK_S) > 500 / INTERVAL_MS)


def test_setting_up_the_loop_again_disturbs_nothing(duo: Duo) -> None:
    side = duo.sides[0]
    with streaming(duo):
        until(lambda: side.token.ticked_ns > 0)
        starts, devices = side.token.starts, [side.place.run(links.find, name) for name in LOOP]
        side.place.run(side.make_loop)
        rate = ticks_in(side, LOOK_S)
    assert rate > 500 / INTERVAL_MS
    assert side.token.starts == starts
    assert [side.place.run(links.find, name) for name in LOOP] == devices


def test_what_is_no_token_is_dropped_on_the_way(duo: Duo) -> None:
    """Whatever somebody on the node sends into the loop."""
    side = duo.sides[0]
    before = side.count(Reason.NOT_FROM_FABRIC)
    side.send(bytes(12) + b"\x08\0" + bytes(72))
    until(lambda: side.count(Reason.NOT_FROM_FABRIC) == before + 1)
