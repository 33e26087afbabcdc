"""The agents of a lab: one in each node, configured as on a real machine.

Owns their configuration files, start, end and readiness; what an agent does is
its own business. Nothing restarts an agent that ended: tests want to see that.
"""

import signal
import sys
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import msgspec
import yaml

from meshfabric.api.client import call
from meshfabric.api.messages import Ask
from meshfabric.lab import tools
from meshfabric.lab.etcd import endpoints_for
from meshfabric.lab.process import Process, last_line, spawn
from meshfabric.lab.records import Node
from meshfabric.lab.state import Lab
from meshfabric.model.errors import MeshfabricError, PermanentError, TemporaryError
from meshfabric.model.settings import EtcdSettings, ProbeSettings, Settings, UplinkSettings

ROLE = "agent"
METRICS = "127.0.0.1:9586"
"""Where each node's agent is scraped, within the node."""
READY_TIMEOUT_S = 120.0
"""Patience for a slow machine; an agent that has ended is told at once."""
ASK_TIMEOUT_S = 2.0
_POLL_S = 0.05
_KEEPS_RUNNING = (signal.SIGSTOP, signal.SIGCONT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def start_agent(lab: Lab, node: str) -> Process:
    """Start a node's agent and return at once; one that runs already is left alone."""
    running = lab.process(ROLE, node)
    if running:
        return running
    settings = lab.node_folder(node) / "agent.yaml"
    settings.write_text(agent_yaml(lab, node))
    argv = [sys.executable, "-m", "meshfabric", "agent", "--config", str(settings)]
    process = spawn(argv, lab.log(ROLE, node), into=lab.node(node), env=tools.environment())
    return lab.remember(ROLE, node, process)


def kill_agent(lab: Lab, node: str, number: int = signal.SIGKILL) -> None:
    """Send a signal to a node's agent; if the signal ends it, return when it is gone."""
    lab.topology.node(node)
    process = lab.process(ROLE, node)
    if process is None or not process.signal(number) or number in _KEEPS_RUNNING:
        return
    if not process.wait(READY_TIMEOUT_S):
        raise TemporaryError(f"the agent of {node} does not end", remedy="use SIGKILL")


def wait_ready(lab: Lab, node: str, timeout_s: float = READY_TIMEOUT_S) -> dict[str, Any]:
    """Wait until a node's agent says that it is ready; its status.

    Raises `PermanentError` with the agent's last words if it has ended, `TemporaryError` in time.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        status, doubt = _status(lab.socket(node))
        if status.get("ready"):
            return status
        _check_running(lab, node)
        if time.monotonic() > deadline:
            what = f"the agent of {node} is not ready after {timeout_s:.0f} s: {doubt}"
            raise TemporaryError(what, remedy=f"its log is {lab.log(ROLE, node)}")
        time.sleep(_POLL_S)


def agent_yaml(lab: Lab, node: str) -> str:
    """The text of a node's configuration file."""
    described, probe = lab.topology.node(node), lab.topology.probe
    settings = Settings(
        fabric=lab.topology.fabric,
        node=node,
        kind=described.kind,
        labels=described.labels,
        etcd=EtcdSettings(endpoints=tuple(endpoints_for(lab, node))),
        uplinks=(*_direct(lab, described), *_relayed(described)),
        state_dir=lab.node_folder(node) / "state",
        socket=lab.socket(node),
        metrics=METRICS,
        probe=ProbeSettings(
            probe.interval_ms, loss_percent=probe.loss_percent, rtt_ms=probe.rtt_ms, hold_s=probe.hold_s
        ),
        rotation=lab.topology.rotation,
        wireguard=described.wireguard,
        pods=described.pods,
        drift_check_s=lab.topology.drift_check_s,
        world=lab.topology.world,
        sharing=lab.topology.sharing,
        relay_mbit=described.relay_mbit,
    )
    return yaml.safe_dump(msgspec.to_builtins(settings, enc_hook=str), sort_keys=False)


def _direct(lab: Lab, node: Node) -> Iterator[UplinkSettings]:
    for uplink in node.uplinks:
        yield UplinkSettings(
            name=uplink.name,
            device=uplink.name,
            segment=uplink.segment,
            cost=uplink.cost,
            capacity=uplink.capacity,
            encryption=uplink.encryption or lab.topology.segment(uplink.segment).encryption,
        )


def _relayed(node: Node) -> Iterator[UplinkSettings]:
    for uplink, relay in product(node.uplinks, node.through):
        yield UplinkSettings(f"{uplink.name}-{relay}", uplink.name, uplink.segment, relay=relay)


def _status(socket: Path) -> tuple[dict[str, Any], str]:
    """What the agent says, or nothing and why."""
    try:
        status = call(socket, Ask("status"), ASK_TIMEOUT_S)
    except MeshfabricError as doubt:
        return {}, str(doubt)
    return status, "it says that it is not"


def _check_running(lab: Lab, node: str) -> None:
    if lab.process(ROLE, node) is None:
        log = lab.log(ROLE, node)
        said = last_line(log.read_text(errors="replace")) if log.exists() else "it was not started"
        raise PermanentError(f"the agent of {node} ended: {said}", remedy=f"its log is {log}")
