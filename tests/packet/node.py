"""A node of one piece, for packets on the move: devices with the programs on them, and who is behind.

    alpha (pod) --mfp1--+                          +-- mfwg00 (TUN, held by the test)
    beta  (pod) --mfp2--+-- the node's programs ---+
    guest (TAP, held by the test) --mfp3-----------+-- mfwg01 (TUN, held by the test)

Pods are namespaces with real sockets: what their kernels do not take for theirs
does not arrive. They learn the gateway's link address from the programs, where they
have link addresses. A `bridged` pod has its interface in a bridge, which has the
pod's addresses and MAC.
"""

import fcntl
import os
import select
import socket
import struct
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

from meshfabric.kernel import links
from meshfabric.kernel.attach import attach, pin_name
from meshfabric.kernel.bpf import Direction
from meshfabric.kernel.bpf_link import is_netkit
from meshfabric.kernel.pairs import PairKind
from meshfabric.model import tables
from meshfabric.model.tables import PathState, Reason
from tests.features import requires
from tests.packet import outside
from tests.packet import world as fabric
from tests.packet.arena import Arena, Namespace
from tests.packet.frames import V4, V6, address
from tests.patience import DEADLINE_S

SOCKET = {V4: socket.AF_INET, V6: socket.AF_INET6}
TUNSETIFF, IFF_TUN, IFF_TAP, IFF_NO_PI = 0x400454CA, 1, 2, 0x1000
ETH_P_ALL, LARGEST = 3, 65536
TRUSTED, MANY = 10, 10
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
PORT_MAC = "02:6d:66:bb:00:01"  # of an interface whose own the bridge took
TUNNELS = ("mfwg00", "mfwg01")


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
        self.datapath = stack.enter_context(place.load({"recent": 262144}, outside.SETTINGS))
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
        ip(pod, "link set eth0 up")
        for family, prefix, gateway in ((V4, "32", "169.254.1.1"), (V6, "128", "fe80::6d66")):
            ip(pod, f"-{family} addr add {address(name, family)}/{prefix} dev {inner}")
            ip(pod, f"link set {inner} up")
            ip(pod, f"-{family} route add default via {gateway} dev {inner} onlink")
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
        open_probes = MANY if unanswered_ns else 0
        state = PathState(unanswered_ns, sent=open_probes, streak=TRUSTED, ifindex=self.ifindex[tunnel])
        self.datapath.maps["paths"].update(tables.number(index), tables.path_value(state))

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


def ip(where: Namespace, words: str) -> None:
    """Run ip(8) there."""
    where.run(subprocess.run, ["ip", *words.split()], check=True, capture_output=True)


def _bridge(pod: Namespace, mac: str) -> str:
    """Put the interface into a bridge that takes its MAC, as a virtual machine in a pod does."""
    ip(pod, f"link add {BRIDGE} type bridge")
    ip(pod, f"link set eth0 address {PORT_MAC} master {BRIDGE}")
    ip(pod, f"link set {BRIDGE} address {mac}")
    return BRIDGE


def kinds() -> list[ParameterSet]:
    """Parameters for each kind of pair and each way to attach, with what they need of the kernel."""
    return [
        pytest.param(
            of_kind, id=name, marks=requires(*{of_kind[-1], *({"netkit"} if "netkit" in name else ())})
        )
        for name, of_kind in KINDS.items()
    ]
