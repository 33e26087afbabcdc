"""ICMP errors of the fabric's own: who is told what about a packet that cannot go on, and who is not."""

import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, UDP, IPOption_NOP, fragment
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6PacketTooBig,
    ICMPv6TimeExceeded,
    IPv6,
    IPv6ExtHdrDestOpt,
)
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from meshfabric.model import tables
from meshfabric.model.tables import Reason
from tests.packet import world as fabric
from tests.packet.frames import V4, V6, address, echo, frame, ip, tcp, udp
from tests.packet.oracle import REDIRECT, SHOT
from tests.packet.rig import Run, Scene
from tests.packet.world import FAR, GATEWAY_MAC, GUEST_MTU, World

FAMILIES = pytest.mark.parametrize("family", [V4, V6], ids=["v4", "v6"])
PODS = pytest.mark.parametrize("program", ["from_workload", "from_netkit"])
NODE_MTU = 1400
LONGEST = {V4: 576, V6: 1280}
AT_ONCE, TOKEN_NS = 50, 10**7
"""COMPLAINTS_AT_ONCE and COMPLAINT_INTERVAL_NS of bpf/lib/complaint.h."""
HOUR_NS = 3600 * 10**9


@pytest.fixture(autouse=True)
def narrow(scene: Scene) -> None:
    """The far node takes no more than NODE_MTU."""
    scene.change(lambda world: setattr(world.nodes[FAR], "mtu", NODE_MTU))


def sized(family: int, destination: str, length: int, **rest: Any) -> bytes:
    """A datagram of alpha's, so long with its IP header."""
    return udp("alpha", destination, 53, length - (28 if family == V4 else 48), family=family, **rest)


def error(run: Run, family: int) -> Any:
    """The error that came of a packet, as scapy reads it; every checksum is right."""
    told = Ether(run.packet)
    assert (told.src, told.dst) == (GATEWAY_MAC, "02:6d:66:01:00:01")
    message = told[IP if family == V4 else IPv6]
    assert (message.src, message.dst) == (address("gateway", family), address("alpha", family))
    assert bytes(type(message)(bytes(_without_sums(message)))) == bytes(message)
    return message


def _without_sums(message: Any) -> Any:
    """For scapy to compute them anew."""
    fresh = message.copy()
    if IP in fresh and fresh.version == V4:
        del fresh.chksum, fresh[ICMP].chksum
    else:
        del fresh.payload.cksum
    return fresh


@PODS
@FAMILIES
@pytest.mark.parametrize(("destination", "mtu"), [("far", NODE_MTU), ("guest", GUEST_MTU)])
def test_too_big(scene: Scene, program: str, family: int, destination: str, mtu: int) -> None:
    """RFC 1191 and RFC 8201: what would fit, and the start of what did not."""
    data = sized(family, destination, mtu + 1)
    run = scene.rig.run(program, frame(data), "mfp1")
    assert (run.action, run.reason, run.told) == (REDIRECT, Reason.TOO_BIG, Reason.TOO_BIG_TOLD)
    message = error(run, family)
    assert len(message) == LONGEST[family]
    if family == V4:
        assert (message[ICMP].type, message[ICMP].code, message[ICMP].nexthopmtu) == (3, 4, mtu)
        assert bytes(message[ICMP])[8:] == data[: 576 - 28]
    else:
        assert message[ICMPv6PacketTooBig].mtu == mtu
        assert bytes(message)[48:] == data[: 1280 - 48]


@PODS
@FAMILIES
@pytest.mark.parametrize("destination", ["far", "guest", "beta"])
@pytest.mark.parametrize("size", [0, 1, 2, 3, 501, 1000])
def test_hops_used_up(scene: Scene, program: str, family: int, destination: str, size: int) -> None:
    """RFC 792 and RFC 4443; the quote may be of any length."""
    data = udp("alpha", destination, 0x1F00, size, family=family, ttl=1)
    run = scene.rig.run(program, frame(data), "mfp1")
    assert (run.action, run.reason, run.told) == (REDIRECT, Reason.TTL_EXPIRED, Reason.EXPIRED_TOLD)
    message = error(run, family)
    if family == V4:
        assert (message[ICMP].type, message[ICMP].code) == (11, 0)
        assert bytes(message[ICMP])[8:] == data[: 576 - 28]
    else:
        assert message[ICMPv6TimeExceeded].code == 0
        assert bytes(message)[48:] == data


