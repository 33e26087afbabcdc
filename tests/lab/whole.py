"""A whole fabric for the tests, agents and all: raised once, put right before each test, watched on the wire.

    FABRIC  the built-in lab: vm1, metal1, kube1 and kube2, each in both segments

    MIXED   one ──── red (IPv4) ──── two ──── six (IPv6, smaller MTU) ──── three
            left                    middle                                right

    PAIR    pear ── up0 ── red  ── up0 ── plum, of which a file's tests may cut what they like
            web  ── up1 ── blue ── up1 ── db

`store` writes to etcd by hand, `places` has sockets in the lab's namespaces,
`streams` keeps traffic flowing. What was seen on the wires is judged when a lab
ends: a fabric address in clear fails the test session, whoever sent it.
"""

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import yaml
from msgspec.structs import replace

from meshfabric.api.client import call
from meshfabric.api.messages import Ask
from meshfabric.lab import agents, build, etcd, state, status, underlay, workloads
from meshfabric.lab.capture import Capture, Counts, capture
from meshfabric.lab.process import Process
from meshfabric.lab.records import Topology, Workload
from meshfabric.lab.state import Lab
from meshfabric.lab.topology import default_text, read
from meshfabric.model.settings import Encryption
from tests.lab.kernel import numbers
from tests.lab.small import fresh_name
from tests.lab.store import Store
from tests.patience import DEADLINE_S as DEADLINE_S
from tests.patience import PATIENCE
from tests.patience import until as until

HELD_S = 1.0
DRIFT = f"drift_check_s: {PATIENCE:g}\n"
FABRIC = default_text() + DRIFT
MIXED = f"""\
segments:
  - {{name: red, ipv4: 172.31.1.0/24}}
  - {{name: six, ipv6: "fd00:6::/64", mtu: 1480}}
nodes:
  - {{name: one, uplinks: [{{name: up0, segment: red}}]}}
  - {{name: two, kind: vm, uplinks: [{{name: up0, segment: red}}, {{name: up1, segment: six}}]}}
  - {{name: three, kind: kubernetes, uplinks: [{{name: up0, segment: six}}]}}
workloads:
  - {{name: left, node: one, labels: {{app: left}}}}
  - {{name: middle, node: two, labels: {{app: middle}}}}
  - {{name: right, node: three, labels: {{app: right}}}}
{DRIFT}"""
PAIR = f"""\
segments:
  - {{name: red, ipv4: 172.31.1.0/24}}
  - {{name: blue, ipv4: 172.31.2.0/24}}
nodes:
  - {{name: pear, uplinks: [{{name: up0, segment: red}}, {{name: up1, segment: blue}}]}}
  - {{name: plum, uplinks: [{{name: up0, segment: red}}, {{name: up1, segment: blue}}]}}
workloads:
  - {{name: web, node: pear}}
  - {{name: db, node: plum}}
{DRIFT}"""

Row = dict[str, Any]


def by_userspace(text: str) -> str:
    """The lab with wireguard-go on every node, whatever the kernel has."""
    lab = yaml.safe_load(text)
    nodes = [node | {"wireguard": "userspace"} for node in lab["nodes"]]
    return yaml.safe_dump(lab | {"nodes": nodes}, sort_keys=False)


def described(text: str) -> Topology:
    """A topology for tests, which make the same paths fall again and again, and wait for all to be up.

    One that fell is held for no more than `HELD_S`, and where the text says nothing of losses it is left
    neither for them nor for delays.
    """
    topology = read(text, "test.yaml")
    probe = replace(topology.probe, hold_s=min(topology.probe.hold_s, HELD_S))
    if "loss_percent" not in text:
        probe = replace(probe, loss_percent=0, rtt_ms=0)
    return replace(topology, probe=probe)


@contextlib.contextmanager
def raised_whole(text: str, before_agents: Callable[[Lab], None] = lambda lab: None) -> Iterator[Lab]:
    """A lab with its agents; at its end, nothing may have been seen in clear."""
    name, topology = fresh_name(), described(text)
    try:
        with state.locked(name) as folder:
            lab = build.raise_nodes(topology, name, folder, lambda step: None)
        before_agents(lab)
        with watched(lab) as wires:
            bring_up(lab)
            yield lab
        assert all(counts.encrypted for counts in wires.values())
    finally:
        build.down(name)


