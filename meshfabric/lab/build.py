"""Raises a lab and ends it: everything that `topology` describes, or nothing at all.

    up:    check ─> init ─> segments ─> nodes ─> impair ─> etcd ─> records ─> agents ─> workloads ─> ready
                      any error or Ctrl-C on the way ends all of it again
    down:  kill the lab init ─> remove the folder

Owns the order of things; each thing is owned by the module of its name. All
processes of a lab live in the pid namespace of its init: killing that one ends
them, the kernel removes namespaces, devices and mounts with them.
"""

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from meshfabric.lab import agents, etcd, impair, nodes, state, tools, underlay, workloads
from meshfabric.lab.process import Process, enter
from meshfabric.lab.records import Topology, Workload
from meshfabric.lab.state import DEFAULT_NAME, Lab
from meshfabric.lab.topology import UNDERLAY
from meshfabric.model.errors import InputError, PermanentError

Progress = Callable[[str], None]
"""Called with each step in words, as it begins."""

RUN_TIMEOUT_S = 60.0
_FOLDERS = ("logs", "processes", "nodes", "etcd")


def up(
    topology: Topology,
    name: str = DEFAULT_NAME,
    progress: Progress = lambda step: None,
    *,
    keep: bool = False,
) -> Lab:
    """Raise a whole lab and return when every agent is ready and every workload attached.

    Raises `PermanentError` without root, when a lab of that name runs or a tool
    is missing. Whatever is raised, also `KeyboardInterrupt`, nothing is left,
    unless `keep` asks for what stood by then, to look into it.
    """
    tools.check()
    impair.check(topology)
    with state.locked(name) as folder:
        _make_way(name, folder)
        try:
            lab = raise_nodes(topology, name, folder, progress)
            start_agents(lab, progress)
            attach_workloads(lab, progress)
            return _ready(lab)
        except BaseException:  # Ctrl-C, too
            if not keep:
                _tear_down(name, folder)
            raise


def down(name: str = DEFAULT_NAME) -> bool:
    """End a lab, whole, half-raised or crashed, and remove every trace; False if there was none."""
    folder = state.folder_of(name)
    if not folder.exists():
        return False
    with state.locked(name) as folder:
        existed = any(folder.iterdir())
        _tear_down(name, folder)
        return existed


def raise_nodes(topology: Topology, name: str, folder: Path, progress: Progress) -> Lab:
    """The first half of `up`: everything that needs no agent. The folder is locked and empty."""
    for part in _FOLDERS:
        (folder / part).mkdir(mode=0o700)
    progress(f"segments {', '.join(segment.name for segment in topology.segments)}")
    lab = underlay.start_init(name, topology, folder / "logs" / "init")
    underlay.make_segments(lab)
    for node in topology.nodes:
        progress(f"node {node.name}")
        nodes.raise_node(lab, node.name)
    for workload in topology.workloads:
        progress(f"{workload.kind} {workload.name} on {workload.node}")
        workloads.raise_workload(lab, workload)
    for segment in topology.segments:
        impair.impair_as_described(lab, segment.name)
    progress("etcd")
    etcd.start_etcd(lab)
    progress("prefixes, allocations and grants")
    etcd.put(lab, etcd.first_records(lab))
    return lab


def start_agents(lab: Lab, progress: Progress, timeout_s: float = agents.READY_TIMEOUT_S) -> None:
    """Start all agents at once, then wait for each."""
    for node in lab.topology.nodes:
        agents.start_agent(lab, node.name)
    for node in lab.topology.nodes:
        progress(f"agent of {node.name}")
        agents.wait_ready(lab, node.name, timeout_s)


def attach_workloads(lab: Lab, progress: Progress, timeout_s: float = workloads.ATTACH_TIMEOUT_S) -> None:
    """Let the agents attach what runs on their nodes, each within the time."""
    for workload in lab.topology.workloads:
        progress(f"attaching {workload.name}")
        workloads.attach(lab, workload, timeout_s)


def target(lab: Lab, where: str) -> Process:
    """The process whose namespaces `NODE`, `NODE/WORKLOAD` or `underlay` means; `InputError` if none."""
    if where == UNDERLAY:
        return lab.init
    node, _, workload = where.partition("/")
    return lab.workload(node, workload) if workload else lab.node(node)


def run(
    lab: Lab, where: str, argv: Sequence[str], *, stdin: str = "", timeout_s: float = RUN_TIMEOUT_S
) -> subprocess.CompletedProcess[str]:
    """Run a command on a node, in a workload or in the underlay; its status and output, never raised.

    Raises `InputError` for an unknown place, `subprocess.TimeoutExpired` in time.
    """
    return subprocess.run(
        enter(target(lab, where), argv),
        input=stdin,
        capture_output=True,
        text=True,
        env=tools.environment(),
        timeout=timeout_s,
        check=False,
    )


def workload_named(lab: Lab, where: str) -> Workload:
    """The workload that `NODE/WORKLOAD` means; `InputError` if none."""
    node, _, name = where.partition("/")
    if not name:
        raise InputError(f"{where!r} is no workload", remedy="write NODE/WORKLOAD")
    return lab.topology.workload(node, name)


def _make_way(name: str, folder: Path) -> None:
    """Remove what a crashed lab left; one that lives is not ours to end."""
    found = state.find(name)
    if found and found.init.alive:
        how = "runs already" if found.ready else "was raised only half and still runs"
        remedy = f"end it: meshfabric lab down --name {name}"
        raise PermanentError(f"a lab named {name!r} {how}", remedy=remedy)
    state.empty(folder)


def _tear_down(name: str, folder: Path) -> None:
    found = state.find(name)
    if found:
        found.init.kill()
    state.empty(folder)


def _ready(lab: Lab) -> Lab:
    ready = Lab(lab.name, lab.topology, lab.init, ready=True)
    ready.save()
    return ready
