"""How a lab is: which of its processes live, what is cut, who has which address.

Owns reading only; the command line prints it. What the agents know of the
fabric is asked of them (`meshfabric lab exec NODE -- meshfabric status`).
"""

from ipaddress import ip_interface
from typing import Any

from meshfabric.api.client import call
from meshfabric.api.messages import Ask
from meshfabric.lab import agents, etcd, impair, state, workloads
from meshfabric.lab.blocks import first_of_each_family
from meshfabric.lab.records import Node, Workload
from meshfabric.lab.state import Lab
from meshfabric.lab.underlay import cuts
from meshfabric.model.addresses import parse_network
from meshfabric.model.errors import MeshfabricError

ASK_TIMEOUT_S = 1.0

Row = dict[str, Any]


def labs() -> list[Row]:
    """Every lab of this machine: name, state (`ready`, `half-raised` or `dead`) and size."""
    return [_lab_row(name) for name in state.names()]


def overview(lab: Lab) -> Row:
    """All of a lab as plain values: `lab`, `ready`, `etcd`, and rows of nodes, segments and workloads."""
    cut = cuts(lab)
    return {
        "lab": lab.name,
        "fabric": lab.topology.fabric,
        "ready": lab.ready,
        "etcd": "running" if lab.process(etcd.ROLE, etcd.NAME) else "dead",
        "nodes": [_node_row(lab, node, cut) for node in lab.topology.nodes],
        "segments": [_segment_row(lab, segment.name) for segment in lab.topology.segments],
        "workloads": [_workload_row(lab, workload) for workload in lab.topology.workloads],
    }


def addresses(lab: Lab, where: str) -> list[str]:
    """The fabric addresses of `NODE` or `NODE/WORKLOAD`, IPv4 first; none for one that is not attached.

    A node has the first address of its first block of each family.
    """
    node, _, workload = where.partition("/")
    if workload:
        attached = lab.attached(lab.topology.workload(node, workload).name)
        found = [ip_interface(each).ip for each in attached.addresses] if attached else []
    else:
        blocks = [parse_network(block) for block in lab.topology.node(node).blocks]
        found = [block[1] for _, block in first_of_each_family(blocks)]
    return [str(address) for address in sorted(found, key=lambda each: (each.version, each))]


def _lab_row(name: str) -> Row:
    found = state.find(name)
    if found is None or not found.init.alive:
        return {"lab": name, "state": "dead", "nodes": None, "workloads": None}
    topology = found.topology
    how = "ready" if found.ready else "half-raised"
    return {"lab": name, "state": how, "nodes": len(topology.nodes), "workloads": len(topology.workloads)}


def _node_row(lab: Lab, node: Node, cut: list[tuple[str, str]]) -> Row:
    process = lab.process("node", node.name)
    return {
        "node": node.name,
        "kind": str(node.kind),
        "pid": process.pid if process else None,
        "agent": _agent(lab, node.name),
        "uplinks": ", ".join(
            f"{uplink.name} on {uplink.segment}{' (cut)' if (node.name, uplink.name) in cut else ''}"
            for uplink in node.uplinks
        ),
        "addresses": ", ".join(addresses(lab, node.name)),
        "blocks": ", ".join(node.blocks),
    }


def _agent(lab: Lab, node: str) -> str:
    """`ready`, `starting`, `silent` (running, but no answer) or `dead`."""
    if lab.process(agents.ROLE, node) is None:
        return "dead"
    try:
        status = call(lab.socket(node), Ask("status"), ASK_TIMEOUT_S)
    except MeshfabricError:
        return "silent"
    return "ready" if status.get("ready") else "starting"


def _segment_row(lab: Lab, name: str) -> Row:
    segment = lab.topology.segment(name)
    ports = lab.topology.ports(name)
    return {
        "segment": name,
        "subnets": ", ".join(segment.subnets),
        "mtu": segment.mtu,
        "impaired": impair.shown(lab, name),
        "etcd": str(lab.topology.own_addresses(name)[0].ip),
        "ports": ", ".join(
            f"{port.node} {'+'.join(str(each.ip) for each in port.addresses)}" for port in ports
        ),
    }


def _workload_row(lab: Lab, workload: Workload) -> Row:
    held = lab.process(workloads.ROLE, workload.name) is not None
    cabled = workload.kind != "vm" or lab.process(workloads.CABLE_ROLE, workload.name) is not None
    where = f"{workload.node}/{workload.name}"
    attached = lab.attached(workload.name) is not None
    return {
        "workload": where,
        "kind": workload.kind,
        "state": "dead"
        if not held
        else "unplugged"
        if not cabled
        else "attached"
        if attached
        else "detached",
        "addresses": ", ".join(addresses(lab, where)),
        "labels": workload.labels,
    }
