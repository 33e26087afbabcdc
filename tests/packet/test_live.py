"""Programs on devices, packets on the move: what a test-run cannot show.

    alpha (pod) --mfp1--+                          +-- mfwg00 (TUN, held by the test)
    beta  (pod) --mfp2--+-- the node's programs ---+
    guest (TAP, held by the test) --mfp3-----------+-- mfwg01 (TUN, held by the test)

Pods are namespaces with real sockets: what their kernels do not take for theirs
does not arrive. They learn the gateway's link address from the programs, where they
have link addresses. All runs once for each kind of pair and each way to attach; a
`bridged` pod has its interface in a bridge, which has the pod's addresses and MAC.
"""

import errno
import fcntl
import os
import select
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from socket import if_nametoindex

import pytest
from _pytest.mark import ParameterSet

from meshfabric.kernel import attach as attaching
from meshfabric.kernel import links
from meshfabric.kernel.attach import attach, pin_name
from meshfabric.kernel.bpf import Direction, Link
from meshfabric.kernel.bpf_link import is_netkit
from meshfabric.kernel.loader import load
from meshfabric.kernel.pairs import PairKind
from meshfabric.model import tables
from meshfabric.model.tables import PATH, Reason
from tests.features import requires
from tests.packet import world as fabric
from tests.packet.arena import Arena, Namespace, arena, compile_extra
from tests.packet.frames import POD_MAC, V4, V6, address, frame, tcp, udp
from tests.packet.oracle import Oracle
from tests.packet.test_neighbour import _advertisement as advertisement
from tests.packet.test_neighbour import _request as arp_request
from tests.packet.test_neighbour import _solicitation as solicitation
from tests.patience import DEADLINE_S

FAMILIES = pytest.mark.parametrize("family", [V4, V6], ids=["v4", "v6"])
SOCKET = {V4: socket.AF_INET, V6: socket.AF_INET6}
TUNSETIFF, IFF_TUN, IFF_TAP, IFF_NO_PI = 0x400454CA, 1, 2, 0x1000
ETH_P_ALL, LARGEST = 3, 65536
EXTENDED_ERROR = struct.Struct("=IBBBBII")  # struct sock_extended_err (ip(7)); who said it follows
PMTUDISC_DO = 2
SOL_PACKET, PACKET_AUXDATA, CHECKSUM_NOT_READY = 263, 8, 8  # linux/if_packet.h
TRUSTED, MINUTE_NS = 10, 60 * 10**9
PODS = {"alpha": "mfp1", "beta": "mfp2"}
PLACES = {"alpha": fabric.ALPHA, "beta": fabric.BETA}
KINDS = {  # of alpha's and beta's pair, beside the way that all else hangs by
    "veth": ("veth", "veth", "tcx"),
    "veth, clsact": ("veth", "veth", "clsact"),
    "bridged veth": ("bridged veth", "bridged veth", "tcx"),
    "netkit": ("netkit", "netkit", "tcx"),
    "netkit to veth": ("netkit", "veth", "tcx"),
    "veth to netkit": ("veth", "netkit", "tcx"),
    "bridged netkit": ("bridged netkit", "bridged netkit", "tcx"),
}
BRIDGE = "br0"
GUILE = Path(__file__).with_name("guile.bpf.c")
PORT_MAC = "02:6d:66:bb:00:01"  # of an interface whose own the bridge took
TUNNELS = ("mfwg00", "mfwg01")
PORT = 0x1F00


class Queue:
    """The far end of a TUN or TAP: what the device sends is read here, what is written it receives."""

    def __init__(self, name: str, kind: int) -> None:
        self.fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        fcntl.ioctl(self.fd, TUNSETIFF, struct.pack("=16sH22x", name.encode(), kind | IFF_NO_PI))

    def read(self) -> bytes:
        """The next packet; fails when none comes."""
        ready, _, _ = select.select([self.fd], [], [], DEADLINE_S)
        assert ready, "nothing came out"
        return os.read(self.fd, LARGEST)

    def is_empty(self) -> bool:
        """Nothing is waiting."""
        return not select.select([self.fd], [], [], 0)[0]

    def write(self, packet: bytes) -> None:
        """Let the device receive it."""
        os.write(self.fd, packet)


