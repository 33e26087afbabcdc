"""One round of the token at a time: what it sends, what it counts, and when it is the last."""

import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from meshfabric.kernel.holding import TOKEN_BYTES
from meshfabric.model import tables
from meshfabric.model.tables import FABRIC_MARK, MAX_PATHS, Reason
from tests.packet.arena import Arena, arena
from tests.packet.clock import BLANK, IDLE_NS, INTERVAL_NS, MINE, NODES, OWN, Clock, far
from tests.packet.frames import V4, V6
from tests.packet.node import TUNNELS
from tests.packet.oracle import REDIRECT, SHOT
from tests.packet.test_probes import checked, payload

ACTIVE_PER_TICK, IDLE_PER_TICK = 320, 100  # of 6400 and 2000 a second
TTL_AT = 8
LONG_AGO_NS = 60 * 10**9


@pytest.fixture(scope="module")
def built(place: Arena) -> Iterator[Clock]:
    """In an arena of its own; `place` has built the programs."""
    with arena() as other, ExitStack() as stack:
        yield Clock(other, stack)


@pytest.fixture
def clock(built: Clock) -> Clock:
    """Three nodes, the second of them by IPv6."""
    built.fabric(V4, V6, V4)
    return built


def test_a_round_probes_each_path_of_the_nodes_with_traffic(clock: Clock) -> None:
    clock.speak_to(0, 1)
    before = time.monotonic_ns()
    assert clock.tick().action == REDIRECT
    for tunnel in (0, 1):
        probes = clock.sent(tunnel)
        assert [addresses(probe) for probe in probes] == [(OWN[V4], far(0, V4)), (OWN[V6], far(1, V6))]
        assert [read(probe)[0] for probe in probes] == [0, 0]
        assert all(before <= read(probe)[1] <= time.monotonic_ns() for probe in probes)
        assert [checked(probe) for probe in probes] == probes, "the checksums are right"
    assert clock.state.ticks == 1
    assert clock.state.probes == 4


def read(probe: bytes) -> tuple[int, int]:
    """Sequence number and time, once all else is as it must be."""
    at = 20 if probe[0] >> 4 == V4 else 40
    assert struct.unpack_from(">HHH", probe, at) == (50862, 862, 52)
    sequence, seconds, fraction, error = struct.unpack_from(">IIIH", payload(probe))
    assert (error, payload(probe)[14:]) == (1, bytes(30))
    return sequence, seconds * 10**9 + (fraction * 10**9 >> 32)


def addresses(probe: bytes) -> tuple[str, str]:
    family, at, size = (socket.AF_INET, 12, 4) if probe[0] >> 4 == V4 else (socket.AF_INET6, 8, 16)
    ends = probe[at : at + size], probe[at + size : at + 2 * size]
    return socket.inet_ntop(family, ends[0]), socket.inet_ntop(family, ends[1])


def test_probes_are_numbered_and_noted_by_path(clock: Clock) -> None:
    clock.speak_to(0)
    for number in range(3):
        clock.set()
        clock.tick()
        probes = [clock.sent(tunnel)[0] for tunnel in (0, 1)]
        assert [read(probe)[0] for probe in probes] == [number, number]
        assert {probe[TTL_AT] for probe in probes} == {64 - number % 2}, "or two could be joined on the way"
    for index, tunnel in enumerate(TUNNELS):
        state = clock.path(0, index)
        assert (state.sent, state.open_probes, state.ifindex) == (3, 3, clock.ifindex[tunnel])
        assert 0 < state.unanswered_ns < state.sent_ns


def test_what_goes_on_is_an_empty_packet_for_the_next_interval(clock: Clock) -> None:
    """However many of either family were copied from it."""
    clock.fabric(V4, V6, V6)
    clock.speak_to(0, 1, 2)
    before = time.monotonic_ns()
    passed = clock.tick()
    assert (passed.action, passed.packet, passed.mark) == (REDIRECT, BLANK, MINE)
    assert INTERVAL_NS <= passed.tstamp - before < INTERVAL_NS + LONG_AGO_NS
    assert clock.state.ticked_ns >= before


