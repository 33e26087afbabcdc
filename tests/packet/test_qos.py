"""A tunnel's packets on an uplink: what their header says of their class, and when they leave."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Raw

from meshfabric.kernel import loader
from meshfabric.kernel.bpf import SkbContext
from meshfabric.model import tables
from meshfabric.model.tables import ClassCount, Reason, read_class_counter
from tests.packet import outside
from tests.packet.arena import Arena, compile_extra
from tests.packet.departures import CONGESTED_NS, HORIZON_NS, PRIORITIES, Class, Clocks
from tests.packet.frames import V4, V6
from tests.packet.oracle import NEXT, SHOT
from tests.packet.rig import MARK, SIZES, Rig, Scene
from tests.packet.test_relay import Relay, from_a, relay
from tests.packet.world import World

__all__ = ["relay"]  # a fixture

FAMILIES = pytest.mark.parametrize("family", [V4, V6], ids=["v4", "v6"])
UNDERLAY = {V4: ("192.0.2.1", "192.0.2.2"), V6: ("2001:db8::1", "2001:db8::2")}
TUNNEL_MARK = 0x4D460000
SETTINGS = outside.SETTINGS | {"tunnel_mark": TUNNEL_MARK.to_bytes(4, "little")}
SHARED = ["flows", "new_flows", "nat", "new_nat", "fragments"]
CLASS_SHIFT, MAGIC_SHIFT, MAGIC = 28, 10, 0x2D6F6
DEFAULT, CONTROL, VIDEO, BULK = 0, 1, 4, 15
MBIT, S = 10**6, 10**9
NOW = 1000 * S
CAPACITY = 10 * MBIT
NOT_ECT, ECT_1, ECT_0, CE = range(4)
CLASSES = {
    DEFAULT: Class(3),
    CONTROL: Class(7, 48),
    VIDEO: Class(5, 34, 2 * MBIT, 8 * MBIT),
    BULK: Class(1, 8, MBIT),
}


class Left(NamedTuple):
    """What became of a packet; `at` 0: it has no time of its own."""

    action: int
    packet: bytes
    at: int
    mark: int


class Wire:
    """to_uplink at a time that the test says, for packets with a hash."""

    def __init__(self, rig: Rig, datapath: loader.Datapath) -> None:
        self.rig, self._program = rig, datapath.programs["leaves_with_class"]
        rig.programs["relays_with_class"] = datapath.programs["relays_with_class"]

    def send(
        self,
        packet: bytes,
        number: int | None,
        now: int = NOW,
        mark: int = TUNNEL_MARK,
        paced: int = 0,
        segments: int = 0,
        device: str = "up0",
    ) -> Left:
        """A packet on its way out; `number` None: it has no hash."""
        told = 0 if number is None else number << CLASS_SHIFT | MAGIC << MAGIC_SHIFT | 7
        context = SkbContext(
            ifindex=self.rig.ifindex[device],
            mark=mark,
            cb=bytes(16) + told.to_bytes(4, "little"),
            tstamp=paced,
            hwtstamp=now,
            gso_segs=segments,
            gso_size=1000 if segments else 0,
        )
        done = self.rig.arena.run(self._program.test_run, packet, ctx=context.pack())
        after = SkbContext.unpack(done.ctx_out)
        return Left(done.retval, done.data_out, after.tstamp, after.mark)

    def start(self) -> None:
        """All clocks are past, and nothing was counted."""
        for slot in range(tables.MAX_SLOTS):
            clocks = self.rig.maps["clocks"]
            clocks.update(tables.number(slot), bytes(clocks.value_size))
        counters = self.rig.maps["class_counters"]
        for key, value in list(counters.items()):
            counters.update(key, bytes(len(value)))

    def free(self, slot: int = 0) -> list[int]:
        """When the link is free, by priority."""
        value = self.rig.maps["clocks"].lookup(tables.number(slot))
        assert value is not None
        return [int.from_bytes(value[8 * at : 8 * at + 8], "little") for at in range(PRIORITIES)]

    def count(self, number: int, slot: int = 0) -> ClassCount:
        """What was counted of a class."""
        counters = self.rig.maps["class_counters"]
        return read_class_counter(counters.percpu(tables.number(slot * tables.CLASSES + number)))


@pytest.fixture(scope="module")
def loaded(place: Arena, rig: Rig, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    """The program that can be told hash and time, which shares the rig's tables."""
    source = Path(__file__).with_name("class_uplink.bpf.c")
    built = compile_extra(source, tmp_path_factory.mktemp("qos"))
    sizes = {table: SIZES[table] for table in SHARED}
    with place.run(loader.load, [built], place.pins, sizes, SETTINGS) as datapath:
        assert "clocks" in datapath.adopted
        yield Wire(rig, datapath)
        del rig.programs["relays_with_class"]