class Node:
    """The drawing above, in an arena."""

    def __init__(self, place: Arena, stack: ExitStack, kinds: tuple[str, ...]) -> None:
        self.place, self.world = place, fabric.standard()
        self.kinds = dict(zip(PODS, kinds, strict=False))
        self.datapath = stack.enter_context(place.load({"recent": 262144}))
        self.pods = {name: self._pod(name, device, stack) for name, device in PODS.items()}
        self.tunnels = {name: place.run(Queue, name, IFF_TUN) for name in TUNNELS}
        self.guest = place.run(Queue, "mfp3", IFF_TAP)
        self.ifindex = {name: self._up(name) for name in (*PODS.values(), "mfp3", *TUNNELS)}
        self.ifindex |= {"mfhost1": 0, "up0": 0, "up1": 0}
        self.tables = fabric.Tables(self.datapath.maps, self.ifindex)
        place.run(self._attach)

    def _pod(self, name: str, device: str, stack: ExitStack) -> Namespace:
        pod = Namespace()
        stack.callback(pod.close)
        self.place.run(self._pair, name, device, pod.netns)
        inner = _bridge(pod, self.world.workloads[PLACES[name]].mac) if self.is_bridged(name) else "eth0"
        pod.run(links.ensure_sysctls, inner, links.POD_SYSCTLS)
        _ip(pod, "link set eth0 up")
        for family, prefix, gateway in ((V4, "32", "169.254.1.1"), (V6, "128", "fe80::6d66")):
            _ip(pod, f"-{family} addr add {address(name, family)}/{prefix} dev {inner}")
            _ip(pod, f"link set {inner} up")
            _ip(pod, f"-{family} route add default via {gateway} dev {inner} onlink")
        return pod

    def asks(self, name: str) -> bool:
        """Whether the pod has link addresses, and wants the gateway's."""
        return self.kinds[name] != "netkit"

    def is_bridged(self, name: str) -> bool:
        """Whether the pod's interface is in a bridge."""
        return self.kinds[name].startswith("bridged")

    def _pair(self, name: str, device: str, netns: Path) -> None:
        kind: PairKind = "netkit" if self.kinds[name].endswith("netkit") else "veth"
        mac = self.world.workloads[PLACES[name]].mac
        links.ensure_pod_pair(kind, device, "eth0", netns, mac, fabric.POD_MTU, bridged=self.is_bridged(name))

    def _up(self, name: str) -> int:
        self.place.run(links.ensure_sysctls, name, links.FABRIC_SYSCTLS)
        self.place.run(links.set_up, name)
        found = self.place.run(links.find, name)
        assert found is not None
        return found.index

    def _attach(self) -> None:
        for name, index in self.ifindex.items():
            if index:
                kind = "overlay" if name in TUNNELS else "workload"
                source = "netkit" if is_netkit(index) else kind
                for program, direction in (
                    (f"from_{source}", Direction.INGRESS),
                    (f"to_{kind}", Direction.EGRESS),
                ):
                    pin = self.place.pins / "links" / pin_name(name, direction)
                    attach(self.datapath.programs[program], index, direction, pin)

    def reset(self) -> None:
        """The standard world, no flows, both tunnels to each node healthy, nothing waiting anywhere."""
        self.world = fabric.standard()
        for name, pod in self.pods.items():
            mac = pod.run(links.mac_of, BRIDGE if self.is_bridged(name) else "eth0")
            self.world.workloads[PLACES[name]].mac = mac
        self.tables.write(self.world)
        for name in ("flows", "new_flows"):
            self.datapath.maps[name].delete_batch(list(self.datapath.maps[name].keys()))
        for index, tunnel in enumerate(TUNNELS):
            self.set_path(index, tunnel)
        for queue in (*self.tunnels.values(), self.guest):
            while not queue.is_empty():
                queue.read()

    def set_path(self, index: int, tunnel: str, unanswered_ns: int = 0) -> None:
        """A path to `far` that answered, and may have stopped to."""
        state = PATH.pack(unanswered_ns, 0, 0, 0, 0, 0, 0, TRUSTED, 0, self.ifindex[tunnel])
        self.datapath.maps["paths"].update(tables.number(index), state)

    def count(self, reason: Reason) -> int:
        """Packets under this reason so far."""
        reasons = self.datapath.maps["reasons"]
        return tables.read_counter(reasons.percpu(tables.number(reason)))[0]

    def udp(self, name: str, family: int, port: int) -> socket.socket:
        """A socket of a pod, bound to its address."""

        def make() -> socket.socket:
            made = socket.socket(SOCKET[family], socket.SOCK_DGRAM)
            made.bind((address(name, family), port))
            made.settimeout(DEADLINE_S)
            return made

        return self.pods[name].run(make)

    def raw(self, name: str, device: str) -> socket.socket:
        """A packet socket on a device of a pod, or of the node."""

        def make() -> socket.socket:
            made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
            made.bind((device, 0))
            return made

        return self.pods.get(name, self.place).run(make)


