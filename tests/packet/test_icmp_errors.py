"""ICMP errors belong to the flow of the packet that they quote (RFC 5508, REQ-4); others need a rule."""

from collections.abc import Callable
from typing import Any

import pytest
from scapy.layers.inet import ICMP
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6PacketTooBig, ICMPv6ParamProblem, ICMPv6TimeExceeded
from scapy.packet import Raw

from meshfabric.model.tables import Direction, Reason
from tests.packet import world as fabric
from tests.packet.frames import V4, V6, echo, frame, ip, tcp, udp
from tests.packet.rig import Scene
from tests.packet.world import ALPHA, ID_ALPHA, ID_BETA, Rule

LOCAL, NODE = Reason.FORWARDED_TO_LOCAL, Reason.FORWARDED_TO_NODE
FAMILIES = pytest.mark.parametrize("family", [V4, V6], ids=["v4", "v6"])

ERRORS: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "unreachable": (lambda: ICMP(type=3, code=3), lambda: ICMPv6DestUnreach(code=4)),
    "time exceeded": (lambda: ICMP(type=11), ICMPv6TimeExceeded),
    "parameter problem": (lambda: ICMP(type=12), ICMPv6ParamProblem),
    "too big": (lambda: ICMP(type=3, code=4, nexthopmtu=1280), lambda: ICMPv6PacketTooBig(mtu=1280)),
}


def _error(name: str, source: str, destination: str, quoted: bytes, family: int) -> bytes:
    head = ERRORS[name][family == V6]()
    return bytes(ip(source, destination, family) / head / Raw(quoted))


@FAMILIES
@pytest.mark.parametrize("name", ERRORS)
def test_about_a_flow(scene: Scene, name: str, family: int) -> None:
    data = udp("alpha", "beta", 0x1F00, family=family)
    complaint = _error(name, "beta", "alpha", data, family)
    assert scene.from_workload("mfp2", frame(complaint)) == Reason.POLICY_EGRESS
    assert scene.from_workload("mfp1", frame(data)) == LOCAL
    assert scene.from_workload("mfp2", frame(complaint)) == LOCAL
    assert scene.rig.flow_count() == (1, 0), "an error opens no flow, and answers none"


@FAMILIES
def test_about_a_flow_to_another_node(scene: Scene, family: int) -> None:
    data = udp("alpha", "far", 9, family=family)
    complaint = _error("unreachable", "far", "alpha", data, family)
    assert scene.from_overlay("mfwg00", complaint) == Reason.POLICY_INGRESS
    assert scene.from_workload("mfp1", frame(data)) == NODE
    assert scene.from_overlay("mfwg00", complaint) == LOCAL


@FAMILIES
def test_about_an_echo(scene: Scene, family: int) -> None:
    data = echo("alpha", "beta", family)
    assert scene.from_workload("mfp1", frame(data)) == LOCAL
    assert scene.from_workload("mfp2", frame(_error("unreachable", "beta", "alpha", data, family))) == LOCAL


@FAMILIES
@pytest.mark.parametrize("name", ERRORS)
def test_about_an_established_connection_both_ways(scene: Scene, name: str, family: int) -> None:
    """A router's or the other end's: alpha hears of what it said, and beta of what it said."""
    asks = tcp("alpha", "beta", 8080, "A", family=family)
    says = tcp("beta", "alpha", 40000, "SA", sport=8080, family=family)
    for device, data in (("mfp1", tcp("alpha", "beta", 8080, family=family)), ("mfp2", says), ("mfp1", asks)):
        assert scene.from_workload(device, frame(data)) == LOCAL
    assert scene.from_workload("mfp2", frame(_error(name, "beta", "alpha", asks, family))) == LOCAL
    assert scene.from_workload("mfp1", frame(_error(name, "alpha", "beta", says, family))) == LOCAL
    assert scene.rig.flow_count() == (0, 1)


@FAMILIES
@pytest.mark.parametrize("length", [8, 12])
def test_the_quote_may_be_short(scene: Scene, family: int, length: int) -> None:
    """RFC 792 asks for 8 octets of the transport header, no more."""
    data = tcp("alpha", "beta", 8080, family=family)
    assert scene.from_workload("mfp1", frame(data)) == LOCAL
    quoted = data[: (20 if family == V4 else 40) + length]
    assert scene.from_workload("mfp2", frame(_error("unreachable", "beta", "alpha", quoted, family))) == LOCAL


UNRELATED: dict[str, Callable[[int], bytes]] = {
    "another port": lambda family: udp("alpha", "beta", 0x1F01, family=family),
    "its own packet": lambda family: udp("beta", "alpha", 40000, sport=0x1F00, family=family),
    "a packet to somebody else": lambda family: udp("alpha", "guest", 0x1F00, family=family),
    "cut short": lambda family: udp("alpha", "beta", 0x1F00, family=family)[:-1],
    "nothing": lambda family: b"",
}


@FAMILIES
@pytest.mark.parametrize("name", UNRELATED)
def test_about_no_flow(scene: Scene, name: str, family: int) -> None:
    for listener in ("beta", "guest"):
        assert scene.from_workload("mfp1", frame(udp("alpha", listener, 0x1F00, family=family))) == LOCAL
    complaint = _error("unreachable", "beta", "alpha", UNRELATED[name](family), family)
    assert scene.from_workload("mfp2", frame(complaint)) == Reason.POLICY_EGRESS


def test_about_a_flow_that_is_to_be_judged_again(scene: Scene) -> None:
    data = udp("alpha", "beta", 0x1F00)
    assert scene.from_workload("mfp1", frame(data)) == LOCAL
    scene.change(lambda world: None, ALPHA)
    complaint = frame(_error("unreachable", "beta", "alpha", data, V4))
    assert scene.from_workload("mfp2", complaint) == Reason.POLICY_EGRESS
    assert scene.from_workload("mfp1", frame(data)) == LOCAL
    assert scene.from_workload("mfp2", complaint) == LOCAL


def test_about_a_flow_that_is_over(scene: Scene) -> None:
    data = udp("alpha", "beta", 0x1F00)
    assert scene.from_workload("mfp1", frame(data)) == LOCAL
    scene.age(121)
    complaint = frame(_error("unreachable", "beta", "alpha", data, V4))
    assert scene.from_workload("mfp2", complaint) == Reason.POLICY_EGRESS


def test_other_icmp_is_judged_every_time(scene: Scene) -> None:
    """A timestamp request opens nothing: its type is its port."""
    request = frame(bytes(ip("alpha", "beta") / ICMP(type=13)))
    assert scene.from_workload("mfp1", request) == Reason.POLICY_INGRESS
    scene.change(
        lambda world: world.rules.append(
            Rule(ID_BETA, ID_ALPHA, Direction.INGRESS, protocol=fabric.ICMP, port=13, port_bits=16)
        )
    )
    assert scene.from_workload("mfp1", request) == LOCAL
    assert scene.rig.flow_count() == (0, 0)
