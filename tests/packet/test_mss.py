"""A SYN asks for no larger segments than the way to its receiver has room for."""

from collections.abc import Callable
from typing import Any

import pytest
from scapy.layers.inet import TCP
from scapy.packet import Raw

from meshfabric.model.tables import Reason
from tests.packet import world as fabric
from tests.packet.frames import V4, V6, frame, ip
from tests.packet.rig import Scene
from tests.packet.world import FAR, GUEST_MTU

LOCAL, NODE = Reason.FORWARDED_TO_LOCAL, Reason.FORWARDED_TO_NODE
FAMILIES = pytest.mark.parametrize("family", [V4, V6], ids=["v4", "v6"])
NODE_MTU = 1340
HEADERS = {V4: 40, V6: 60}
JUMBO = 8960
OPTIONS = [("MSS", JUMBO), ("SAckOK", b""), ("Timestamp", (1, 0)), ("NOP", None), ("WScale", 7)]


@pytest.fixture(autouse=True)
def narrow(scene: Scene) -> None:
    """The far node takes no more than NODE_MTU."""
    scene.change(lambda world: setattr(world.nodes[FAR], "mtu", NODE_MTU))


def syn(source: str, destination: str, family: int, options: Any = OPTIONS, flags: str = "S") -> bytes:
    """A segment with these options."""
    return bytes(ip(source, destination, family) / TCP(sport=40000, dport=80, flags=flags, options=options))


def asked(packet: bytes, family: int) -> Any:
    """The MSS in a packet; its checksums are right."""
    head = ip("alpha", "far", family).__class__(packet)
    segment = head[TCP]
    was = segment.chksum
    del segment.chksum
    assert head.__class__(bytes(head))[TCP].chksum == was
    return dict(segment.options).get("MSS")


@FAMILIES
@pytest.mark.parametrize("flags", ["S", "SA"])
@pytest.mark.parametrize("mss", [JUMBO, NODE_MTU - 60 + 21, 65535])
def test_into_a_tunnel(scene: Scene, family: int, flags: str, mss: int) -> None:
    sent = frame(syn("alpha", "far", family, [("MSS", mss)], flags))
    assert scene.from_workload("mfp1", sent) == NODE
    got = scene.rig.run("from_workload", sent, "mfp1").packet[14:]
    assert asked(got, family) == NODE_MTU - HEADERS[family]


@FAMILIES
def test_out_of_a_tunnel(scene: Scene, family: int) -> None:
    sent = syn("far", "guest", family)
    assert scene.from_overlay("mfwg00", sent) == LOCAL
    got = scene.rig.run("from_overlay", sent, "mfwg00").packet[14:]
    assert asked(got, family) == GUEST_MTU - HEADERS[family]


@FAMILIES
def test_to_a_neighbour(scene: Scene, family: int) -> None:
    sent = frame(syn("alpha", "guest", family))
    for program in ("from_workload", "from_netkit"):
        got = scene.rig.run(program, sent, "mfp1").packet[14:]
        assert asked(got, family) == GUEST_MTU - HEADERS[family]
    assert scene.from_workload("mfp1", sent) == LOCAL


@FAMILIES
def test_a_busy_flow_opens_anew(scene: Scene, family: int) -> None:
    """A SYN never goes the short way."""
    for _ in range(3):
        assert scene.from_workload("mfp1", frame(syn("alpha", "far", family))) == NODE
        back = bytes(ip("far", "alpha", family) / TCP(sport=80, dport=40000, flags="SA"))
        assert scene.from_overlay("mfwg00", back) == LOCAL
        assert scene.from_workload("mfp1", frame(syn("alpha", "far", family, [], "A"))) == NODE


UNCHANGED: dict[str, Callable[[int], bytes]] = {
    "no options": lambda family: syn("alpha", "far", family, []),
    "no MSS": lambda family: syn("alpha", "far", family, [("NOP", None), ("WScale", 7)]),
    "as much as fits": lambda family: syn("alpha", "far", family, [("MSS", NODE_MTU - HEADERS[family])]),
    "less than fits": lambda family: syn("alpha", "far", family, [("MSS", 536)]),
    "no SYN": lambda family: syn("alpha", "far", family, flags="A"),
    "behind the end of the options": lambda family: _raw(family, "00 02 04 23 00 00 00 00"),
    "an option of no length": lambda family: _raw(family, "08 00 02 04 23 00 00 00"),
    "an option of length 1": lambda family: _raw(family, "08 01 02 04 23 00 00 00"),
    "an option beyond the end": lambda family: _raw(family, "08 ff 02 04 23 00 00 00"),
    "an MSS of another length": lambda family: _raw(family, "02 03 23 01 02 05 23 00"),
    "an MSS that is cut off": lambda family: _raw(family, "01 01 01 01 01 02 04 23"),
    "an MSS cut off by the packet": lambda family: _cut(_raw(family, "01 01 01 01 02 04 23 00"), 1),
    "options that the packet has no room for": lambda family: _cut(_raw(family, "02 04 23 00"), 4),
}


def _raw(family: int, options: str) -> bytes:
    """With these bytes for options."""
    extra = bytes.fromhex(options)
    segment = TCP(sport=40000, dport=80, flags="S", dataofs=5 + len(extra) // 4) / Raw(extra)
    return bytes(ip("alpha", "far", family) / segment)


def _cut(packet: bytes, octets: int) -> bytes:
    """Shorter, and its IP header says so."""
    at, less = (2, 0) if packet[0] >> 4 == V4 else (4, 40)
    length = (len(packet) - octets - less).to_bytes(2, "big")
    return packet[:at] + length + packet[at + 2 : -octets]


@FAMILIES
@pytest.mark.parametrize("name", UNCHANGED)
def test_what_stays_as_it_is(scene: Scene, name: str, family: int) -> None:
    sent = frame(UNCHANGED[name](family))
    assert scene.from_workload("mfp1", sent) == NODE
    assert scene.rig.run("from_workload", sent, "mfp1").packet == sent


@FAMILIES
@pytest.mark.parametrize("before", range(37))
def test_wherever_the_option_is(scene: Scene, family: int, before: int) -> None:
    """At odd places too, where the checksum counts its bytes the other way round."""
    options = "01" * before + "02 04 ff 01" + "00" * (-before % 4)
    sent = frame(_raw(family, options))
    assert scene.from_workload("mfp1", sent) == NODE
    got = scene.rig.run("from_workload", sent, "mfp1").packet[14:]
    assert asked(got, family) == NODE_MTU - HEADERS[family]


@FAMILIES
def test_where_nothing_is_known_nothing_is_changed(scene: Scene, family: int) -> None:
    scene.change(lambda world: setattr(world.nodes[FAR], "mtu", 0))
    sent = frame(syn("alpha", "far", family))
    assert scene.rig.run("from_workload", sent, "mfp1").packet == sent
    assert fabric.standard().nodes[FAR].mtu == 0