def _ip(where: Namespace, words: str) -> None:
    where.run(subprocess.run, ["ip", *words.split()], check=True, capture_output=True)


def _bridge(pod: Namespace, mac: str) -> str:
    """Put the interface into a bridge that takes its MAC, as a virtual machine in a pod does."""
    _ip(pod, f"link add {BRIDGE} type bridge")
    _ip(pod, f"link set eth0 address {PORT_MAC} master {BRIDGE}")
    _ip(pod, f"link set {BRIDGE} address {mac}")
    return BRIDGE


def _kinds() -> list[ParameterSet]:
    return [
        pytest.param(kinds, id=name, marks=requires(*{kinds[-1], *({"netkit"} if "netkit" in name else ())}))
        for name, kinds in KINDS.items()
    ]


@pytest.fixture(scope="module", params=_kinds())
def built(place: Arena, request: pytest.FixtureRequest) -> Iterator[Node]:
    """One node for all tests of this file, in an arena of its own; `place` has built the programs."""
    with arena() as other, ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(attaching, "way", lambda: request.param[-1])
        yield Node(other, stack, request.param)


@pytest.fixture
def node(built: Node) -> Node:
    """As if nothing had been said."""
    built.reset()
    return built


def _until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.001)


@FAMILIES
def test_pod_to_pod_and_back(node: Node, family: int) -> None:
    """The first packet has the kernel ask for the gateway's link address."""
    with node.udp("alpha", family, 40000) as alpha, node.udp("beta", family, PORT) as beta:
        alpha.sendto(b"question", (address("beta", family), PORT))
        data, peer = beta.recvfrom(100)
        assert (data, peer[0]) == (b"question", address("alpha", family))
        beta.sendto(b"answer", peer)
        assert alpha.recv(100) == b"answer"
    assert (node.count(Reason.NEIGHBOUR_ANSWERED) > 0) is any(map(node.asks, PODS))


@FAMILIES
def test_pod_to_another_node_and_back(node: Node, family: int) -> None:
    far = address("far", family)
    with node.udp("alpha", family, 40000) as alpha:
        alpha.sendto(b"question", (far, 9))
        sent = node.tunnels["mfwg00"].read()
        assert sent[0] >> 4 == family
        assert sent.endswith(b"question")
        node.tunnels["mfwg00"].write(udp("far", "alpha", 40000, 5, sport=9, family=family))
        assert alpha.recv(100) == bytes(range(5))


def test_the_next_tunnel_takes_over(node: Node) -> None:
    with node.udp("alpha", V4, 40000) as alpha:
        for number, (silent, wanted) in enumerate(((False, "mfwg00"), (True, "mfwg01"), (False, "mfwg00"))):
            node.set_path(0, "mfwg00", time.monotonic_ns() - MINUTE_NS if silent else 0)
            alpha.sendto(bytes([number]), (address("far"), 9))
            assert node.tunnels[wanted].read()[-1] == number
    assert all(queue.is_empty() for queue in node.tunnels.values())


@FAMILIES
def test_a_guest_behind_its_tap(node: Node, family: int) -> None:
    with node.udp("alpha", family, 40000) as alpha:
        alpha.sendto(b"question", (address("guest", family), 53))
        data = node.guest.read()
        macs = (node.world.workloads[fabric.GUEST].mac + fabric.GATEWAY_MAC).replace(":", "")
        assert data[:12].hex() == macs
        assert data.endswith(b"question")
        node.guest.write(frame(udp("guest", "alpha", 40000, 3, sport=53, family=family)))
        assert alpha.recv(100) == bytes(range(3))


def test_a_guest_asks_for_the_gateway(node: Node) -> None:
    node.guest.write(arp_request())
    assert node.guest.read()[20:22] == b"\0\2"
    node.guest.write(solicitation())
    assert node.guest.read() == advertisement("fe80::aa", POD_MAC, 1)


