"""Packets that one node sends another through this one: who is served, what becomes of them, how many pass.

node A, 192.0.2.10:51829 --> our port for B | up0     up1 | our port for A --> node B, 203.0.113.20:51828
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Packet, Raw

from meshfabric.kernel import links
from meshfabric.model import tables
from meshfabric.model.addresses import parse_address
from meshfabric.model.node import PORTS_OF_ONE
from meshfabric.model.tables import Reason, RelayEnd
from tests.packet.bent import SHORTEST
from tests.packet.frames import V4, V6
from tests.packet.oracle import NEXT, REDIRECT, SHOT
from tests.packet.outside import NODE, RELAY_PORT, RELAY_PS_PER_BYTE, SECOND
from tests.packet.rig import Rig, Run
from tests.packet.world import standard

FAMILIES = pytest.mark.parametrize("family", [V4, V6], ids=["v4", "v6"])
MARK_UP0, MARK_UP1 = 0x4D460000, 0x4D460008
A = {V4: RelayEnd(0, 1, 2, 0), V6: RelayEnd(1, 1, 2, 0)}
B = {V4: RelayEnd(5, 2, 1, 0), V6: RelayEnd(6, 2, 1, 0)}
SOCKET_A = {V4: ("192.0.2.10", 51829), V6: ("2001:db8:80::10", 51829)}
SOCKET_B = {V4: ("203.0.113.20", 51828), V6: ("2001:db8:9::20", 51828)}
BURST_NS = 20_000_000
HOPS = 64


class Known(NamedTuple):
    """An end, where it is, and how we reach it."""

    end: RelayEnd
    socket: tuple[str, int]
    device: str
    own: str
    mark: int


def known(family: int) -> list[Known]:
    return [
        Known(A[family], SOCKET_A[family], "up0", NODE[family], MARK_UP0),
        Known(B[family], SOCKET_B[family], "up1", SECOND[family], MARK_UP1),
    ]


@dataclass
class Relay:
    """A rig that knows both ends, and what was sent."""

    rig: Rig

    def knows(self, one: Known) -> None:
        address, port, own = parse_address(one.socket[0]), one.socket[1], parse_address(one.own)
        index = self.rig.ifindex[one.device]
        source = tables.relay_source_key(address, port)
        self.rig.maps["relay_sources"].update(source, tables.relay_source_value(one.end, index, own))
        target = tables.relay_end_value(address, own, port, index, one.mark)
        self.rig.maps["relay_ends"].update(one.end.key(), target)

    def takes(self, packet: Packet, device: str = "up0", to: str = "", program: str = "from_uplink") -> Run:
        """A packet that comes by a device, to that one's link address unless another is given."""
        mac = to or self.rig.arena.run(links.mac_of, device)
        frame = Ether(src="02:00:00:00:00:01", dst=mac) / packet
        return self.rig.run(program, bytes(frame), device)


@pytest.fixture
def relay(rig: Rig) -> Iterator[Relay]:
    rig.reset(standard())
    ends = (*A.values(), *B.values())
    rig.maps["relay_budgets"].update_batch((tables.number(end.number), bytes(8)) for end in ends)
    made = Relay(rig)
    for family in (V4, V6):
        for one in known(family):
            made.knows(one)
    yield made
    for name in ("relay_sources", "relay_ends"):
        rig.maps[name].delete_batch(list(rig.maps[name].keys()))


def port_of(end: RelayEnd) -> int:
    """Where packets for it are taken in."""
    return RELAY_PORT + PORTS_OF_ONE * end.number + 8 * end.generation + end.local


def packet(
    family: int,
    source: tuple[str, int],
    to: tuple[str, int],
    body: bytes = b"encrypted",
    hops: int = HOPS,
    summed: int = True,
) -> Packet:
    """UDP between two sockets."""
    udp = UDP(sport=source[1], dport=to[1]) if summed else UDP(sport=source[1], dport=to[1], chksum=0)
    ip = IP(src=source[0], dst=to[0], ttl=hops) if family == V4 else IPv6(src=source[0], dst=to[0], hlim=hops)
    return ip / udp / Raw(body)


def from_a(family: int, end: RelayEnd | None = None, body: bytes = b"encrypted", **how: int) -> Packet:
    to = NODE[family], port_of(end or B[family])
    return packet(family, SOCKET_A[family], to, body, **how)


@FAMILIES
@pytest.mark.parametrize("summed", [True, False], ids=["checksum", "no checksum"])
@pytest.mark.parametrize("size", [1, 148, 1300])
def test_both_addresses_and_ports_are_others_and_nothing_else(
    relay: Relay, family: int, summed: bool, size: int
) -> None:
    """What comes out is, to the byte, what would have been written so: checksums too."""
    body = bytes(range(256)) * 6
    run = relay.takes(from_a(family, body=body[:size], summed=summed))
    own = (SECOND[family], port_of(A[family]))
    wanted = packet(family, own, SOCKET_B[family], body[:size], HOPS - 1, summed)
    assert run.packet[14:] == bytes(wanted)
    assert (run.action, run.mark) == (REDIRECT, MARK_UP1)
    assert run.counted == {Reason.RELAYED: (1, len(run.packet))}


