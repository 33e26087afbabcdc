"""The gateway that is nowhere: who asks for its link address gets it, from the program itself."""

from collections.abc import Callable
from typing import Any

import pytest
from scapy.layers.inet6 import (
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
)
from scapy.layers.l2 import ARP, Ether

from meshfabric.model.tables import Reason
from tests.packet.frames import POD_MAC, address
from tests.packet.oracle import REDIRECT, SHOT
from tests.packet.rig import MARK, Scene
from tests.packet.world import GATEWAY_MAC

GATEWAY4, GATEWAY6 = "169.254.1.1", "fe80::6d66"
SOLICITED_NODE, SOLICITED_MAC = "ff02::1:ff00:6d66", "33:33:ff:00:6d:66"
ALL_NODES, ALL_NODES_MAC = "ff02::1", "33:33:00:00:00:01"
BROADCAST = "ff:ff:ff:ff:ff:ff"
LINK_LOCAL = "fe80::aa"


def _request(**fields: Any) -> bytes:
    defaults = {"op": 1, "hwsrc": POD_MAC, "psrc": address("alpha"), "pdst": GATEWAY4}
    return bytes(Ether(src=POD_MAC, dst=BROADCAST) / ARP(**{**defaults, **fields}))


ASKED: dict[str, dict[str, Any]] = {
    "by broadcast": {},
    "before it has an address": {"psrc": "0.0.0.0"},
    "with the answer's field filled": {"hwdst": "02:00:00:00:00:77"},
}


@pytest.mark.parametrize("name", ASKED)
def test_arp_for_the_gateway(scene: Scene, name: str) -> None:
    fields = ASKED[name]
    run = scene.rig.run("from_workload", _request(**fields), "mfp1")
    assert (run.action, run.reason, run.mark) == (REDIRECT, Reason.NEIGHBOUR_ANSWERED, MARK)
    asker = fields.get("psrc", address("alpha"))
    assert run.packet == bytes(
        Ether(src=GATEWAY_MAC, dst=POD_MAC)
        / ARP(op=2, hwsrc=GATEWAY_MAC, psrc=GATEWAY4, hwdst=POD_MAC, pdst=asker)
    )


def test_padding_comes_back(scene: Scene) -> None:
    run = scene.rig.run("from_workload", _request() + bytes(18), "mfp1")
    assert run.reason == Reason.NEIGHBOUR_ANSWERED
    assert len(run.packet) == 60


IGNORED: dict[str, Callable[[], bytes]] = {
    "for another address": lambda: _request(pdst="10.77.0.2"),
    "for its own address": lambda: _request(pdst=address("alpha")),
    "an answer": lambda: _request(op=2, psrc=GATEWAY4),
    "another link type": lambda: _request(hwtype=6),
    "another protocol": lambda: _request(ptype=0x86DD),
}


@pytest.mark.parametrize("name", IGNORED)
def test_other_arp_stays_on_its_link(scene: Scene, name: str) -> None:
    run = scene.rig.run("from_workload", IGNORED[name](), "mfp1")
    assert (run.action, run.reason) == (SHOT, Reason.LINK_SCOPE)


def test_arp_cut_anywhere(scene: Scene) -> None:
    whole = _request()
    for length in range(14, len(whole)):
        assert scene.rig.run("from_workload", whole[:length], "mfp1").reason == Reason.MALFORMED


def _solicitation(
    source: str = LINK_LOCAL,
    destination: str = SOLICITED_NODE,
    target: str = GATEWAY6,
    hlim: int = 255,
    code: int = 0,
) -> bytes:
    mac = SOLICITED_MAC if destination.startswith("ff") else GATEWAY_MAC
    layers = Ether(src=POD_MAC, dst=mac) / IPv6(src=source, dst=destination, hlim=hlim)
    layers = layers / ICMPv6ND_NS(tgt=target, code=code)
    return bytes(layers if source == "::" else layers / ICMPv6NDOptSrcLLAddr(lladdr=POD_MAC))


def _advertisement(destination: str, mac: str, solicited: int) -> bytes:
    """Written out whole: scapy computes the checksum (RFC 4443, 2.3)."""
    return bytes(
        Ether(src=GATEWAY_MAC, dst=mac)
        / IPv6(src=GATEWAY6, dst=destination, hlim=255)
        / ICMPv6ND_NA(tgt=GATEWAY6, R=1, S=solicited, O=1)
        / ICMPv6NDOptDstLLAddr(lladdr=GATEWAY_MAC)
    )


SOLICITED: dict[str, tuple[bytes, bytes]] = {
    "by multicast": (_solicitation(), _advertisement(LINK_LOCAL, POD_MAC, 1)),
    "from a fabric address": (_solicitation("fd77::1"), _advertisement("fd77::1", POD_MAC, 1)),
    "by unicast, to see if it is still there": (
        _solicitation(destination=GATEWAY6),
        _advertisement(LINK_LOCAL, POD_MAC, 1),
    ),
    "by somebody who wants the address": (_solicitation("::"), _advertisement(ALL_NODES, ALL_NODES_MAC, 0)),
}


@pytest.mark.parametrize("name", SOLICITED)
def test_solicitation_for_the_gateway(scene: Scene, name: str) -> None:
    question, answer = SOLICITED[name]
    run = scene.rig.run("from_workload", question, "mfp1")
    assert (run.action, run.reason, run.mark) == (REDIRECT, Reason.NEIGHBOUR_ANSWERED, MARK)
    assert run.packet == answer


UNSOLICITED: dict[str, bytes] = {
    "for another address": _solicitation(target="fd77::2", destination="ff02::1:ff00:2"),
    "through a router": _solicitation(hlim=254),
    "with a code": _solicitation(code=1),
    "without a target": bytes(
        Ether(src=POD_MAC, dst=SOLICITED_MAC) / IPv6(src=LINK_LOCAL, dst=SOLICITED_NODE, hlim=255, nh=58)
    )
    + b"\x87\0\0\0\0\0\0\0",
    "for a router": bytes(
        Ether(src=POD_MAC, dst="33:33:00:00:00:02") / IPv6(src=LINK_LOCAL, dst="ff02::2") / ICMPv6ND_RS()
    ),
}


@pytest.mark.parametrize("name", UNSOLICITED)
def test_other_discovery_stays_on_its_link(scene: Scene, name: str) -> None:
    data = bytearray(UNSOLICITED[name])
    data[18:20] = (len(data) - 54).to_bytes(2, "big")
    run = scene.rig.run("from_workload", bytes(data), "mfp1")
    assert (run.action, run.reason) == (SHOT, Reason.LINK_SCOPE)