@pytest.fixture
def wire(loaded: Wire, scene: Scene) -> Wire:
    """The classes above, and no capacity known."""
    scene.change(with_classes(CLASSES))
    loaded.start()
    return loaded


@pytest.fixture
def full(wire: Wire, scene: Scene) -> Wire:
    """With the capacity of the first uplink known."""
    scene.change(lambda world: world.capacity.update(up0=CAPACITY))
    return wire


def with_classes(classes: dict[int, Class]) -> Any:
    """The world's classes are these."""

    def edit(world: World) -> None:
        world.classes = {
            number: tables.class_value(one.priority, one.dscp, one.guaranteed, one.most)
            for number, one in classes.items()
        }

    return edit


def encrypted(family: int, size: int = 100, dscp: int = 0, ecn: int = NOT_ECT, tag: int = 0) -> bytes:
    """A packet of a tunnel's of `size` bytes with its headers."""
    link: Any = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    if tag:
        link /= Dot1Q(vlan=tag)
    source, destination = UNDERLAY[family]
    said = dscp << 2 | ecn
    own: Any = (
        IP(src=source, dst=destination, tos=said)
        if family == V4
        else IPv6(src=source, dst=destination, tc=said, fl=0xABCDE)
    )
    whole = link / own / UDP(sport=51820, dport=51820, chksum=0xBEEF)
    return bytes(whole / Raw(bytes(max(size - len(whole), 0))))


@FAMILIES
@pytest.mark.parametrize("tag", [0, 5])
@pytest.mark.parametrize("ecn", [NOT_ECT, ECT_1, ECT_0, CE])
@pytest.mark.parametrize("before", [0, 63])
def test_the_class_is_written_outside(wire: Wire, family: int, tag: int, ecn: int, before: int) -> None:
    """And nothing else is changed but the checksum."""
    left = wire.send(encrypted(family, dscp=before, ecn=ecn, tag=tag), VIDEO)
    assert left == (NEXT, encrypted(family, dscp=34, ecn=ecn, tag=tag), 0, TUNNEL_MARK)


@FAMILIES
@pytest.mark.parametrize("number", [DEFAULT, 9, None])
def test_a_class_without_one_leaves_it_as_it_is(wire: Wire, family: int, number: int | None) -> None:
    """Also one that is not known (any more), and what WireGuard sends by itself."""
    packet = encrypted(family, dscp=34, ecn=ECT_0)
    assert wire.send(packet, number) == (NEXT, packet, 0, TUNNEL_MARK)


MARKS = {
    TUNNEL_MARK + 127: True,
    outside.PLAIN_MARK: True,
    outside.PLAIN_MARK + 7: True,
    outside.PLAIN_MARK + 8: False,
    TUNNEL_MARK - 1: False,
    0: False,
    MARK: False,
}


@pytest.mark.parametrize(("mark", "ours"), MARKS.items())
def test_tunnels_packets_are_known_by_their_mark(wire: Wire, mark: int, ours: bool) -> None:
    left = wire.send(encrypted(V4), VIDEO, mark=mark)
    assert left.packet == encrypted(V4, dscp=34 if ours else 0)
    assert wire.count(VIDEO, {outside.PLAIN_MARK: 0}.get(mark, 7)).packets == ours


def test_another_mark_is_not_held_to_any_capacity(full: Wire) -> None:
    assert full.send(encrypted(V4), VIDEO, mark=0) == (NEXT, encrypted(V4), 0, 0)
    assert full.free() == [0] * PRIORITIES