def test_out_of_a_tunnel_to_a_guest(node: Node) -> None:
    node.tunnels["mfwg01"].write(udp("far", "guest", 53, 7))
    data = node.guest.read()
    wanted = Oracle(node.world).from_overlay(udp("far", "guest", 53, 7))
    assert data == wanted.packet


DROPPED: dict[str, tuple[bytes, Reason]] = {
    "a tag": (
        bytes.fromhex("026d6600000102aabbccddee81000005") + frame(udp("alpha", "beta", PORT))[12:],
        Reason.NOT_IP,
    ),
    "denied": (frame(tcp("alpha", "beta", 22)), Reason.POLICY_INGRESS),
    "spoofed": (frame(udp("far", "beta", PORT)), Reason.SPOOFED_SOURCE),
}


@pytest.mark.parametrize("name", DROPPED)
def test_what_a_pod_sends_and_nobody_gets(node: Node, name: str) -> None:
    data, reason = DROPPED[name]
    before = node.count(reason)
    with node.raw("alpha", "eth0") as wire:
        wire.send(data)
    _until(lambda: node.count(reason) == before + 1, f"{reason.name} is not counted")


@FAMILIES
def test_frames_too_short_for_their_header(node: Node, family: int) -> None:
    """A test-run wants more bytes than a wire brings."""
    whole = frame(udp("alpha", "beta", PORT, family=family))
    shorter = range(14, 14 + (20 if family == V4 else 40))
    before = node.count(Reason.MALFORMED)
    with node.raw("alpha", "eth0") as wire:
        for length in shorter:
            wire.send(whole[:length])
    _until(lambda: node.count(Reason.MALFORMED) == before + len(shorter), "some are not counted")


@requires("tcx")
def test_where_a_pod_says_that_its_header_begins_does_not_matter(node: Node, tmp_path: Path) -> None:
    """Judged is what follows the Ethernet header: that goes into the tunnel, or nothing does."""
    judged, hidden = udp("alpha", "far", 9), address("nobody")
    before = node.count(Reason.MALFORMED)
    with _guile(node, tmp_path, "shift", frame(judged)), node.udp("alpha", V4, 40000) as alpha:
        alpha.sendto(b"hidden", (hidden, 9))
        if node.kinds["alpha"].endswith("netkit"):
            _until(lambda: node.count(Reason.MALFORMED) == before + 1, "it is not counted")
            assert node.tunnels["mfwg00"].is_empty()
        else:
            assert node.tunnels["mfwg00"].read().startswith(judged)


@requires("tcx")
@FAMILIES
def test_a_tag_beside_the_frame_is_seen(node: Node, tmp_path: Path, family: int) -> None:
    before = node.count(Reason.NOT_IP)
    with _guile(node, tmp_path, "tag"), node.udp("alpha", family, 40000) as alpha:
        alpha.sendto(b"question", (address("far", family), 9))
        _until(lambda: node.count(Reason.NOT_IP) > before, "it is not counted")
    assert node.tunnels["mfwg00"].is_empty()


@contextmanager
def _guile(node: Node, folder: Path, name: str, front: bytes = bytes(42)) -> Iterator[None]:
    """This program of guile.bpf.c has its way with what alpha sends; `shift` puts `front` before it."""
    built = compile_extra(GUILE, folder)
    pod, out = node.pods["alpha"], Direction.EGRESS
    index = pod.run(if_nametoindex, "eth0")
    with (
        node.place.run(load, [built], node.place.pins / "guile", None, {"front": front}) as made,
        pod.run(Link.create, made.programs[name], index, out) as link,
    ):
        yield
        link.detach()


ERRORS = {
    "too big": (2000, 64, (errno.EMSGSIZE, {V4: (3, 4), V6: (2, 0)}, 1380)),
    "hops used up": (20, 1, (errno.EHOSTUNREACH, {V4: (11, 0), V6: (3, 0)}, 0)),
}