def bring_up(lab: Lab) -> None:
    """The second half of raising one, where any agent may take its time."""
    build.start_agents(lab, lambda step: None, agents.READY_TIMEOUT_S * PATIENCE)
    build.attach_workloads(lab, lambda step: None, workloads.ATTACH_TIMEOUT_S * PATIENCE)


def wait_ready(lab: Lab, node: str) -> None:
    """Wait until a node's agent is ready, where it may take its time."""
    agents.wait_ready(lab, node, agents.READY_TIMEOUT_S * PATIENCE)


@contextlib.contextmanager
def watched(lab: Lab) -> Iterator[dict[str, Counts]]:
    """Fails at its end if any segment saw a fabric address, or a packet in clear where that is not asked
    for; the counts are filled in by then.
    """
    counted: dict[str, Counts] = {}
    with contextlib.ExitStack() as stack:
        wires: dict[str, Capture] = {
            one.name: stack.enter_context(capture(lab, one.name)) for one in lab.topology.segments
        }
        yield counted
        for name, wire in wires.items():
            counted[name] = wire.counts()
            assert counted[name].fabric == 0, f"in clear on {name}: {wire.in_clear()}"
            trusted = lab.topology.segment(name).encryption is Encryption.OFF
            assert trusted or counted[name].plain == 0, f"unencrypted on {name}: {counted[name]}"


def put_right(lab: Lab) -> Lab:
    """The lab as it was raised, whatever an earlier test did to it or left undone."""
    etcd.start_etcd(lab)
    for node, uplink in underlay.cuts(lab):
        underlay.heal(lab, node, uplink)
    for one in lab.topology.nodes:
        resume(lab, one.name)
    Store(lab).tidy()
    for workload in lab.topology.workloads:
        put_in_place(lab, workload)
    wait_whole(lab)
    return lab


def wait_whole(lab: Lab) -> float:
    """Wait until all is well everywhere, and settled; the seconds until the first of the two."""
    took = until(lambda: is_whole(lab))
    settle(lab)
    return took


def settle(lab: Lab) -> None:
    """Wait until what anybody knows by now is in force on every node, and nothing is left to be written.

    A record is written again as it is: who has applied that has applied all that came before it.
    """
    store = Store(lab)
    config = store.get("config")
    assert config is not None
    everywhere(lab, store.put("config", config))
    until(lambda: all(has_noted_numbers(lab, node) for node in names(lab)))


def everywhere(lab: Lab, revision: int) -> None:
    """Wait until every node says that it has applied all up to a revision of the store."""
    store = Store(lab)
    until(lambda: all(store.reported(node) >= revision for node in names(lab)))


def has_noted_numbers(lab: Lab, node: str) -> bool:
    """Whether a node's file has the numbers of all that it knows, and of nothing else."""
    rows = listing(lab, node, "endpoints")
    known = {row["labels"]: row["identity"] for row in rows}
    noted = numbers(lab, node)
    own = {row["workload"] for row in rows if row["local"]}
    return bool(
        known == {_written(labels): number for labels, number in noted["identities"]}
        and own == noted["workloads"].keys()
        and set(names(lab)) - {node} == noted["nodes"].keys()
    )


def resume(lab: Lab, node: str) -> None:
    """The agent of a node runs, whether it was killed or stopped."""
    agents.kill_agent(lab, node, signal.SIGCONT)
    agents.start_agent(lab, node)
    wait_ready(lab, node)


def put_in_place(lab: Lab, workload: Workload) -> None:
    """Attached, with the labels of the lab's file."""
    name = f"{workload.node}/{workload.name}"
    rows = [row for row in listing(lab, workload.node, "endpoints") if row["workload"] == workload.name]
    labels = {f"{key}={value}" for key, value in workload.labels.items()}
    if lab.attached(workload.name) is None or not all(
        labels <= set(row["labels"].split(",")) for row in rows
    ):
        workloads.attach(lab, workload, workloads.ATTACH_TIMEOUT_S * PATIENCE)
    assert status.addresses(lab, name)


def is_whole(lab: Lab) -> bool:
    """Every agent says that all is well, and knows of everything."""
    return all(_is_well(lab, node.name) for node in lab.topology.nodes)