TOLD: dict[str, Callable[[int], bytes]] = {
    "tcp": lambda family: tcp("alpha", "far", 443, family=family, ttl=1),
    "an echo request": lambda family: _short_lived(echo("alpha", "far", family)),
    "may be cut up": lambda family: sized(family, "far", NODE_MTU + 9),
    "must not be cut up": lambda family: sized(family, "far", NODE_MTU + 9, **_whole(family)),
    "a first fragment": lambda family: _fragment(family, 0),
    "with options": lambda family: _with_options(family),
}


def _whole(family: int) -> dict[str, str]:
    return {"flags": "DF"} if family == V4 else {}


def _short_lived(packet: bytes) -> bytes:
    """With one hop left; nobody looks at the header's checksum."""
    at = 8 if packet[0] >> 4 == V4 else 7
    return packet[:at] + b"\1" + packet[at + 1 :]


def _fragment(family: int, which: int) -> bytes:
    if family == V4:
        whole = ip("alpha", "far", id=5) / UDP(sport=1, dport=53) / Raw(bytes(4000))
        return bytes(fragment(whole, NODE_MTU + 40)[which])
    head = bytes([17, 0, 0, 1 if not which else 0x10, 0, 0, 0, 5])
    return bytes(ip("alpha", "far", V6, nh=44, plen=1600) / Raw(head + bytes(1592)))


def _with_options(family: int) -> bytes:
    tail = UDP(sport=40000, dport=53) / Raw(bytes(200))
    if family == V4:
        return bytes(ip("alpha", "far", ttl=1, options=[IPOption_NOP()] * 4) / tail)
    return bytes(ip("alpha", "far", V6, ttl=1) / IPv6ExtHdrDestOpt() / tail)


@FAMILIES
@pytest.mark.parametrize("name", TOLD)
def test_who_is_told(scene: Scene, name: str, family: int) -> None:
    assert scene.from_workload("mfp1", frame(TOLD[name](family))) in (Reason.TOO_BIG, Reason.TTL_EXPIRED)
    assert _counted(scene, Reason.TOO_BIG_TOLD) + _counted(scene, Reason.EXPIRED_TOLD) > 0


UNTOLD: dict[str, Callable[[int], bytes]] = {
    "an error": lambda family: _unreachable(family, 1),
    "an error that is too big": lambda family: _unreachable(family, 64, NODE_MTU),
    "a redirect": lambda family: _icmp(family, 5, 137),
    "a timestamp request": lambda family: _icmp(family, 13, 200),
    "an error not yet known": lambda family: _icmp(family, 4, 100),
}


def _unreachable(family: int, hops: int, size: int = 0) -> bytes:
    head = ICMP(type=3, code=3) if family == V4 else ICMPv6DestUnreach(code=4)
    quoted = udp("far", "alpha", 9, family=family)
    return bytes(ip("alpha", "far", family, ttl=hops) / head / Raw(quoted + bytes(size)))


def _icmp(family: int, type4: int, type6: int) -> bytes:
    message = bytes([type4 if family == V4 else type6, *bytes(15)])
    fields = {"proto": fabric.ICMP} if family == V4 else {"nh": fabric.ICMPV6}
    return bytes(ip("alpha", "far", family, ttl=1, **fields) / Raw(message))


@PODS
@FAMILIES
@pytest.mark.parametrize("name", UNTOLD)
def test_who_is_not(scene: Scene, name: str, family: int, program: str) -> None:
    """RFC 1812, 4.3.2.7; RFC 4443, 2.4 (e)."""
    run = scene.rig.run(program, frame(UNTOLD[name](family)), "mfp1")
    assert run.action == (REDIRECT if program == "from_netkit" else SHOT)
    assert run.reason in (Reason.TOO_BIG, Reason.TTL_EXPIRED)
    assert (run.told, run.mark) == (None, 0)


