"""Two nodes of one piece, without agents: programs, pods, token loops, and two wires for tunnels.

    pod 10.77.0.1 --mfp1-- one --mfwg00-- wire --mfwg00-- two --mfp1-- pod 10.77.1.1
                            | --mfwg01-- wire --mfwg01-- |
                          token                        token

A wire is a thread that reads from one TUN and writes to the other. It can be cut,
both ways or one, with no sign of it at either end.
"""

import contextlib
import os
import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from socket import if_nametoindex

from meshfabric.kernel import delays, links
from meshfabric.kernel.attach import attach, pin_name
from meshfabric.kernel.bpf import Direction
from meshfabric.model import tables
from meshfabric.model.plan import Delay
from meshfabric.model.tables import PathState, TokenState
from meshfabric.probe.starter import EMPTY, ETH_P_IP, PACKET_QDISC_BYPASS, SOL_PACKET
from tests.packet import world as fabric
from tests.packet.arena import Namespace, arena
from tests.packet.node import IFF_TUN, LARGEST, TUNNELS, Queue, ip
from tests.patience import PATIENCE

INTERVAL_MS = round(10 * PATIENCE)
NS_PER_MS = 1_000_000
POD, HOST, FAR = 1, 2, tables.FIRST_NODE
LOOP = ("mftick0", "mftick1")
SETTINGS = {
    "probe_interval_ns": (INTERVAL_MS * NS_PER_MS).to_bytes(8, "little"),
    "probe_grace_ns": NS_PER_MS.to_bytes(8, "little"),
    "loss_limit": bytes(4),
    "longest_hold_ns": bytes(8),  # the same paths are cut again and again
}
ENDS = {0: "10.77.0", 1: "10.77.1"}
TICK_S = 0.001
SMALL = {"recent": 262144, "flows": 1024, "new_flows": 1024}


class Side:
    """One of the two; `number` is 0 or 1."""

    def __init__(self, stack: ExitStack, number: int, queue: str) -> None:
        self.number, self.queue = number, queue
        self.place = stack.enter_context(arena())
        self.datapath = stack.enter_context(self.place.load(SMALL, SETTINGS))
        self.pod = self._pod(stack)
        self.tunnels = [self.place.run(Queue, name, IFF_TUN) for name in TUNNELS]
        self.ifindex = {name: self._up(name) for name in ("mfp1", *TUNNELS)} | {"mfhost1": 0}
        fabric.Tables(self.datapath.maps, self.ifindex).write(self._world())
        self.place.run(self._attach)
        self.place.run(self.make_loop)

    def address(self, name: str) -> str:
        """Of `pod` or `host`."""
        return f"{ENDS[self.number]}.{POD if name == 'pod' else HOST}"

    def _world(self) -> fabric.World:
        own, far = ENDS[self.number], ENDS[1 - self.number]
        identities = (fabric.ID_ALPHA, fabric.ID_HOST, fabric.ID_FAR)
        mac = self.pod.run(links.mac_of, "eth0")
        return fabric.World(
            workloads={
                POD: fabric.Workload("mfp1", identities[0], mac),
                HOST: fabric.Workload("mfhost1", identities[1], fabric.GATEWAY_MAC),
            },
            nodes={FAR: fabric.Node(list(TUNNELS), probed=(f"{own}.{HOST}", f"{far}.{HOST}"))},
            addresses={
                f"{own}.{POD}": fabric.Owner(identities[0], POD),
                f"{own}.{HOST}": fabric.Owner(identities[1], HOST),
                f"{far}.0/24": fabric.Owner(identities[2], FAR),
            },
            rules=fabric.both(identities[0], fabric.ANY),
            generations={POD: 1, HOST: 1, FAR: 1},
            host=HOST,
        )

    def _pod(self, stack: ExitStack) -> Namespace:
        pod = Namespace()
        stack.callback(pod.close)
        mac = f"02:6d:66:01:00:0{self.number + 1}"
        self.place.run(links.ensure_pod_pair, "veth", "mfp1", "eth0", pod.netns, mac, fabric.POD_MTU)
        pod.run(links.ensure_sysctls, "eth0", links.POD_SYSCTLS)
        ip(pod, "link set eth0 up")
        ip(pod, f"addr add {ENDS[self.number]}.{POD}/32 dev eth0")
        ip(pod, "route add default via 169.254.1.1 dev eth0 onlink")
        return pod

    def _up(self, name: str) -> int:
        self.place.run(links.ensure_sysctls, name, links.FABRIC_SYSCTLS)
        self.place.run(links.set_up, name)
        return self.place.run(if_nametoindex, name)

    def _attach(self) -> None:
        for name in ("mfp1", *TUNNELS):
            kind = "overlay" if name in TUNNELS else "workload"
            self._hang(f"from_{kind}", name, Direction.INGRESS)
            self._hang(f"to_{kind}", name, Direction.EGRESS)

    def _hang(self, program: str, device: str, direction: Direction) -> None:
        pin = self.place.pins / "links" / pin_name(device, direction)
        attach(self.datapath.programs[program], if_nametoindex(device), direction, pin)

    def make_loop(self) -> None:
        """As the agent does, repeating it too; to be called in the node's thread."""
        out, into = LOOP
        delays.make(out, Delay(into, INTERVAL_MS), self.queue)
        self._hang("tick", into, Direction.INGRESS)
        links.set_up(into)
        value = tables.loop_value(if_nametoindex(out), if_nametoindex(into))
        self.datapath.maps["loop"].update(tables.number(0), value)

    def start(self) -> None:
        """As the agent does now and then."""
        self.send(EMPTY, tables.FABRIC_MARK)

    def send(self, frame: bytes, mark: int = 0) -> None:
        """A frame into the loop, past its queue."""

        def send() -> None:
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as link:
                link.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
                link.setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, 1)
                link.sendto(frame, (LOOP[0], ETH_P_IP))

        self.place.run(send)

    def count(self, reason: tables.Reason) -> int:
        """Packets under this reason so far."""
        reasons = self.datapath.maps["reasons"]
        return tables.read_counter(reasons.percpu(tables.number(reason)))[0]

    @property
    def token(self) -> TokenState:
        """What paces its probes."""
        return tables.read_token(self.datapath.maps["token"].lookup(tables.number(0)) or b"")

    def path(self, index: int) -> PathState:
        """The state of one of the two tunnels."""
        return tables.read_path(self.datapath.maps["paths"].lookup(tables.number(index)) or b"")

    def udp(self, port: int) -> socket.socket:
        """A socket of the pod's, which never waits."""

        def make() -> socket.socket:
            made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            made.bind((self.address("pod"), port))
            made.setblocking(False)
            return made

        return self.pod.run(make)