@FAMILIES
@pytest.mark.parametrize("name", ERRORS)
@pytest.mark.parametrize("receiver", ["far", "beta"])
def test_a_pods_kernel_learns_why_its_packet_goes_nowhere(
    node: Node, receiver: str, name: str, family: int
) -> None:
    """By ICMP from the gateway, which it takes for true; IPv6 and `too big` tell it of the MTU, too."""
    size, hops, (number, kinds, info) = ERRORS[name]
    node.world.nodes[fabric.FAR].mtu = fabric.POD_MTU
    node.tables.write(node.world)
    with _wide(node, "alpha"), node.udp("alpha", family, 40000) as alpha:
        _prepare_for_errors(alpha, family, hops)
        alpha.sendto(bytes(size), (address(receiver, family), PORT))
        assert select.select([alpha], [], [], DEADLINE_S)[0], "nothing was said"
        _, ancillary, _, _ = alpha.recvmsg(LARGEST, 512, socket.MSG_ERRQUEUE)
    told, _, kind, code, _, mtu, _ = EXTENDED_ERROR.unpack_from(ancillary[0][2])
    assert (told, (kind, code), mtu) == (number, kinds[family], info)
    offender = ancillary[0][2][EXTENDED_ERROR.size :]
    at, length = (4, 4) if family == V4 else (8, 16)
    assert socket.inet_ntop(SOCKET[family], offender[at : at + length]) == address("gateway", family)


@FAMILIES
def test_no_checksum_in_a_complaint_is_left_to_a_device(node: Node, family: int) -> None:
    """Of what a pod sends it may be, and would be completed in the midst of the quote."""
    with node.raw("alpha", "eth0") as wire, node.udp("alpha", family, 40000) as alpha:
        wire.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        wire.settimeout(DEADLINE_S)
        _prepare_for_errors(alpha, family, 1)
        alpha.sendto(b"a datagram", (address("far", family), 9))
        unfinished: dict[bool, bool] = {}
        while len(unfinished) < 2:
            data, [(_, _, told)], _, (_, _, kind, *_) = wire.recvmsg(LARGEST, 64)
            if b"a datagram" in data:
                unfinished[kind == socket.PACKET_OUTGOING] = bool(
                    int.from_bytes(told[:4], sys.byteorder) & CHECKSUM_NOT_READY
                )
    assert unfinished == {True: True, False: False}, "sent is what is to be completed, heard is not"


@contextmanager
def _wide(node: Node, name: str) -> Iterator[None]:
    """The pod may send larger packets than others take."""
    pod, device = node.pods[name], PODS[name]
    inner = ["eth0", *([BRIDGE] if node.is_bridged(name) else [])]

    def widen(mtu: int) -> None:
        node.place.run(links.set_mtu, device, mtu)
        for one in inner:
            pod.run(links.set_mtu, one, mtu)

    widen(9000)
    try:
        yield
    finally:
        widen(fabric.POD_MTU)
        for family in (V4, V6):
            _ip(pod, f"-{family} route flush cache")


def _prepare_for_errors(link: socket.socket, family: int, hops: int) -> None:
    """Nothing is cut up, and the socket keeps what it is told (ip(7), ipv6(7))."""
    level = socket.IPPROTO_IP if family == V4 else socket.IPPROTO_IPV6
    numbers = (10, 11, socket.IP_TTL) if family == V4 else (23, 25, socket.IPV6_UNICAST_HOPS)
    for option, value in zip(numbers, (PMTUDISC_DO, 1, hops), strict=True):
        link.setsockopt(level, option, value)


@FAMILIES
def test_a_guest_is_told_as_well(node: Node, family: int) -> None:
    data = frame(udp("guest", "far", 53, 1400, sport=PORT, family=family))
    node.world.nodes[fabric.FAR].mtu = fabric.POD_MTU
    node.tables.write(node.world)
    node.guest.write(data)
    assert node.guest.read() == Oracle(node.world).from_workload("mfp3", data).packet


@pytest.mark.parametrize("device", ["mfp1", "mfp3", "mfwg00"])
def test_what_the_node_itself_sends_stays_out(node: Node, device: str) -> None:
    packet = udp("alpha", "guest", 53)
    data = packet if device in TUNNELS else frame(packet)
    before = node.count(Reason.NOT_FROM_FABRIC)
    with node.raw("the node", device) as wire, pytest.raises(OSError, match="No buffer space"):
        wire.send(data)
    assert node.count(Reason.NOT_FROM_FABRIC) > before
    assert node.guest.is_empty()
    assert node.tunnels["mfwg00"].is_empty()
