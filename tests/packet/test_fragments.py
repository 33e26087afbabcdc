"""Fragments: the first one names the ports, the others are told by it."""

from collections.abc import Callable
from typing import Any

import pytest
from scapy.layers.inet import IP, TCP, UDP, fragment
from scapy.layers.inet6 import (
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    fragment6,
)
from scapy.packet import Raw

from meshfabric.model.tables import Reason
from tests.packet.frames import V4, V6, address, echo, frame, ip
from tests.packet.rig import Scene

LOCAL = Reason.FORWARDED_TO_LOCAL
FAMILIES = pytest.mark.parametrize("family", [V4, V6], ids=["v4", "v6"])
PIECE = 512


def _udp(source: str, destination: str, port: int, family: int, ident: int = 77) -> list[bytes]:
    """A datagram of 1200 octets in three pieces."""
    transport = UDP(sport=40000, dport=port) / Raw(bytes(1200))
    return _pieces(source, destination, transport, family, ident)


def _pieces(source: str, destination: str, transport: Any, family: int, ident: int) -> list[bytes]:
    if family == V4:
        return [bytes(piece) for piece in fragment(ip(source, destination, id=ident) / transport, PIECE)]
    head = ip(source, destination, V6) / IPv6ExtHdrFragment(id=ident)
    return [bytes(piece) for piece in fragment6(head / transport, PIECE + 48)]


@FAMILIES
def test_all_pieces_follow_the_first(scene: Scene, family: int) -> None:
    pieces = _udp("alpha", "beta", 0x1F00, family)
    assert len(pieces) > 2
    for piece in pieces:
        assert scene.from_workload("mfp1", frame(piece)) == LOCAL
    assert scene.rig.flow_count() == (1, 0)


@FAMILIES
def test_out_of_a_tunnel(scene: Scene, family: int) -> None:
    for piece in _udp("far", "beta", 80, family):
        assert scene.from_overlay("mfwg00", piece) == LOCAL


@FAMILIES
def test_a_piece_that_overtakes_the_first(scene: Scene, family: int) -> None:
    first, second, *_ = _udp("alpha", "beta", 0x1F00, family)
    assert scene.from_workload("mfp1", frame(second)) == Reason.FRAGMENT
    assert scene.from_workload("mfp1", frame(first)) == LOCAL
    assert scene.from_workload("mfp1", frame(second)) == LOCAL


@FAMILIES
def test_another_packets_piece(scene: Scene, family: int) -> None:
    first, *_ = _udp("alpha", "beta", 0x1F00, family, ident=77)
    _, second, *_ = _udp("alpha", "beta", 0x1F00, family, ident=78)
    assert scene.from_workload("mfp1", frame(first)) == LOCAL
    assert scene.from_workload("mfp1", frame(second)) == Reason.FRAGMENT


@FAMILIES
def test_a_denied_first_piece_speaks_for_nobody(scene: Scene, family: int) -> None:
    first, second, *_ = _udp("alpha", "beta", 7, family)
    assert scene.from_workload("mfp1", frame(first)) == Reason.POLICY_INGRESS
    assert scene.from_workload("mfp1", frame(second)) == Reason.FRAGMENT


@FAMILIES
def test_a_spoofed_first_piece_speaks_for_nobody(scene: Scene, family: int) -> None:
    first, second, *_ = _udp("alpha", "beta", 0x1F00, family)
    assert scene.from_workload("mfp3", frame(first)) == Reason.SPOOFED_SOURCE
    assert scene.from_workload("mfp1", frame(second)) == Reason.FRAGMENT


@FAMILIES
def test_a_large_echo_and_its_reply(scene: Scene, family: int) -> None:
    """The pieces of the reply belong to the flow of the request."""
    assert scene.from_workload("mfp1", frame(echo("alpha", "beta", family))) == LOCAL
    whole = echo("beta", "alpha", family, reply=True, size=1200)
    layer = (IP if family == V4 else IPv6)(whole)
    for piece in _pieces("beta", "alpha", layer.payload, family, 99):
        assert scene.from_workload("mfp2", frame(piece)) == LOCAL


def _overlapping() -> list[bytes]:
    ends = {"src": address("alpha"), "dst": address("beta"), "id": 5, "proto": 6}
    first = IP(**ends, flags="MF") / TCP(sport=40000, dport=8080, flags="S") / Raw(bytes(4))
    return [
        bytes(first),
        bytes(IP(**ends, frag=1) / Raw(bytes(24))),
        bytes(IP(**ends, frag=3) / Raw(bytes(24))),
    ]


def test_a_piece_that_would_rewrite_tcp_flags(scene: Scene) -> None:
    """RFC 3128; the next offset is harmless."""
    first, overlap, harmless = _overlapping()
    assert scene.from_workload("mfp1", frame(first)) == LOCAL
    assert scene.from_workload("mfp1", frame(overlap)) == Reason.FRAGMENT
    assert scene.from_workload("mfp1", frame(harmless)) == LOCAL


TINY: dict[str, Callable[[], bytes]] = {
    "udp without all of its header": lambda: bytes(
        IP(src=address("alpha"), dst=address("beta"), flags="MF", proto=17) / Raw(bytes(7))
    ),
    "tcp without its flags": lambda: bytes(
        IP(src=address("alpha"), dst=address("beta"), flags="MF", proto=6) / Raw(bytes(16))
    ),
}


@pytest.mark.parametrize("name", TINY)
def test_a_first_piece_too_small_to_tell(scene: Scene, name: str) -> None:
    """RFC 1858, 3: nobody needs it but to get by a filter."""
    assert scene.from_workload("mfp1", frame(TINY[name]())) == Reason.MALFORMED


def test_an_only_piece_is_whole(scene: Scene) -> None:
    """RFC 6946: a fragment header around all of the packet."""
    layers = ip("alpha", "beta", V6) / IPv6ExtHdrFragment(id=1, m=0, offset=0) / UDP(sport=1, dport=0x1F00)
    assert scene.from_workload("mfp1", frame(bytes(layers))) == LOCAL
    assert not list(scene.rig.maps["fragments"].keys())


def test_extension_headers_behind_the_fragment_header(scene: Scene) -> None:
    """Only the first piece shows what protocol it is (RFC 8200, 4.5)."""
    options = bytes(IPv6ExtHdrDestOpt(nh=17)) + bytes(UDP(sport=40000, dport=0x1F00, len=64)) + bytes(8)
    head = {"src": address("alpha", V6), "dst": address("beta", V6)}
    first = IPv6(**head) / IPv6ExtHdrFragment(id=9, m=1, nh=60) / Raw(options)
    later = IPv6(**head) / IPv6ExtHdrFragment(id=9, offset=3, nh=60) / Raw(bytes(32))
    assert scene.from_workload("mfp1", frame(bytes(first))) == LOCAL
    assert scene.from_workload("mfp1", frame(bytes(later))) == LOCAL
    assert scene.rig.flow_count() == (1, 0)
