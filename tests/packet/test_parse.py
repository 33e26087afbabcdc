"""Headers of every shape: options, extensions, protocols; cut off anywhere; with any byte changed."""

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from scapy.layers.inet import (
    TCP,
    UDP,
    IPOption_NOP,
    IPOption_RR,
)
from scapy.layers.inet6 import (
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
)
from scapy.packet import Raw

from meshfabric.model.tables import Reason
from tests.packet.frames import V4, V6, echo, frame, ip, tcp, udp
from tests.packet.rig import Scene

LOCAL = Reason.FORWARDED_TO_LOCAL
FAMILIES = pytest.mark.parametrize("family", [V4, V6], ids=["v4", "v6"])
TO_BETA = UDP(sport=40000, dport=0x1F00)
LINK_HEADER = 14
# BPF_PROG_TEST_RUN wants the whole IP header that the Ethernet type announces; `live` has the shorter ones
SHORTEST = {V4: LINK_HEADER + 20, V6: LINK_HEADER + 40}
SHORTEST_DATAGRAM = 14

SHAPES: dict[str, tuple[Callable[[], bytes], Reason]] = {
    "IPv4 options": (
        lambda: bytes(ip("alpha", "beta", options=[IPOption_NOP()] * 4) / TO_BETA),
        LOCAL,
    ),
    "the longest IPv4 header": (
        lambda: bytes(ip("alpha", "beta", options=[IPOption_RR(routers=["0.0.0.0"] * 9)]) / TO_BETA),
        LOCAL,
    ),
    "IPv4 options and TCP": (
        lambda: bytes(ip("alpha", "beta", options=[IPOption_NOP()] * 4) / TCP(dport=8080)),
        LOCAL,
    ),
    "hop-by-hop options": (lambda: bytes(ip("alpha", "beta", V6) / IPv6ExtHdrHopByHop() / TO_BETA), LOCAL),
    "destination options": (lambda: bytes(ip("alpha", "beta", V6) / IPv6ExtHdrDestOpt() / TO_BETA), LOCAL),
    "long options": (
        lambda: bytes(
            ip("alpha", "beta", V6) / IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(200))]) / TO_BETA
        ),
        LOCAL,
    ),
    "a routing header that is done": (
        lambda: bytes(ip("alpha", "beta", V6) / IPv6ExtHdrRouting(type=4, segleft=0) / TO_BETA),
        LOCAL,
    ),
    "a routing header that steers": (
        lambda: bytes(ip("alpha", "beta", V6) / IPv6ExtHdrRouting(type=4, segleft=1) / TO_BETA),
        Reason.UNSUPPORTED,
    ),
    "a routing header of type 0": (
        lambda: bytes(ip("alpha", "beta", V6) / IPv6ExtHdrRouting(type=0, segleft=0) / TO_BETA),
        Reason.UNSUPPORTED,
    ),
    "as many extensions as are read": (lambda: _extended(6), LOCAL),
    "one extension too many": (lambda: _extended(7), Reason.UNSUPPORTED),
    "IP in IP": (
        lambda: bytes(ip("alpha", "beta", proto=4) / Raw(udp("alpha", "far", 1))),
        Reason.UNSUPPORTED,
    ),
    "IPv6 in IP": (
        lambda: bytes(ip("alpha", "beta", proto=41) / Raw(udp("alpha", "far", 1, family=V6))),
        Reason.UNSUPPORTED,
    ),
    "IP in IPv6": (
        lambda: bytes(ip("alpha", "beta", V6, nh=4) / Raw(udp("alpha", "far", 1))),
        Reason.UNSUPPORTED,
    ),
    "no next header": (lambda: bytes(ip("alpha", "beta", V6, nh=59)), Reason.UNSUPPORTED),
    "ICMPv6 in IPv4": (lambda: bytes(ip("alpha", "beta", proto=58) / Raw(bytes(8))), Reason.UNSUPPORTED),
    "ICMP in IPv6": (lambda: bytes(ip("alpha", "beta", V6, nh=1) / Raw(bytes(8))), Reason.UNSUPPORTED),
    "IPv4 addresses in an IPv6 header": (
        lambda: bytes(ip("::ffff:10.77.0.1", "::ffff:10.77.0.2") / TO_BETA),
        Reason.MALFORMED,
    ),
    "a header length of 16": (lambda: b"\x44" + udp("alpha", "beta", 0x1F00)[1:], Reason.MALFORMED),
    "the other family's number": (lambda: b"\x65" + udp("alpha", "beta", 0x1F00)[1:], Reason.MALFORMED),
    "longer than it is": (
        lambda: bytes(ip("alpha", "beta", len=200) / TO_BETA),
        Reason.MALFORMED,
    ),
    "shorter than its header": (lambda: bytes(ip("alpha", "beta", len=19) / TO_BETA), Reason.MALFORMED),
    "a length that cuts off the transport header": (
        lambda: bytes(ip("alpha", "beta", len=27) / TO_BETA),
        Reason.MALFORMED,
    ),
    "padded by the link": (lambda: udp("alpha", "beta", 0x1F00) + bytes(18), LOCAL),
    "padded by the link, v6": (lambda: udp("alpha", "beta", 0x1F00, family=V6) + bytes(18), LOCAL),
}