@FAMILIES
def test_the_answer_finds_its_way_back(relay: Relay, family: int) -> None:
    answer = packet(family, SOCKET_B[family], (SECOND[family], port_of(A[family])))
    run = relay.takes(answer, "up1")
    wanted = packet(family, (NODE[family], port_of(B[family])), SOCKET_A[family], hops=HOPS - 1)
    assert (run.packet[14:], run.mark) == (bytes(wanted), MARK_UP0)


def test_who_is_not_known_is_left_to_the_node(relay: Relay) -> None:
    """Another address, another port of a known one, or the right socket by the wrong uplink or past us."""
    for source in (("192.0.2.11", 51829), ("192.0.2.10", 51830), SOCKET_B[V4]):
        run = relay.takes(packet(V4, source, (NODE[V4], port_of(B[V4]))))
        assert (run.action, run.counted) == (NEXT, {})
    past = packet(V4, SOCKET_A[V4], (SECOND[V4], port_of(B[V4])))
    for run in (relay.takes(from_a(V4), "up1"), relay.takes(past)):
        assert (run.action, run.counted) == (NEXT, {})


NOT_FACING = {
    "another uplink of the other node": {"local": 3},
    "the other generation of keys": {"generation": 1},
    "a node that nobody is": {"number": 9},
    "itself": {"number": A[V4].number},
}


@FAMILIES
@pytest.mark.parametrize("name", NOT_FACING)
def test_only_the_two_ends_of_one_tunnel_speak_with_each_other(relay: Relay, name: str, family: int) -> None:
    run = relay.takes(from_a(family, B[family]._replace(**NOT_FACING[name])))
    assert (run.action, run.reason) == (SHOT, Reason.NO_PATH)


def test_one_family_does_not_become_another(relay: Relay) -> None:
    for family, other in ((V4, V6), (V6, V4)):
        assert relay.takes(from_a(family, B[other])).reason is Reason.NO_PATH


def test_what_has_no_hop_left_goes_nowhere(relay: Relay) -> None:
    run = relay.takes(from_a(V6, hops=1))
    assert (run.action, run.reason) == (SHOT, Reason.TTL_EXPIRED)


def test_what_is_tagged_or_only_overheard_is_not_taken(relay: Relay) -> None:
    tagged = relay.takes(Dot1Q(vlan=5) / from_a(V6))
    overheard = relay.takes(from_a(V6), to="02:00:00:00:00:02")
    for run in (tagged, overheard):
        assert (run.action, run.counted) == (NEXT, {})


def test_tcp_is_none_of_it(relay: Relay) -> None:
    from scapy.layers.inet import TCP

    segment = IP(src=SOCKET_A[V4][0], dst=NODE[V4]) / TCP(sport=SOCKET_A[V4][1], dport=port_of(B[V4]))
    assert relay.takes(segment).action == NEXT


def test_a_node_has_its_rate_and_the_other_one_too(relay: Relay) -> None:
    """Each packet takes its time; who has spent more than the burst waits, and nobody else does."""
    budgets, key = relay.rig.maps["relay_budgets"], tables.number(A[V6].number)

    def spent_ns() -> int:
        return int.from_bytes(budgets.lookup(key) or b"", "little")

    before = time.monotonic_ns()
    run = relay.takes(from_a(V6, body=bytes(1200)))
    takes_ns = len(run.packet) * RELAY_PS_PER_BYTE // 1000
    assert before + takes_ns <= spent_ns() <= time.monotonic_ns() + takes_ns
    far_ahead = (time.monotonic_ns() + BURST_NS + 60 * 10**9).to_bytes(8, "little")
    budgets.update(key, far_ahead)
    refused = relay.takes(from_a(V6))
    assert (refused.action, refused.reason) == (SHOT, Reason.RELAY_FULL)
    assert budgets.lookup(key) == far_ahead
    answer = packet(V6, SOCKET_B[V6], (SECOND[V6], port_of(A[V6])))
    assert relay.takes(answer, "up1").reason is Reason.RELAYED


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.binary(min_size=SHORTEST, max_size=200),
    family=st.sampled_from([V4, V6]),
    kept=st.integers(0, 80),
    places=st.lists(st.tuples(st.integers(14, 70), st.integers(0, 255)), max_size=4),
)
def test_whatever_comes_ends_with_a_verdict(
    relay: Relay, data: bytes, family: int, kept: int, places: list[tuple[int, int]]
) -> None:
    """Packets to be relayed, cut, bent and continued with anything: no byte more or less comes out."""
    mac = relay.rig.arena.run(links.mac_of, "up0")
    frame = bytearray(bytes(Ether(src="02:00:00:00:00:01", dst=mac) / from_a(family))[: 14 + kept] + data)
    for at, value in places:
        if at < len(frame):
            frame[at] = value
    run = relay.rig.run("from_uplink", bytes(frame), "up0")
    assert run.action in (NEXT, SHOT, REDIRECT)
    assert len(run.packet) == len(frame)
    if run.action == NEXT:
        assert (run.packet, run.counted) == (bytes(frame), {})
    else:
        assert run.reason is not None