def told(lab: Lab, node: str) -> Row:
    """What a node's agent says of itself."""
    found: Row = call(lab.socket(node), Ask("status"), DEADLINE_S)
    return found


def listing(lab: Lab, node: str, subject: Any) -> list[Row]:
    """A listing of a node's agent."""
    rows: list[Row] = call(lab.socket(node), Ask(subject), DEADLINE_S)
    return rows


def drops(lab: Lab, node: str, reason: str) -> int:
    """Packets that a node has dropped for a reason."""
    return next(int(row["packets"]) for row in listing(lab, node, "drops") if row["reason"] == reason)


@contextlib.contextmanager
def dropping(lab: Lab, node: str, reason: str, packets: int = 1) -> Iterator[None]:
    """What is done within has a node drop so many packets for this reason, neither more nor fewer."""
    before = drops(lab, node, reason)
    yield
    until(lambda: drops(lab, node, reason) - before >= packets)
    assert (reason, drops(lab, node, reason) - before) == (reason, packets)


def order(lab: Lab, where: str, *words: str) -> subprocess.CompletedProcess[str]:
    """What the CLI says on a node."""
    return build.run(lab, where, [sys.executable, "-m", "meshfabric", *words], timeout_s=4 * DEADLINE_S)


def log_of(lab: Lab, node: str) -> list[dict[str, str]]:
    """The lines of a node's agent, and of those before it; one that is half written is left out."""
    text, _, _ = lab.log(agents.ROLE, node).read_text().rpartition("\n")
    return [json.loads(line) for line in text.splitlines()]


def paths(lab: Lab, node: str, far: str) -> list[Row]:
    """The paths from a node to another, the preferred one first."""
    return [row for row in listing(lab, node, "paths") if row["node"] == far]


def active(lab: Lab, node: str, far: str) -> str:
    """The uplink that a node's traffic to another leaves by."""
    return next(str(row["local"]) for row in paths(lab, node, far) if row["active"])


def address(lab: Lab, where: str, family: int = 4) -> str:
    """A fabric address of `NODE` or `NODE/WORKLOAD`."""
    return next(one for one in status.addresses(lab, where) if (":" in one) == (family == 6))


def names(lab: Lab) -> list[str]:
    """The nodes' names."""
    return [node.name for node in lab.topology.nodes]


def places(lab: Lab) -> list[str]:
    """Everything that has a fabric address: hosts, pods and guests."""
    return [*names(lab), *(f"{one.node}/{one.name}" for one in lab.topology.workloads)]


def agent(lab: Lab, node: str) -> Process:
    """The process of a node's agent, which runs."""
    found = lab.process(agents.ROLE, node)
    assert found is not None
    return found


def relabelled(lab: Lab, node: str, name: str, **labels: str) -> Workload:
    """A workload of the lab with other labels."""
    return replace(lab.topology.workload(node, name), labels=labels)


def _is_well(lab: Lab, node: str) -> bool:
    if not _says_well(lab, told(lab, node)):
        return False
    states = {(row["node"], row["local"], row["remote"]): row["state"] for row in listing(lab, node, "paths")}
    return states == dict.fromkeys(_tunnels(lab, node), "up")


def _says_well(lab: Lab, said: Row) -> bool:
    return bool(
        said["ready"]
        and said["store"]["connected"]
        and not (said["refused"] or said["failing"] or said["held"] or said["policies"])
        and said["nodes"] == {"known": len(names(lab)), "alive": len(names(lab))}
        and said["workloads"] == len(lab.topology.workloads_of(said["node"])) + 1
        and said["endpoints"] == 2 * len(places(lab))
    )


def _tunnels(lab: Lab, node: str) -> list[tuple[str, str, str]]:
    """To whom, from which uplink of ours to which of theirs: pairs in a segment, or through a relay."""
    own = lab.topology.node(node)
    ends = [
        (far, local, remote)
        for far in lab.topology.nodes
        for local in own.uplinks
        for remote in far.uplinks
        if far.name != node
    ]
    direct = [(far.name, one.name, other.name) for far, one, other in ends if one.segment == other.segment]
    return direct + [
        (far.name, f"{one.name}-{relay}", f"{other.name}-{relay}")
        for far, one, other in ends
        for relay in own.through
        if relay in far.through
    ]


def _written(labels: dict[str, str]) -> str:
    """As listings show a label set."""
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
