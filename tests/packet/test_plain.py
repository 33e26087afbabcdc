"""Without encryption: who may send to the port, what comes in by which uplink, and who it was.

What the kernel's device adds and tells is tried with real ones:

    alpha (pod) --mfp1-- the programs --mfpl00--> up0 ==== eth0: the far node's address, and a stranger's
"""

import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Raw

from meshfabric.compiler.plain import FIRST_VNI, plain_vni
from meshfabric.kernel import attach, links, vxlan
from meshfabric.kernel.bpf import Direction
from meshfabric.model import tables
from meshfabric.model.addresses import parse_address
from meshfabric.model.tables import Reason
from tests.features import requires
from tests.packet.arena import Namespace, arena
from tests.packet.frames import V4, V6, address, tcp, udp
from tests.packet.node import KINDS, SOCKET, Node, ip
from tests.packet.oracle import NEXT, SHOT
from tests.packet.outside import PLAIN_MARK, PLAIN_PORT
from tests.packet.rig import MARK, Rig, Run, Scene
from tests.packet.world import FAR
from tests.patience import DEADLINE_S, until

FAMILIES = pytest.mark.parametrize("family", [V4, V6], ids=["v4", "v6"])
UNDERLAYS = pytest.mark.parametrize("outer", [V4, V6], ids=["over v4", "over v6"])
NEAR = {V4: "192.0.2.1", V6: "2001:db8::1"}
THERE = {V4: "192.0.2.2", V6: "2001:db8::2"}
STRANGER = {V4: "192.0.2.3", V6: "2001:db8::3"}
DEVICE = "mfwg00"  # of a rig; what it is called does not matter to a program
ANOTHER_MARK = 7
GPE = struct.Struct("!BxxBI")  # flags, next protocol, VNI (draft-ietf-nvo3-vxlan-gpe, 3.1)
GIVEN = 0x0C  # that there are a VNI and a next protocol
PROTOCOL = {V4: 1, V6: 2}
TABLE, RULE = 19780, f"rule add fwmark {PLAIN_MARK} table 19780"


def header(vni: int, family: int) -> bytes:
    return GPE.pack(GIVEN, PROTOCOL[family], vni << 8)


def outer(family: int, vni: int, to: str, tag: bool = False) -> bytes:
    """A frame to a link address."""
    link = Ether(src="02:00:00:00:00:01", dst=to)
    network = (IP if family == V4 else IPv6)(src=THERE[family], dst=NEAR[family])
    body = UDP(sport=9, dport=PLAIN_PORT) / Raw(header(vni, V4) + bytes(40))
    return bytes((link / Dot1Q(vlan=5) if tag else link) / network / body)


def came(scene: Scene, device: str, family: int, vni: int, tag: bool = False, cut: int = 0) -> Run:
    """What becomes of a frame that comes by a device, to that one's address; `cut` bytes are missing."""
    data = outer(family, vni, scene.rig.arena.run(links.mac_of, device), tag)
    return scene.rig.run("from_uplink", data[: len(data) - cut], device, mark=ANOTHER_MARK)


@FAMILIES
@pytest.mark.parametrize("remote", [0, 7])
def test_what_comes_by_the_right_uplink_is_marked(scene: Scene, family: int, remote: int) -> None:
    run = came(scene, "up0", family, plain_vni(0, remote))
    assert (run.action, run.mark, run.counted) == (NEXT, PLAIN_MARK, {})


ELSEWHERE = {
    "another uplink": ("up1", plain_vni(0, 0), Reason.WRONG_UPLINK),
    "an uplink that is not the fabric's": ("stray0", plain_vni(0, 3), Reason.WRONG_UPLINK),
    "an uplink that encrypts": ("up1", plain_vni(1, 0), Reason.STRANGER),
}


@FAMILIES
@pytest.mark.parametrize("name", ELSEWHERE)
def test_what_comes_elsewhere_is_dropped(scene: Scene, name: str, family: int) -> None:
    device, vni, reason = ELSEWHERE[name]
    run = came(scene, device, family, vni)
    assert (run.action, run.reason) == (SHOT, reason)


def test_what_is_cut_short_is_dropped(scene: Scene) -> None:
    run = came(scene, "up0", V4, plain_vni(0, 0), cut=40 + 4)
    assert (run.action, run.reason) == (SHOT, Reason.MALFORMED)


def test_what_is_for_a_vlan_or_another_machine_is_not_marked(scene: Scene) -> None:
    tagged = came(scene, "up0", V4, plain_vni(0, 0), tag=True)
    overheard = scene.rig.run(
        "from_uplink", outer(V4, plain_vni(0, 0), "02:00:00:00:00:02"), "up0", mark=ANOTHER_MARK
    )
    assert (tagged.action, tagged.mark) == (overheard.action, overheard.mark) == (NEXT, ANOTHER_MARK)