def test_a_packet_leaves_at_once_while_the_link_is_idle(full: Wire) -> None:
    packet = encrypted(V4, 1500)
    for turn in range(3):
        now = NOW + turn * S
        assert full.send(packet, DEFAULT, now).at == now


@pytest.mark.parametrize(
    ("number", "dscp", "after"), [(DEFAULT, 0, 1_219_200), (VIDEO, 34, 1_524_000), (None, 0, 1_219_200)]
)
def test_the_next_one_leaves_when_the_link_is_free(
    full: Wire, number: int | None, dscp: int, after: int
) -> None:
    """1500 and 24 bytes at 10 Mbit/s, of the video at its most; what has no hash goes as control traffic."""
    packet = encrypted(V4, 1500)
    assert [full.send(packet, number).at - NOW for _ in range(2)] == [0, after]
    assert full.send(packet, number).packet == encrypted(V4, 1500, dscp)
    of = CONTROL if number is None else number
    assert full.count(of).packets == 3
    assert [one == 0 for one in full.free()] == [at > CLASSES[of].priority for at in range(PRIORITIES)]


def test_a_packet_that_is_yet_to_be_cut_is_many_frames(full: Wire) -> None:
    """The kernel tells how long they are together; a test run takes the packet as it is."""
    packet = encrypted(V4, 3000)
    full.send(packet, DEFAULT, segments=3)
    assert full.send(packet, DEFAULT).at - NOW == (3000 + 3 * 24) * 800


def test_each_device_has_its_own_clocks(full: Wire, scene: Scene) -> None:
    scene.change(lambda world: world.capacity.update(up1=CAPACITY))
    packet = encrypted(V4, 1500)
    assert full.send(packet, DEFAULT).at == NOW
    assert full.send(packet, DEFAULT, mark=TUNNEL_MARK + 8 + 3, device="up1").at == NOW
    assert full.free(1)[0] == full.free(0)[0] == NOW + 1_219_200


def test_uplinks_by_one_device_share_its_clocks(full: Wire) -> None:
    value = tables.uplink_value(full.rig.ifindex["up0"], (), CAPACITY, 0)
    packet = encrypted(V4, 1500)
    with full.rig.overwritten("uplinks", tables.number(1), value):
        full.send(packet, DEFAULT)
        assert full.send(packet, DEFAULT, mark=TUNNEL_MARK + 8).at == NOW + 1_219_200
    assert full.count(DEFAULT, 1).packets == 1


def test_a_socket_that_paces_itself_is_not_hurried(full: Wire) -> None:
    packet = encrypted(V4, 1500)
    assert full.send(packet, DEFAULT, paced=NOW + 7_000_000).at == NOW + 7_000_000
    assert full.send(packet, DEFAULT).at == NOW + 1_219_200, "the link is free meanwhile"
    for another_clock in (1, NOW - 1, NOW + 11 * S, 1_700_000_000 * S):
        full.start()
        assert full.send(packet, DEFAULT, paced=another_clock).at == NOW


def fill(wire: Wire, number: int, until: int) -> int:
    """Send large packets until one would leave later than that; returns how many left."""
    packet = encrypted(V4, 1500)
    for turn in range(10_000):
        left = wire.send(packet, number)
        if left.action == SHOT or left.at - NOW > until:
            return turn
    raise AssertionError("nothing was ever late")


def test_what_would_wait_too_long_is_dropped(full: Wire) -> None:
    """And takes no time of the link."""
    sent = fill(full, DEFAULT, S)
    assert sent == HORIZON_NS // 1_219_200 + 1
    free = full.free()
    before = full.rig.maps["reasons"].percpu(tables.number(Reason.QUEUE_FULL))
    assert full.send(encrypted(V4, 1500), DEFAULT).action == SHOT
    after = full.rig.maps["reasons"].percpu(tables.number(Reason.QUEUE_FULL))
    assert tables.read_counter(after)[0] == tables.read_counter(before)[0] + 1
    assert full.free() == free
    assert full.count(DEFAULT)[:4] == (sent, sent * 1500, 0, 2)
    assert full.send(encrypted(V4, 1500), CONTROL).at == NOW, "a higher priority does not wait for it"


