"""What the datapath needs to probe by itself: whom from where, and the loop that its token goes round in."""

from meshfabric.compiler.paths import pairs
from meshfabric.compiler.workloads import host_name
from meshfabric.model.addresses import Address, is_ipv4
from meshfabric.model.names import loop_devices
from meshfabric.model.plan import Attachment, Delay, Entries, Table
from meshfabric.model.tables import FIRST_NODE, loop_value, number, probe_value
from meshfabric.model.world import World


def probe_ends(world: World, node: str) -> tuple[Address, Address] | None:
    """Our host's address and the node's, of one family, IPv4 if both have it; None where there are none."""
    host, allocation = world.workloads.get(host_name(world)), world.allocations.get(node)
    if host is None or allocation is None:
        return None
    own = {is_ipv4(address): address for address in host.addresses}
    far = {is_ipv4(address): address for address in allocation.addresses}
    shared = own.keys() & far.keys()
    return (own[max(shared)], far[max(shared)]) if shared else None


def probe_entries(world: World, node: str) -> Entries:
    """The ends of the probes to a node that tunnels lead to."""
    place, ends = world.node_numbers.find(node), probe_ends(world, node)
    if place is None or ends is None or not pairs(world, node):
        return {}
    return {(Table.PROBES, number(place - FIRST_NODE)): probe_value(*ends)}


def loop_entries(world: World) -> Entries:
    """The pair of devices and, once both are there, the program on it and where others find it; nothing
    before there is a host to probe from.
    """
    settings = world.settings
    if host_name(world) not in world.workloads:
        return {}
    out, into = loop_devices(settings.datapath.prefix)
    entries: Entries = {(Table.DELAYS, out): Delay(into, settings.probe.interval_ms)}
    if out in world.links and into in world.links:
        there = world.links[into].index
        entries[Table.LOOP, number(0)] = loop_value(world.links[out].index, there)
        entries[Table.PROGRAMS, (into, "ingress")] = Attachment("tick", there)
    return entries