def sent(family: int, port: int) -> dict[str, bytes]:
    """Frames to a port, in the ways that a process can bring about."""
    link = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    body = UDP(sport=9, dport=port) / Raw(bytes(64))
    if family == V4:
        network = IP(src=NEAR[V4], dst=THERE[V4])
        return {"whole": bytes(link / network / body), "first fragment": bytes(link / network.copy() / body)}
    network = IPv6(src=NEAR[V6], dst=THERE[V6])
    first = link / network.copy() / IPv6ExtHdrFragment(nh=17, m=1, id=5) / body
    return {"whole": bytes(link / network / body), "first fragment": bytes(first)}


@FAMILIES
@pytest.mark.parametrize("what", ["whole", "first fragment"])
def test_only_the_fabric_sends_to_the_port(scene: Scene, what: str, family: int) -> None:
    data = sent(family, PLAIN_PORT)[what]
    for mark in (0, ANOTHER_MARK, PLAIN_MARK - 1, PLAIN_MARK + 8):
        run = scene.rig.run("to_uplink", data, "up0", mark=mark)
        assert (run.action, run.reason) == (SHOT, Reason.NOT_FROM_FABRIC)
    ours = scene.rig.run("to_uplink", data, "up0", mark=PLAIN_MARK)
    assert (ours.action, ours.mark, ours.counted) == (NEXT, PLAIN_MARK, {})
    another = scene.rig.run("to_uplink", sent(family, PLAIN_PORT + 1)[what], "up0")
    assert (another.action, another.counted) == (NEXT, {})


def test_a_later_fragment_has_no_port(scene: Scene) -> None:
    link = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    later = IPv6ExtHdrFragment(nh=17, offset=9, id=5)
    frame = link / IPv6(src=NEAR[V6], dst=THERE[V6]) / later / UDP(sport=9, dport=PLAIN_PORT)
    assert scene.rig.run("to_uplink", bytes(frame), "up0").action == NEXT


@contextmanager
def leading(rig: Rig, family: int, slot: int = 0) -> Iterator[None]:
    """The device leads to the far node."""
    key = tables.plain_key(rig.ifindex[DEVICE], FAR)
    remote, local = parse_address(THERE[family]), parse_address(NEAR[family])
    rig.maps["plain_ends"].update(key, tables.plain_value(remote, local, FIRST_VNI, PLAIN_MARK + slot))
    try:
        yield
    finally:
        rig.maps["plain_ends"].delete_batch([key])


@UNDERLAYS
@FAMILIES
def test_a_packet_is_addressed_and_gets_the_mark_of_its_uplink(scene: Scene, family: int, outer: int) -> None:
    data = tcp("alpha", "far", 80, family=family)
    with leading(scene.rig, outer):
        run = scene.rig.run("to_plain", data, DEVICE, mark=MARK, told=len(data), place=FAR)
    assert (run.action, run.mark, run.packet, run.counted) == (NEXT, PLAIN_MARK, data, {})


@FAMILIES
def test_a_packet_to_nowhere_or_by_an_uplink_that_encrypts_is_dropped(scene: Scene, family: int) -> None:
    data = tcp("alpha", "far", 80, family=family)
    lost = scene.rig.run("to_plain", data, DEVICE, mark=MARK, told=len(data), place=FAR)
    assert (lost.action, lost.reason) == (SHOT, Reason.NO_PATH)
    with leading(scene.rig, V4, slot=1):
        kept = scene.rig.run("to_plain", data, DEVICE, mark=MARK, told=len(data), place=FAR)
    assert (kept.action, kept.reason) == (SHOT, Reason.NO_PATH)


@FAMILIES
def test_only_what_these_programs_send_enters(scene: Scene, family: int) -> None:
    data = tcp("alpha", "far", 80, family=family)
    with leading(scene.rig, V4):
        stopped = scene.rig.run("to_plain", data, DEVICE, mark=PLAIN_MARK, told=len(data), place=FAR)
        assert (stopped.action, stopped.reason) == (SHOT, Reason.NOT_FROM_FABRIC)
        bent = scene.rig.run("to_plain", data, DEVICE, mark=MARK, told=len(data) - 1, place=FAR)
        assert (bent.action, bent.reason) == (SHOT, Reason.MALFORMED)


@FAMILIES
def test_what_no_device_took_in_is_a_strangers(scene: Scene, family: int) -> None:
    """A packet of a test-run has no outer addresses."""
    with leading(scene.rig, V4):
        run = scene.rig.run("from_plain", tcp("far", "beta", 80, family=family), DEVICE, mark=PLAIN_MARK)
    assert (run.action, run.reason) == (SHOT, Reason.STRANGER)
    assert scene.rig.flow_count() == (0, 0)