@FAMILIES
def test_not_about_a_later_fragment(scene: Scene, family: int) -> None:
    assert scene.from_workload("mfp1", frame(_fragment(family, 0))) == Reason.TOO_BIG
    later = _fragment(family, 1)
    run = scene.rig.run("from_workload", frame(later), "mfp1")
    assert (run.action, run.reason, run.told) == (SHOT, Reason.TOO_BIG, None)


@FAMILIES
def test_about_what_a_large_packet_would_be_cut_into(scene: Scene, family: int) -> None:
    header = 40 if family == V4 else 60
    data = frame(tcp("alpha", "far", 80, "A", size=3500, family=family))
    assert scene.from_workload("mfp1", data, segment=NODE_MTU - header) == Reason.FORWARDED_TO_NODE
    assert scene.from_workload("mfp1", data, segment=NODE_MTU - header + 1) == Reason.TOO_BIG
    assert _counted(scene, Reason.TOO_BIG_TOLD) > 0


@FAMILIES
def test_not_about_what_came_out_of_a_tunnel(scene: Scene, family: int) -> None:
    data = udp("far", "beta", 80, fabric.POD_MTU, family=family)
    run = scene.rig.run("from_overlay", data, "mfwg00")
    assert (run.action, run.reason, run.told) == (SHOT, Reason.TOO_BIG, None)


def _spent(scene: Scene) -> int:
    """Until when alpha's tokens are spent, in ns of the monotonic clock."""
    value = scene.rig.maps["complaints"].lookup(tables.number(fabric.ALPHA))
    assert value is not None
    return int.from_bytes(value, sys.byteorder, signed=True)


def _spend(scene: Scene, until_ns: int) -> None:
    """Let all of alpha's tokens until then be spent."""
    value = until_ns.to_bytes(8, sys.byteorder, signed=True)
    scene.rig.maps["complaints"].update(tables.number(fabric.ALPHA), value)


def test_a_flood_of_packets_brings_no_flood_of_errors(scene: Scene) -> None:
    """A full bucket has tokens of the last half second, each is worth 10 ms, and an empty one gives none."""
    data = frame(sized(V4, "far", NODE_MTU + 1))
    before_ns = time.monotonic_ns()
    assert scene.rig.run("from_workload", data, "mfp1").told == Reason.TOO_BIG_TOLD
    left_ns = (AT_ONCE - 1) * TOKEN_NS
    assert before_ns - left_ns <= _spent(scene) <= time.monotonic_ns() - left_ns

    _spend(scene, some_ns := time.monotonic_ns() - 2 * TOKEN_NS)
    assert scene.rig.run("from_workload", data, "mfp1").told == Reason.TOO_BIG_TOLD
    assert _spent(scene) >= some_ns + TOKEN_NS

    _spend(scene, late_ns := time.monotonic_ns() + HOUR_NS)
    assert scene.rig.run("from_workload", data, "mfp1").told == Reason.ERROR_WITHHELD
    assert _spent(scene) == late_ns


def test_each_workload_has_a_bucket_of_its_own(scene: Scene) -> None:
    _spend(scene, time.monotonic_ns() + HOUR_NS)
    data = frame(sized(V4, "far", NODE_MTU + 1))
    run = scene.rig.run("from_workload", data, "mfp1")
    assert (run.action, run.reason, run.told) == (SHOT, Reason.TOO_BIG, Reason.ERROR_WITHHELD)
    scene.change(_host_may)
    spoken = frame(udp("host", "far", 53, NODE_MTU))
    assert scene.rig.run("from_workload", spoken, "mfhost1").told == Reason.TOO_BIG_TOLD


def _host_may(world: World) -> None:
    world.rules.append(fabric.Rule(fabric.ID_HOST, fabric.ANY, tables.Direction.EGRESS))


def _counted(scene: Scene, reason: Reason) -> int:
    return tables.read_counter(scene.rig.maps["reasons"].percpu(tables.number(reason)))[0]
