"""Who reroutes: the fabric, its agents running, stopped or killed, and other routers; all on the same lab.

Each has a lab of its own while it is measured, raised from one description: nodes,
segments, pods and etcd are the same, only the agents are not there when another
router does the work. `routers` has what those are told; this module runs them.
"""

import contextlib
import signal
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

from bench.failures import NODES
from bench.routers import POD_DEVICE, Link, Router, Side, routers
from meshfabric.lab import agents, build, state, status, topology, underlay
from meshfabric.lab.process import Process, last_line, run, spawn
from meshfabric.lab.records import Port, Topology
from meshfabric.lab.state import Lab
from meshfabric.lab.tools import environment
from meshfabric.lab.workloads import DEVICE
from meshfabric.model.errors import PermanentError

LAB = "reroute"
PODS = ("one/left", "two/right")
PACKAGES = Path(__file__).parents[1] / "build" / "peers"
POD_NET = "10.77"
ROLE = "router"
_LIBRARIES = ("usr/lib/*-linux-gnu", "usr/lib/*-linux-gnu/frr")
_FRR_GROUP = """
# FRR insists on a group of its own; the node's mounts are its own, so nobody else sees this one.
{ cat /etc/group; echo "frrvty:x:64999:root"; } >"$1/group"
mount -n --bind "$1/group" /etc/group
"""
_FORWARD = "echo 1 >/proc/sys/net/ipv4/ip_forward"
START_S = 10.0
_POLL_S = 0.02


class Contender(Protocol):
    """Somebody who keeps traffic flowing between the two pods."""

    @property
    def title(self) -> str:
        """For the table."""

    def raised(self) -> contextlib.AbstractContextManager[Lab]:
        """A lab with it at work, ended afterwards."""

    def addresses(self, lab: Lab) -> tuple[str, str]:
        """Those of the two pods."""


class Fabric(NamedTuple):
    """Ours; `number` is sent to all agents once all is well."""

    title: str
    number: signal.Signals | None = None

    @contextlib.contextmanager
    def raised(self) -> Iterator[Lab]:
        """A lab with agents, which may be stopped or dead by then."""
        lab = build.up(described(), LAB)
        try:
            for node in NODES if self.number else ():
                agents.kill_agent(lab, node, self.number or 0)
            yield lab
        finally:
            build.down(LAB)

    def addresses(self, lab: Lab) -> tuple[str, str]:
        """As the agents gave them."""
        left, right = (next(iter(status.addresses(lab, pod))) for pod in PODS)
        return left, right


class Other(NamedTuple):
    """Another router instead of the agents."""

    title: str
    router: Router

    @contextlib.contextmanager
    def raised(self) -> Iterator[Lab]:
        """A lab without agents, a router in each node."""
        try:
            with state.locked(LAB) as folder:
                lab = build.raise_nodes(described(), LAB, folder, lambda step: None)
            for number, node in enumerate(NODES):
                side = _side(lab, number)
                _plug_pod(lab, number, side)
                _start(lab, node, side, self.router)
            yield lab
        finally:
            build.down(LAB)

    def addresses(self, lab: Lab) -> tuple[str, str]:
        """As `_plug_pod` gave them."""
        return _pod_address(0), _pod_address(1)


def contenders() -> dict[str, Contender]:
    """All, by the name on the command line; ours first."""
    found: dict[str, Contender] = {
        "ours": Fabric("meshfabric, probes 10 ms"),
        "ours-stopped": Fabric("meshfabric, agents stopped", signal.SIGSTOP),
        "ours-killed": Fabric("meshfabric, agents killed", signal.SIGKILL),
    }
    return found | {name: Other(router.title, router) for name, router in routers().items()}


def check(wanted: Iterable[Contender]) -> None:
    """Raise `PermanentError` if one of them is not to be had on this machine."""
    if any(isinstance(one, Other) for one in wanted) and not PACKAGES.is_dir():
        raise PermanentError("there are no routers to compare with", place=str(PACKAGES), remedy="make peers")


def described() -> Topology:
    """The lab of all contenders."""
    return topology.read(Path(__file__).with_name("reroute.yaml").read_text(), "reroute.yaml")


def _side(lab: Lab, number: int) -> Side:
    """What the router of a node is told of it."""
    links = []
    for segment in lab.topology.segments:
        near, far = (str(port.addresses[0].ip) for port in _from(NODES[number], lab, segment.name))
        device = next(
            one.name for one in lab.topology.node(NODES[number]).uplinks if one.segment == segment.name
        )
        links.append(Link(device, near, far))
    net = f"{POD_NET}.{number}"
    return Side(number, f"{net}.0/24", f"{net}.1", tuple(links))


def _from(node: str, lab: Lab, segment: str) -> list[Port]:
    """Both ports of a segment, the node's own first."""
    return sorted(lab.topology.ports(segment), key=lambda port: port.node != node)


def _plug_pod(lab: Lab, number: int, side: Side) -> None:
    """A pod's card, as any container has it."""
    node, pod = lab.node(NODES[number]), build.target(lab, PODS[number])
    run(node, ["sh", "-euc", _FORWARD])
    card = f"link add {POD_DEVICE} type veth peer name {DEVICE} netns {pod.pid}"
    underlay.ip(node, [card, f"address add {side.gateway}/24 dev {POD_DEVICE}", f"link set {POD_DEVICE} up"])
    address = f"address add {_pod_address(number)}/24 dev {DEVICE}"
    underlay.ip(pod, [address, f"link set {DEVICE} up", f"route add default via {side.gateway}"])


def _pod_address(number: int) -> str:
    return f"{POD_NET}.{number}.2"


def _start(lab: Lab, node: str, side: Side, router: Router) -> None:
    """Write its files and start its programs, each when the one before is ready."""
    folder, log = lab.node_folder(node), lab.log(ROLE, node)
    for name, text in router.files(side).items():
        (folder / name).write_text(text)
    run(lab.node(node), ["sh", "-euc", _FRR_GROUP, "sh", str(folder)])
    libraries = [str(path) for pattern in _LIBRARIES for path in PACKAGES.glob(pattern)]
    env = environment() | {"LD_LIBRARY_PATH": ":".join(libraries)}
    for command in router.commands:
        argv = [str(PACKAGES / command.program), *command.arguments.replace("{}", str(folder)).split()]
        process = spawn(argv, log, into=lab.node(node), env=env)
        _wait_ready(process, folder / command.ready, log)


def _wait_ready(process: Process, ready: Path, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while not ready.exists():
        if not process.alive or time.monotonic() > deadline:
            said = last_line(log.read_text(errors="replace"))
            raise PermanentError(f"a router does not start: {said}", place=str(log))
        time.sleep(_POLL_S)