class Wire:
    """The drawing above; `there` is at the other end of the uplink."""

    def __init__(self, node: Node, stack: ExitStack) -> None:
        self.node, self.there = node, Namespace()
        stack.callback(self.there.close)
        node.place.run(self._plug_in)
        for family in (V4, V6):
            for one in (THERE, STRANGER):
                ip(
                    self.there,
                    f"addr add {one[family]}/{ {V4: 24, V6: 64}[family] } dev eth0 {nodad(family)}",
                )
        ip(self.there, "link set eth0 up")
        self.ifindex = {name: self._index(name) for name in ("up0", "mfpl00")}
        node.place.run(self._attach)
        ip(node.place, "link set up0 up")
        ip(node.place, "link set mfpl00 up")
        self._route()

    def lead(self, outer: int) -> None:
        """The far node is reached by the device."""
        maps, key = self.node.datapath.maps, tables.plain_key(self.ifindex["mfpl00"], FAR)
        remote, local = parse_address(THERE[outer]), parse_address(NEAR[outer])
        maps["plain_ends"].update(key, tables.plain_value(remote, local, plain_vni(0, 0), PLAIN_MARK))
        maps["uplinks"].update(tables.number(0), tables.uplink_value(self.ifindex["up0"]))
        maps["nodes"].update(tables.number(0), tables.node_value([(self.ifindex["mfpl00"], 0)]))

    def socket(self, where: Namespace, family: int, source: str, port: int = 0) -> socket.socket:
        """A UDP socket there."""

        def make() -> socket.socket:
            made = socket.socket(SOCKET[family], socket.SOCK_DGRAM)
            made.bind((source, port))
            made.settimeout(DEADLINE_S)
            return made

        return where.run(make)

    def _plug_in(self) -> None:
        links.ensure_pod_pair("veth", "up0", "eth0", self.there.netns, "02:00:00:00:00:02", 1500)
        vxlan.ensure_vxlan("mfpl00", PLAIN_PORT, plain_vni(0, 0))
        links.ensure_sysctls("mfpl00", links.FABRIC_SYSCTLS)

    def _index(self, name: str) -> int:
        found = self.node.place.run(links.find, name)
        assert found is not None
        return found.index

    def _attach(self) -> None:
        for name, kind in (("up0", "uplink"), ("mfpl00", "plain")):
            for program, direction in ((f"from_{kind}", Direction.INGRESS), (f"to_{kind}", Direction.EGRESS)):
                pin = self.node.place.pins / "links" / attach.pin_name(name, direction)
                attach.attach(self.node.datapath.programs[program], self.ifindex[name], direction, pin)

    def _route(self) -> None:
        """By the table of the mark, and no other way."""
        for family, length in ((V4, 24), (V6, 64)):
            to = f"{NEAR[family]}/{length} dev up0 noprefixroute {nodad(family)}"
            ip(self.node.place, f"addr add {to}")
            ip(self.node.place, f"-{family} {RULE}")
            network = {V4: "192.0.2.0/24", V6: "2001:db8::/64"}[family]
            ip(self.node.place, f"-{family} route add {network} dev up0 table {TABLE}")


def nodad(family: int) -> str:
    """Not to wait for an address."""
    return "nodad" if family == V6 else ""


@pytest.fixture(scope="module")
def built() -> Iterator[Wire]:
    requires("vxlan")
    with arena() as other, ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        way = attach.way()
        patch.setattr(attach, "way", lambda: way)
        yield Wire(Node(other, stack, KINDS["veth"]), stack)


@pytest.fixture
def wire(built: Wire, outer: int) -> Wire:
    built.node.reset()
    built.lead(outer)
    return built


@UNDERLAYS
@FAMILIES
def test_a_pods_packet_goes_to_the_far_uplink(wire: Wire, family: int, outer: int) -> None:
    there = wire.socket(wire.there, outer, THERE[outer], PLAIN_PORT)
    with wire.node.udp("alpha", family, 40000) as alpha, there:
        alpha.sendto(b"question", (address("far", family), 9))
        data, peer = there.recvfrom(2000)
    assert peer[0] == NEAR[outer]
    assert data.startswith(header(plain_vni(0, 0), family))
    assert data[GPE.size] >> 4 == family
    assert data.endswith(b"question")


@UNDERLAYS
@FAMILIES
def test_what_the_far_uplink_sends_arrives_and_what_a_stranger_sends_does_not(
    wire: Wire, family: int, outer: int
) -> None:
    def answer(number: int) -> bytes:
        inner = udp("far", "alpha", 40000, number, sport=9, family=family)
        return header(plain_vni(0, 0), family) + inner

    there, stranger = (wire.socket(wire.there, outer, one[outer]) for one in (THERE, STRANGER))
    with wire.node.udp("alpha", family, 40000) as alpha, there, stranger:
        alpha.sendto(b"question", (address("far", family), 9))
        before = wire.node.count(Reason.STRANGER)
        stranger.sendto(answer(3), (NEAR[outer], PLAIN_PORT))
        until(lambda: wire.node.count(Reason.STRANGER) == before + 1)
        there.sendto(answer(5), (NEAR[outer], PLAIN_PORT))
        assert alpha.recv(100) == bytes(range(5))
    assert wire.node.count(Reason.STRANGER) == before + 1


@UNDERLAYS
def test_a_nodes_place_is_bound_to_its_own_uplink(wire: Wire, outer: int) -> None:
    """The right address, and a packet of another node's."""
    inner = udp("away", "alpha", 40000, 5, sport=9)
    before = wire.node.count(Reason.STRANGER)
    with wire.socket(wire.there, outer, THERE[outer]) as there:
        there.sendto(header(plain_vni(0, 0), V4) + inner, (NEAR[outer], PLAIN_PORT))
        until(lambda: wire.node.count(Reason.STRANGER) == before + 1)