def test_idle_nodes_have_their_turn(clock: Clock) -> None:
    clock.speak_to(0)
    clock.set(swept_ns=time.monotonic_ns() - IDLE_NS)
    clock.tick()
    while clock.state.next_idle < NODES:
        clock.set(**clock.state._replace(ticked_ns=time.monotonic_ns() - INTERVAL_NS)._asdict())
        clock.tick()
    seen = [addresses(probe)[1] for probe in clock.sent(0)]
    assert seen.count(far(1, V6)) == seen.count(far(2, V4)) == 1
    assert seen.count(far(0, V4)) == clock.state.ticks, "it is no idle node"


def test_who_had_no_traffic_for_a_while_is_idle(clock: Clock) -> None:
    clock.speak_to(0)
    clock.speak_to(1, ago_ns=LONG_AGO_NS)
    clock.tick()
    assert [clock.is_active(node) for node in (0, 1)] == [True, False]
    assert [addresses(probe)[1] for probe in clock.sent(0)] == [far(0, V4)]


def test_nobody_is_probed_who_has_no_address_or_no_tunnel(clock: Clock) -> None:
    clock.fabric(V4, V4)
    clock.maps["probes"].update(tables.number(0), bytes(32))
    clock.maps["nodes"].update(tables.number(1), bytes(tables.NODE.size))
    clock.speak_to(0, 1)
    assert clock.tick().action == REDIRECT
    assert clock.sent(0) == clock.sent(1) == []
    assert clock.state.probes == 0


def test_a_device_that_is_gone_leaves_its_probes_without_answer(clock: Clock) -> None:
    clock.fabric(V4)
    clock.maps["nodes"].update(
        tables.number(0), tables.node_value([(4711, 0), (clock.ifindex[TUNNELS[1]], 0)])
    )
    clock.speak_to(0)
    assert clock.tick().action == REDIRECT
    assert clock.path(0, 0).open_probes == 1
    assert len(clock.sent(1)) == 1


def test_tunnels_of_both_generations_of_keys_are_probed(clock: Clock) -> None:
    """They stand at either end of the positions, with free ones between."""
    clock.fabric(V4)
    old, new = [(clock.ifindex[name], 0) for name in TUNNELS]
    paths = [old, *[(0, 0)] * (MAX_PATHS - 2), new]
    clock.maps["nodes"].update(tables.number(0), tables.node_value(paths, [7, 0]))
    clock.speak_to(0)
    assert clock.tick().action == REDIRECT
    assert [len(clock.sent(tunnel)) for tunnel in (0, 1)] == [1, 1]
    assert [clock.path(0, at).sent for at in range(MAX_PATHS)] == [1, *[0] * (MAX_PATHS - 2), 1]


def test_the_last_node_has_its_turn_and_the_first_after_it(clock: Clock) -> None:
    """The number of nodes is no whole number of words."""
    clock.fabric(*[V4] * NODES, tunnels=1)
    clock.speak_to(0, NODES - 1)
    clock.set(next_active=NODES - 1)
    assert clock.tick().action == REDIRECT
    assert [addresses(probe)[1] for probe in clock.sent(0)] == [far(NODES - 1, V4), far(0, V4)]


