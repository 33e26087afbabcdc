"""One round of the token at a time: what it sends, what it counts, and when it is the last."""

import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from meshfabric.kernel.bpf import SkbContext
from meshfabric.kernel.holding import TOKEN_BYTES
from meshfabric.model import tables
from meshfabric.model.addresses import parse_address
from meshfabric.model.tables import FABRIC_MARK, MAX_PATHS, PathState, Reason, TokenState
from tests.packet.arena import Arena, arena
from tests.packet.frames import V4, V6
from tests.packet.node import IFF_TUN, TUNNELS, Queue
from tests.packet.oracle import REDIRECT, SHOT
from tests.packet.test_probes import checked, payload

INTERVAL_NS, IDLE_NS = 50_000_000, 1_000_000_000
ACTIVE_PER_TICK, IDLE_PER_TICK = 320, 100  # of 6400 and 2000 a second
OWN = {V4: "10.77.0.9", V6: "fd77::9"}
NODES = 4096
WORD = struct.Struct("=Q")
NODES_PER_WORD = 64
MINE = 77
TTL_AT = 8
BLANK = bytes(12) + b"\x08\0" + bytes(TOKEN_BYTES - 14)
LONG_AGO_NS = 60 * 10**9


@dataclass(frozen=True)
class Passed:
    """What a round made of the packet: verdict, bytes, mark, and when it is to leave."""

    action: int
    packet: bytes
    mark: int
    tstamp: int