@FAMILIES
@pytest.mark.parametrize("ecn", [NOT_ECT, ECT_1, ECT_0, CE])
def test_what_waits_long_is_told_of_congestion(full: Wire, family: int, ecn: int) -> None:
    """If it can be."""
    fill(full, DEFAULT, CONGESTED_NS)
    before = full.count(DEFAULT).marked
    left = full.send(encrypted(family, ecn=ecn), DEFAULT)
    assert left.packet == encrypted(family, ecn=CE if ecn else NOT_ECT)
    assert full.count(DEFAULT).marked - before == (ecn in (ECT_0, ECT_1))


def test_mark_and_class_are_written_together(full: Wire) -> None:
    fill(full, VIDEO, CONGESTED_NS)
    assert full.send(encrypted(V4, ecn=ECT_0), VIDEO).packet == encrypted(V4, dscp=34, ecn=CE)


def test_a_slow_class_has_room_for_some_packets(full: Wire, scene: Scene) -> None:
    """Though each takes longer than others may wait in all."""
    slow = {**CLASSES, BULK: Class(1, 0, 0, 100_000)}
    scene.change(with_classes(slow))
    left = [full.send(encrypted(V4, 1500, ecn=ECT_0), BULK) for _ in range(12)]
    each = 1524 * 80_000
    assert [one.at - NOW for one in left if one.action == NEXT] == [turn * each for turn in range(9)]
    assert [one.packet == encrypted(V4, 1500, ecn=CE) for one in left[:5]] == [False] * 3 + [True] * 2


def test_delays_are_summed_up(full: Wire) -> None:
    for _ in range(3):
        full.send(encrypted(V4, 1500), DEFAULT)
    assert full.count(DEFAULT) == ClassCount(3, 4500, 0, 0, (1 + 2) * 1_219_200)


@FAMILIES
def test_what_is_handed_on_is_of_the_default_class(loaded: Wire, relay: Relay, family: int) -> None:
    """Of whatever it is on its own node: without a hash it would go before all else."""
    run = relay.takes(from_a(family), program="relays_with_class")
    assert run.reason == Reason.RELAYED
    assert run.noted >> MAGIC_SHIFT == DEFAULT << CLASS_SHIFT - MAGIC_SHIFT | MAGIC


rates = st.sampled_from([0, 0, 1 * MBIT, 20 * MBIT, 90 * MBIT])
some_classes = st.lists(
    st.builds(Class, st.integers(0, PRIORITIES - 1), st.sampled_from([0, 8, 46]), rates, rates),
    min_size=3,
    max_size=3,
)
arrivals = st.lists(
    st.tuples(
        st.sampled_from([0, 0, 1, 50_000, 1_219_200, 400_000, 20_000_000]),
        st.integers(0, 2),
        st.sampled_from([74, 700, 1500]),
        st.sampled_from([0, 0, 0, 300_000, 8_000_000]),
        st.sampled_from([NOT_ECT, ECT_0]),
    ),
    max_size=40,
)


@given(some_classes, arrivals, st.sampled_from([CAPACITY, 100 * MBIT, 10**11]))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_departures_are_those_of_the_oracle(
    loaded: Wire, scene: Scene, of: list[Class], arriving: list[tuple[int, int, int, int, int]], capacity: int
) -> None:
    """Whatever comes when: the time, the drop, the mark and the clocks."""
    numbers = (DEFAULT, VIDEO, BULK)
    scene.change(with_classes(dict(zip(numbers, of, strict=True))))
    scene.change(lambda world: world.capacity.update(up0=capacity))
    loaded.start()
    clocks, now = Clocks(capacity), NOW
    for gap, which, length, ahead, ecn in arriving:
        now += gap
        paced, number, one = now + ahead if ahead else 0, numbers[which], of[which]
        wanted = clocks.send(now, number, one, length, paced)
        left = loaded.send(encrypted(V4, length, 1, ecn), number, now, paced=paced)
        assert loaded.free() == clocks.free
        if wanted is None:
            assert left.action == SHOT
            continue
        said = CE if wanted.congested and ecn else ecn
        assert left == (NEXT, encrypted(V4, length, one.dscp or 1, said), wanted.at, TUNNEL_MARK)
