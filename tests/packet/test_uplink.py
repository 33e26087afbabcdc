"""The wire: no fabric address in clear, no tunnel on another's uplink, and nothing else touched."""

from collections.abc import Callable
from typing import Any

import pytest
from scapy.layers.inet import IP, UDP, IPOption_NOP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Raw

from meshfabric.model.tables import Reason
from tests.packet.frames import V4, V6, address
from tests.packet.oracle import NEXT, SHOT
from tests.packet.rig import Scene
from tests.packet.world import World

UNDERLAY = {V4: ("192.0.2.1", "192.0.2.2"), V6: ("2001:db8::1", "2001:db8::2")}
PORT_BASE, SLOTS = 51820, 8
PROGRAMS = {"to_uplink": Reason.CLEAR_EGRESS, "from_uplink": Reason.CLEAR_INGRESS}
EITHER_WAY = pytest.mark.parametrize("program", PROGRAMS)
FAMILIES = pytest.mark.parametrize("family", [V4, V6], ids=["v4", "v6"])
TAGS: dict[str, Callable[[], Any]] = {
    "untagged": lambda: _ethernet(),
    "tagged": lambda: _ethernet() / Dot1Q(vlan=5),
    "service tag": lambda: _ethernet(0x88A8) / Dot1Q(vlan=5),
}


def _ethernet(kind: int | None = None) -> Any:
    """With MACs, which scapy would else ask the network for."""
    fields = {} if kind is None else {"type": kind}
    return Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02", **fields)


def _ip(family: int, source: str, destination: str, **fields: Any) -> Any:
    return (IP if family == V4 else IPv6)(src=source, dst=destination, **fields)


def _encrypted(family: int, port: int, **fields: Any) -> bytes:
    """A WireGuard keepalive to `port`."""
    return bytes(
        _ethernet() / _ip(family, *UNDERLAY[family], **fields) / UDP(sport=9, dport=port) / Raw(bytes(32))
    )


@EITHER_WAY
@FAMILIES
@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("end", ["source", "destination", "both"])
def test_a_fabric_address_in_clear(scene: Scene, program: str, family: int, tag: str, end: str) -> None:
    here, there = UNDERLAY[family]
    source = here if end == "destination" else address("alpha", family)
    destination = there if end == "source" else address("far", family)
    data = bytes(TAGS[tag]() / _ip(family, source, destination) / UDP())
    run = scene.rig.run(program, data, "up0")
    assert (run.action, run.reason) == (SHOT, PROGRAMS[program])


PASSED: dict[str, bytes] = {
    "the underlay's own": bytes(_ethernet() / IP(src="192.0.2.1", dst="198.51.100.7") / UDP()),
    "the underlay's own, v6": bytes(_ethernet() / IPv6(src="2001:db8::1", dst="2001:db8:9::7") / UDP()),
    "just below the prefix": bytes(_ethernet() / IP(src="10.76.255.255", dst="10.76.0.1") / UDP()),
    "just above the prefix": bytes(_ethernet() / IP(src="10.78.0.0", dst="10.78.0.1") / UDP()),
    "just above the prefix, v6": bytes(_ethernet() / IPv6(src="fd77:1::", dst="fd78::1") / UDP()),
    "encrypted": _encrypted(V4, PORT_BASE),
    "encrypted, v6": _encrypted(V6, PORT_BASE + 7),
    "ARP": bytes(_ethernet() / ARP(hwsrc="02:00:00:00:00:01", psrc="10.77.0.1", pdst="10.77.0.2")),
    "no IP": bytes(_ethernet(0x88CC) / Raw(bytes(46))),
    "two tags": bytes(
        _ethernet(0x88A8) / Dot1Q(vlan=5) / Dot1Q(vlan=6) / IP(src="192.0.2.1", dst="192.0.2.2")
    ),
    "an Ethernet header and nothing more": bytes(_ethernet(0x88CC)),
}