class Clock:
    """A loaded `tick` with two tunnels, whose far ends the test reads, and a loop that is no real one."""

    def __init__(self, place: Arena, stack: ExitStack) -> None:
        self.place = place
        datapath = stack.enter_context(place.load({"recent": 262144, "flows": 1024, "new_flows": 1024}))
        self.program, self.maps = datapath.programs["tick"], datapath.maps
        self.queues = [place.run(Queue, name, IFF_TUN) for name in TUNNELS]
        self.ifindex = place.devices([*TUNNELS, "mftick0", "mftick1"])
        ends = self.ifindex["mftick0"], self.ifindex["mftick1"]
        self.maps["loop"].update(tables.number(0), tables.loop_value(*ends))
        self.fabric()

    def fabric(self, *families: int, tunnels: int = 2) -> None:
        """So many nodes, each probed by this family over all tunnels; nothing was said yet."""
        zero = bytes(self.maps["paths"].value_size)
        self.maps["nodes"].update_batch((tables.number(i), bytes(40)) for i in range(NODES))
        self.maps["probes"].update_batch((tables.number(i), bytes(32)) for i in range(NODES))
        self.maps["paths"].update_batch((tables.number(i), zero) for i in range(NODES * MAX_PATHS))
        self.maps["active"].update_batch((tables.number(i), bytes(8)) for i in range(NODES // NODES_PER_WORD))
        indexes = [self.ifindex[name] for name in TUNNELS[:tunnels]]
        for i, family in enumerate(families):
            ends = map(parse_address, (OWN[family], far(i, family)))
            self.maps["nodes"].update(tables.number(i), tables.node_value(indexes))
            self.maps["probes"].update(tables.number(i), tables.probe_value(*ends))
        self.set()
        for queue in self.queues:
            while not queue.is_empty():
                queue.read()

    def set(self, **fields: int) -> None:
        """A token of our generation that is due, no turn to idle nodes being; but for what is given."""
        now = time.monotonic_ns()
        due = now - INTERVAL_NS
        state = TokenState(due, 0, now, 0, 0, 0, MINE, 0, 0, 0, NODES, 0)._replace(**fields)
        self.maps["token"].update(tables.number(0), tables.TOKEN.pack(*state))

    @property
    def state(self) -> TokenState:
        return tables.read_token(self.maps["token"].lookup(tables.number(0)) or b"")

    def speak_to(self, *nodes: int, ago_ns: int = 0) -> None:
        """There was traffic for these nodes."""
        words: dict[int, int] = {}
        for node in nodes:
            word, bit = divmod(node, NODES_PER_WORD)
            before = WORD.unpack(self.maps["active"].lookup(tables.number(word)) or b"")[0]
            words[word] = words.get(word, before) | 1 << bit
            state = self.path(node)._replace(traffic_ns=time.monotonic_ns() - ago_ns)
            self.maps["paths"].update(tables.number(node * MAX_PATHS), tables.path_value(state))
        self.maps["active"].update_batch((tables.number(at), WORD.pack(bits)) for at, bits in words.items())

    def is_active(self, node: int) -> bool:
        word, bit = divmod(node, NODES_PER_WORD)
        return bool(WORD.unpack(self.maps["active"].lookup(tables.number(word)) or b"")[0] >> bit & 1)

    def path(self, node: int, index: int = 0) -> PathState:
        return tables.read_path(self.maps["paths"].lookup(tables.number(node * MAX_PATHS + index)) or b"")

    def tick(self, packet: bytes = BLANK, mark: int = MINE, device: str = "mftick1") -> Passed:
        """A packet comes in by the loop's second device."""
        context = SkbContext(ifindex=self.ifindex[device], mark=mark).pack()
        done = self.place.run(self.program.test_run, packet, ctx=context)
        after = SkbContext.unpack(done.ctx_out)
        return Passed(done.retval, done.data_out, after.mark, after.tstamp)

    def sent(self, tunnel: int) -> list[bytes]:
        """What left by a tunnel since the last time."""
        queue, found = self.queues[tunnel], []
        while not queue.is_empty():
            found.append(queue.read())
        return found


def far(node: int, family: int) -> str:
    """A node's own address."""
    return f"10.{78 + (node >> 8)}.{node & 255}.1" if family == V4 else f"fd77:0:0:{node + 1:x}::1"


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
    clock.maps["nodes"].update(tables.number(1), bytes(40))
    clock.speak_to(0, 1)
    assert clock.tick().action == REDIRECT
    assert clock.sent(0) == clock.sent(1) == []
    assert clock.state.probes == 0


def test_a_device_that_is_gone_leaves_its_probes_without_answer(clock: Clock) -> None:
    clock.fabric(V4)
    clock.maps["nodes"].update(tables.number(0), tables.node_value([4711, clock.ifindex[TUNNELS[1]]]))
    clock.speak_to(0)
    assert clock.tick().action == REDIRECT
    assert clock.path(0, 0).open_probes == 1
    assert len(clock.sent(1)) == 1


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
    before = dropped(clock)
    assert clock.tick(packet, mark, device).action == SHOT
    assert clock.sent(0) == []
    assert (clock.state.ticks, clock.state.strays) == (0, 0 if reason else 1)
    assert dropped(clock) == before + bool(reason)


def dropped(clock: Clock) -> int:
    reasons = clock.maps["reasons"]
    return tables.read_counter(reasons.percpu(tables.number(Reason.NOT_FROM_FABRIC)))[0]


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


@pytest.mark.parametrize("size", [60, TOKEN_BYTES, 1400])
def test_any_packet_begins_one_where_there_is_none(clock: Clock, size: int) -> None:
    """Nothing of what it said is kept, and it sends no probes before it was round once."""
    clock.speak_to(0)
    clock.set(ticked_ns=0)
    passed = clock.tick(bytes(12) + b"\x08\0" + b"secret" * 300, FABRIC_MARK)
    assert (passed.action, passed.packet) == (REDIRECT, BLANK)
    assert passed.mark == clock.state.generation != MINE
    assert passed.mark not in (0, FABRIC_MARK)
    assert (clock.state.starts, clock.state.ticks) == (1, 0)
    assert clock.tick(mark=passed.mark).action == REDIRECT
    assert clock.state.ticks == 1
    assert len(clock.sent(0)) == 1


def test_none_begins_while_one_lives(clock: Clock) -> None:
    assert clock.tick(mark=FABRIC_MARK).action == SHOT
    assert (clock.state.starts, clock.state.generation) == (0, MINE)


def test_one_begins_when_three_ticks_were_missed(clock: Clock) -> None:
    clock.set(ticked_ns=time.monotonic_ns() - 4 * INTERVAL_NS)
    assert clock.tick(mark=FABRIC_MARK).action == REDIRECT
    assert clock.state.generation != MINE
    assert clock.tick(mark=MINE).action == SHOT, "the lost one comes back"