class Duo:
    """The drawing above."""

    def __init__(self, stack: ExitStack, queue: str) -> None:
        self.sides = [Side(stack, number, queue) for number in ENDS]
        self.cut: set[tuple[int, int]] = set()
        """Wires that carry nothing, with the number of the side that sends into them."""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._carry, name="wires", daemon=True)
        self._thread.start()
        stack.callback(self._end)

    def cut_wire(self, wire: int, senders: tuple[int, ...] = (0, 1)) -> None:
        """Nothing that these sides send into it arrives."""
        self.cut |= {(wire, side) for side in senders}

    def heal(self) -> None:
        """Both wires carry everything."""
        self.cut = set()

    def _carry(self) -> None:
        ends = {
            side.tunnels[wire].fd: (wire, side.number, self.sides[1 - side.number].tunnels[wire].fd)
            for side in self.sides
            for wire in range(len(TUNNELS))
        }
        while not self._over.is_set():
            for fd in select.select(list(ends), [], [], TICK_S * 100)[0]:
                wire, sender, out = ends[fd]
                with contextlib.suppress(BlockingIOError):
                    packet = os.read(fd, LARGEST)
                    if (wire, sender) not in self.cut:
                        os.write(out, packet)

    def _end(self) -> None:
        self._over.set()
        self._thread.join()


class Stream:
    """A datagram each millisecond from one pod to the other, by a thread of its own."""

    def __init__(self, duo: Duo, source: int, port: int) -> None:
        near, far = duo.sides[source], duo.sides[1 - source]
        self._near, self._far = near.udp(port), far.udp(port)
        self._to = (far.address("pod"), port)
        self._name = os.urandom(4)  # what an earlier one said may still be on its way
        self.sent_s: list[float] = []
        self.heard: set[int] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stream", daemon=True)
        self._thread.start()

    def passes(self) -> bool:
        """Whether what was sent a moment ago has arrived."""
        newest = max(self.heard, default=-1)
        return newest >= 0 and time.monotonic() - self.sent_s[newest] < TICK_S * 20

    def came_back(self) -> bool:
        """Whether something was lost, and what was sent after it arrives."""
        return len(self.heard) <= max(self.heard, default=-1) and self.passes()

    @property
    def lost(self) -> int:
        """How many did not arrive before one that did."""
        return max(self.heard, default=-1) + 1 - len(self.heard)

    @property
    def outage_ms(self) -> float:
        """The longest time in which what was sent did not arrive."""
        heard = sorted(self.heard)
        gaps = [(one, other) for one, other in pairwise(heard) if other > one + 1]
        return max((self.sent_s[other] - self.sent_s[one] for one, other in gaps), default=0.0) * 1000

    def _run(self) -> None:
        due = time.monotonic()
        while not self._over.is_set():
            with contextlib.suppress(BlockingIOError, OSError):
                self._near.sendto(self._name + len(self.sent_s).to_bytes(4, "big"), self._to)
            self.sent_s.append(time.monotonic())
            self._hear()
            due = max(due + TICK_S, time.monotonic() - TICK_S)
            time.sleep(max(due - time.monotonic(), 0))

    def _hear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                said = self._far.recv(LARGEST)
                if said.startswith(self._name):
                    self.heard.add(int.from_bytes(said[len(self._name) :], "big"))

    def close(self) -> None:
        """End it."""
        self._over.set()
        self._thread.join()
        self._near.close()
        self._far.close()


@contextlib.contextmanager
def streaming(duo: Duo) -> Iterator[tuple[Stream, Stream]]:
    """Both ways, while the context lasts."""
    both = Stream(duo, 0, 7001), Stream(duo, 1, 7002)
    try:
        yield both
    finally:
        for one in both:
            one.close()