@EITHER_WAY
@pytest.mark.parametrize("name", PASSED)
def test_all_else_goes_on_to_others(scene: Scene, program: str, name: str) -> None:
    run = scene.rig.run(program, PASSED[name], "up0", mark=77)
    assert (run.action, run.counted, run.mark) == (NEXT, {}, 77)
    assert run.packet == PASSED[name]


@EITHER_WAY
def test_without_prefixes_nothing_is_ours(scene: Scene, program: str) -> None:
    scene.change(lambda world: setattr(world, "prefixes", ()))
    data = bytes(_ethernet() / IP(src=address("alpha"), dst=address("far")) / UDP())
    assert scene.rig.run(program, data, "up0").action == NEXT


def test_as_many_prefixes_as_there_may_be(scene: Scene) -> None:
    def edit(world: World) -> None:
        world.prefixes = (*(f"10.{number}.0.0/16" for number in range(1, 8)), "fd99::/16")

    scene.change(edit)
    for source, reason in (("10.7.0.1", Reason.CLEAR_EGRESS), ("10.8.0.1", None)):
        data = bytes(_ethernet() / IP(src=source, dst="192.0.2.2"))
        assert scene.rig.run("to_uplink", data, "up0").reason == reason
    data = bytes(_ethernet() / IPv6(src="fd99::1", dst="2001:db8::1"))
    assert scene.rig.run("to_uplink", data, "up0").reason == Reason.CLEAR_EGRESS


@FAMILIES
@pytest.mark.parametrize("device", ["up0", "up1"])
@pytest.mark.parametrize("remote", [0, 7])
@pytest.mark.parametrize("local", [0, 1, 2, 7])
@pytest.mark.parametrize("generation", [0, 1])
def test_a_tunnel_belongs_to_one_uplink(
    scene: Scene, family: int, device: str, generation: int, local: int, remote: int
) -> None:
    port = PORT_BASE + (generation * SLOTS + local) * SLOTS + remote
    run = scene.rig.run("from_uplink", _encrypted(family, port), device)
    if device == f"up{local}":
        assert (run.action, run.counted) == (NEXT, {})
    else:
        assert (run.action, run.reason) == (SHOT, Reason.WRONG_UPLINK)


@pytest.mark.parametrize("port", [PORT_BASE - 1, PORT_BASE + 2 * SLOTS * SLOTS, 53, 65535, 0])
def test_other_ports_are_none_of_ours(scene: Scene, port: int) -> None:
    assert scene.rig.run("from_uplink", _encrypted(V4, port), "up1").counted == {}


WRONG = PORT_BASE + SLOTS  # of up1
SHAPES: dict[str, tuple[bytes, Reason | None]] = {
    "IPv4 options": (_encrypted(V4, WRONG, options=[IPOption_NOP()] * 8), Reason.WRONG_UPLINK),
    "a first fragment": (_encrypted(V4, WRONG, flags="MF"), Reason.WRONG_UPLINK),
    "a later fragment": (_encrypted(V4, WRONG, frag=5), None),
    "another protocol": (_encrypted(V4, WRONG, proto=6), None),
    "another protocol, v6": (_encrypted(V6, WRONG, nh=6), None),
    "tagged": (
        bytes(_ethernet() / Dot1Q(vlan=5) / IP(src="192.0.2.1", dst="192.0.2.2") / UDP(dport=WRONG)),
        Reason.WRONG_UPLINK,
    ),
    "cut before the port": (_encrypted(V4, WRONG)[:36], None),
}


@pytest.mark.parametrize("name", SHAPES)
def test_where_the_port_is(scene: Scene, name: str) -> None:
    data, reason = SHAPES[name]
    assert scene.rig.run("from_uplink", data, "up0").reason == reason


@EITHER_WAY
@FAMILIES
def test_cut_anywhere_behind_the_addresses(scene: Scene, program: str, family: int) -> None:
    data = bytes(_ethernet() / _ip(family, address("alpha", family), UNDERLAY[family][1]) / UDP())
    for length in range(14 + (20 if family == V4 else 40), len(data)):
        assert scene.rig.run(program, data[:length], "up0").reason == PROGRAMS[program]
