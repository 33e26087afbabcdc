"""The underlay of a lab: its init process, a bridge for each segment, cuts and heals.

    lab init (pid, mnt, net)      node (pid, mnt, net, uts)
      bridge red ── n0u0 ~~~~~~~~~~ up0   a veth pair for each uplink
      bridge blue ─ n0u1 ~~~~~~~~~~ up1

Owns the namespace that the segments are in; `nodes` owns the far end of the
pairs, `etcd` runs here beside the segments. A cut is the bridge port put to
"disabled" (IEEE 802.1D, 17.5): it drops everything both ways while both ends of
the pair keep their carrier, as a failed switch or a wrong VLAN does.
"""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from meshfabric.lab.process import Process, run, spawn
from meshfabric.lab.records import Port, Topology
from meshfabric.lab.state import Lab

INIT = ("sh", "-c", "sleep infinity & wait")
"""Pid 1 of a namespace in 1.6 MB: dash reaps every orphan while it waits, and ignores SIGTERM as pid 1."""
HELD_INIT = ("sh", "-c", "read -r go && { exec </dev/null; sleep infinity & wait; }")
"""The same, but it ends with whoever started it until it has been told to go."""
FORWARDING, DISABLED = 3, 0  # linux/if_bridge.h, BR_STATE_*
_NET = ("net",)


def start_init(name: str, topology: Topology, log: Path) -> Lab:
    """Start the lab's first process and write down who it is, so that no crash leaves it unknown."""
    source, go = os.pipe()
    try:
        init = spawn(HELD_INIT, log, new=("pid", "mnt", "net"), stdin=source)
        lab = Lab(name, topology, init)
        lab.save()
        os.write(go, b"go\n")
    finally:
        os.close(source)
        os.close(go)
    run(init, ["sh", "-euc", "mount -n --make-rprivate / && mount -n -t proc proc /proc"])
    return lab


def make_segments(lab: Lab) -> None:
    """Make the bridges, give them the underlay's own addresses and bring them up."""
    ip(
        lab.init,
        ["link set lo up", *(line for each in lab.topology.segments for line in _bridge(lab, each.name))],
    )


def plug(lab: Lab, node: str) -> None:
    """Make a node's uplinks and plug them in; their names and addresses are set in the node."""
    process = lab.node(node)
    for port, segment in ports_of(lab.topology, node):
        end = port_name(lab.topology, node, port.slot)
        ip(
            lab.init,
            [
                f"link add {end} mtu {port.uplink.mtu} type veth"
                f" peer name {port.uplink.name} mtu {port.uplink.mtu} netns {process.pid}",
                f"link set {end} master {segment} up",
            ],
        )
        ip(process, [*_address_lines(port), f"link set {port.uplink.name} up"])


def cut(lab: Lab, node: str, uplink: str) -> None:
    """Let an uplink drop everything without a sign of it at the node; twice is the same as once."""
    _set_state(lab, node, uplink, DISABLED)


def heal(lab: Lab, node: str, uplink: str) -> None:
    """Undo `cut`; an uplink that is whole stays so."""
    _set_state(lab, node, uplink, FORWARDING)


def cuts(lab: Lab) -> list[tuple[str, str]]:
    """The (node, uplink) pairs that are cut now."""
    rows = shown_by(lab.init, ["bridge", "-j", "link", "show"])
    states = {port["ifname"]: port.get("state") for port in rows}
    return [
        (node.name, uplink.name)
        for node in lab.topology.nodes
        for slot, uplink in enumerate(node.uplinks)
        if states.get(port_name(lab.topology, node.name, slot)) == "disabled"
    ]


def port_name(topology: Topology, node: str, slot: int) -> str:
    """The device of an uplink at the segments' end: `n2u0` for the third node's first."""
    return f"n{[each.name for each in topology.nodes].index(node)}u{slot}"


def ports_of(topology: Topology, node: str) -> Iterator[tuple[Port, str]]:
    """A node's ports with their segments' names, by slot."""
    ports = [
        (port, segment.name)
        for segment in topology.segments
        for port in topology.ports(segment.name)
        if port.node == node
    ]
    return iter(sorted(ports, key=lambda each: each[0].slot))


def ip(into: Process, lines: Sequence[str]) -> None:
    """Run lines of iproute2 in a process's network namespace, in one go; the first error ends it."""
    # Only the network namespace is entered: pids in the lines stay those of the caller.
    run(into, ["ip", "-batch", "-"], _NET, stdin="\n".join(lines) + "\n")


def shown_by(into: Process, argv: Sequence[str]) -> list[dict[str, object]]:
    """What a command of iproute2 shows with `-j`, run in a process's network namespace."""
    rows: list[dict[str, object]] = json.loads(run(into, argv, _NET) or "[]")
    return rows


def _bridge(lab: Lab, segment: str) -> Iterator[str]:
    mtu = lab.topology.segment(segment).mtu
    # Snooping would hold back neighbour discovery until a querier is heard.
    yield f"link add {segment} type bridge stp_state 0 forward_delay 0 mcast_snooping 0"
    yield f"link set {segment} mtu {mtu}"
    for address in lab.topology.own_addresses(segment):
        yield f"address add {address} dev {segment}{_nodad(address.version)}"
    yield f"link set {segment} up"


def _address_lines(port: Port) -> Iterator[str]:
    for address in port.addresses:
        yield f"address add {address} dev {port.uplink.name}{_nodad(address.version)}"


def _nodad(version: int) -> str:
    """Duplicate address detection takes a second in which an IPv6 address is of no use."""
    return " nodad" if version == 6 else ""


def _set_state(lab: Lab, node: str, uplink: str, state: int) -> None:
    names = [each.name for each in lab.topology.node(node).uplinks]
    lab.topology.uplink(node, uplink)
    port = port_name(lab.topology, node, names.index(uplink))
    run(lab.init, ["bridge", "link", "set", "dev", port, "state", str(state)], _NET)