def _extended(count: int) -> bytes:
    layers = ip("alpha", "beta", V6)
    for _ in range(count):
        layers = layers / IPv6ExtHdrDestOpt()
    return bytes(layers / TO_BETA)


@pytest.mark.parametrize("name", SHAPES)
def test_shape(scene: Scene, name: str) -> None:
    packet, reason = SHAPES[name]
    kind = 0x0800 if "other family" in name else None
    assert scene.from_workload("mfp1", frame(packet(), kind=kind)) == reason


@pytest.mark.parametrize("kind", [0x8100, 0x88CC, 0x8847, 0x0000, 0xFFFF])
def test_frames_of_other_kinds(scene: Scene, kind: int) -> None:
    assert scene.from_workload("mfp1", frame(udp("alpha", "beta", 0x1F00), kind=kind)) == Reason.NOT_IP


WHOLE: dict[str, Callable[[int], bytes]] = {
    "udp": lambda family: udp("alpha", "beta", 0x1F00, 9, family=family),
    "tcp": lambda family: tcp("alpha", "beta", 8080, family=family),
    "echo": lambda family: echo("alpha", "beta", family, size=9),
    "far": lambda family: udp("far", "beta", 53, 9, family=family),
}


@FAMILIES
@pytest.mark.parametrize("name", ["udp", "tcp", "echo"])
def test_a_frame_cut_anywhere_is_malformed(scene: Scene, name: str, family: int) -> None:
    whole = frame(WHOLE[name](family))
    for length in range(SHORTEST[family], len(whole)):
        assert scene.from_workload("mfp1", whole[:length]) == Reason.MALFORMED, length
    assert scene.from_workload("mfp1", whole) == LOCAL


@FAMILIES
def test_a_datagram_cut_anywhere_is_malformed(scene: Scene, family: int) -> None:
    whole = WHOLE["far"](family)
    for length in range(SHORTEST_DATAGRAM, len(whole)):
        assert scene.from_overlay("mfwg00", whole[:length]) == Reason.MALFORMED, length
    assert scene.from_overlay("mfwg00", whole) == LOCAL


@pytest.mark.parametrize("name", [name for name, (_, reason) in SHAPES.items() if reason is LOCAL])
def test_odd_shapes_cut_anywhere(scene: Scene, name: str) -> None:
    """Whatever it is then, program and oracle agree."""
    packet = SHAPES[name][0]()
    whole = frame(packet)
    for length in range(SHORTEST[packet[0] >> 4], len(whole), 3):
        scene.from_workload("mfp1", whole[:length])


SEEDS = [make(family) for make in WHOLE.values() for family in (V4, V6)] + [
    make() for make, _ in SHAPES.values()
]
MUTATIONS = st.lists(st.tuples(st.integers(0, 80), st.integers(0, 255)), min_size=1, max_size=4)
BOUNDED = settings(
    max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@BOUNDED
@given(seed=st.sampled_from(SEEDS), mutations=MUTATIONS, cut=st.integers(0, 8))
def test_any_bytes_changed_in_a_frame(
    scene: Scene, seed: bytes, mutations: list[tuple[int, int]], cut: int
) -> None:
    data = _mutated(frame(seed), mutations, cut, LINK_HEADER)
    assume(len(data) >= SHORTEST[V6])
    scene.from_workload("mfp1", data)


@BOUNDED
@given(seed=st.sampled_from(SEEDS), mutations=MUTATIONS, cut=st.integers(0, 8))
def test_any_bytes_changed_in_a_datagram(
    scene: Scene, seed: bytes, mutations: list[tuple[int, int]], cut: int
) -> None:
    data = _mutated(seed, mutations, cut, 0)
    assume(len(data) >= SHORTEST_DATAGRAM)
    assume(data[12:14] not in (b"\x08\x00", b"\x86\xdd"))  # test-run takes these for an Ethernet type
    scene.from_overlay("mfwg00", data)


def _mutated(data: bytes, mutations: list[tuple[int, int]], cut: int, header: int) -> bytes:
    changed = bytearray(data)
    for at, value in mutations:
        changed[(header + at) % len(data)] = value
    return bytes(changed[: len(data) - cut])