def test_a_tick_is_bounded_and_all_have_their_turn(clock: Clock) -> None:
    nodes = 1000
    clock.fabric(*[V4] * nodes, tunnels=1)
    clock.speak_to(*range(nodes))
    rounds = -(-nodes // ACTIVE_PER_TICK)
    at = 0
    for number in range(rounds):
        clock.set(next_active=at)
        clock.tick()
        probed = clock.state.probes
        assert probed == ACTIVE_PER_TICK, f"round {number}"
        at = clock.state.next_active
        clock.sent(0)
    sent = [clock.path(node).sent for node in range(nodes)]
    assert set(sent) == {1, 2}
    assert sum(sent) == rounds * ACTIVE_PER_TICK


def test_the_turn_to_idle_nodes_is_bounded_too(clock: Clock) -> None:
    nodes = 250
    clock.fabric(*[V4] * nodes, tunnels=1)
    sent = []
    at = 0
    while at < NODES:
        clock.set(next_idle=at)
        clock.tick()
        sent.append(clock.state.probes)
        at = clock.state.next_idle
        clock.sent(0)
    assert max(sent) == IDLE_PER_TICK
    assert [clock.path(node).sent for node in range(nodes)] == [1] * nodes


def test_it_ends_without_traffic_when_every_idle_node_had_its_turn(clock: Clock) -> None:
    assert clock.tick().action == SHOT
    assert clock.state.ticked_ns == 0, "so that the next packet begins another at once"
    clock.set(next_idle=NODES - 1)
    assert clock.tick().action == SHOT
    clock.set(next_idle=0)
    assert clock.tick().action == REDIRECT


NO_TOKENS: dict[str, tuple[bytes, int, str, Reason | None]] = {
    "of another generation": (BLANK, MINE + 1, "mftick1", None),
    "of another length": (BLANK + bytes(1), MINE, "mftick1", None),
    "a stranger's packet": (BLANK, 0, "mftick1", Reason.NOT_FROM_FABRIC),
    "by another device": (BLANK, MINE, "mftick0", Reason.NOT_FROM_FABRIC),
}


@pytest.mark.parametrize("name", NO_TOKENS)
def test_what_is_no_token_does_nothing(clock: Clock, name: str) -> None:
    packet, mark, device, reason = NO_TOKENS[name]
    clock.speak_to(0)
    before = clock.dropped()
    assert clock.tick(packet, mark, device).action == SHOT
    assert clock.sent(0) == []
    assert (clock.state.ticks, clock.state.strays) == (0, 0 if reason else 1)
    assert clock.dropped() == before + bool(reason)


def test_a_token_that_comes_too_soon_passes_a_few_times(clock: Clock) -> None:
    clock.speak_to(0)
    ahead = time.monotonic_ns() + LONG_AGO_NS
    for early in range(3):
        clock.set(ticked_ns=ahead, early=early)
        passed = clock.tick()
        assert (passed.action, passed.tstamp) == (REDIRECT, ahead + INTERVAL_NS)
    clock.set(ticked_ns=ahead, early=3)
    assert clock.tick().action == SHOT
    assert clock.state.strays == 1
    assert clock.sent(0) == []


@pytest.mark.parametrize(("size", "segment"), [(60, 0), (TOKEN_BYTES, 0), (1400, 0), (1400, 700)])
def test_any_packet_begins_one_where_there_is_none(clock: Clock, size: int, segment: int) -> None:
    """Nothing of what it said is kept, and it sends no probes before it was round once."""
    clock.speak_to(0)
    clock.set(ticked_ns=0)
    begins = (bytes(12) + b"\x08\0" + b"secret" * 300)[:size]
    passed = clock.tick(begins, FABRIC_MARK, segment=segment)
    assert (passed.action, passed.packet, passed.segments) == (REDIRECT, BLANK, 0)
    assert passed.mark == clock.state.generation != MINE
    assert passed.mark not in (0, FABRIC_MARK)
    assert (clock.state.starts, clock.state.ticks) == (1, 0)
    assert clock.tick(mark=passed.mark).action == REDIRECT
    assert clock.state.ticks == 1
    assert len(clock.sent(0)) == 1


def test_none_begins_while_one_lives(clock: Clock) -> None:
    clock.set(ticked_ns=time.monotonic_ns() + LONG_AGO_NS)
    assert clock.tick(mark=FABRIC_MARK).action == SHOT
    assert (clock.state.starts, clock.state.generation) == (0, MINE)


def test_one_begins_when_three_ticks_were_missed(clock: Clock) -> None:
    clock.set(ticked_ns=time.monotonic_ns() - 4 * INTERVAL_NS)
    assert clock.tick(mark=FABRIC_MARK).action == REDIRECT
    assert clock.state.generation != MINE
    assert clock.tick(mark=MINE).action == SHOT, "the lost one comes back"
