"""The local workloads, the fabric as the datapath sees it, and the host's routes into it."""

from meshfabric.compiler.classes import capacity_of, classed, lead_of
from meshfabric.compiler.paths import workload_mtu
from meshfabric.compiler.programs import program_entries
from meshfabric.compiler.wireguard import UNREACHABLE_METRIC
from meshfabric.model.addresses import (
    format_address,
    format_prefix,
    host_prefix,
    is_ipv4,
    parse_address,
    prefix_of,
)
from meshfabric.model.names import GATEWAY4, GATEWAY4_ROUTE, GATEWAY6, host_devices
from meshfabric.model.plan import Entries, FairQueue, Route, Table
from meshfabric.model.settings import Queue
from meshfabric.model.tables import NOWHERE, Delivery, fabric_value, number, uplink_value, workload_value
from meshfabric.model.world import World

MAIN_TABLE = 254
HOST = "host"
DELIVERY = {"pod": Delivery.PEER, "vm": Delivery.EGRESS, HOST: Delivery.EGRESS}


def host_name(world: World) -> str:
    """The name under which the node itself is a workload."""
    return world.node


def workload_entries(world: World, name: str) -> Entries:
    """A workload's device, identity, MTU and classes; nothing until its device was seen."""
    workload = world.workloads.get(name)
    place = world.workload_numbers.find(name)
    link = world.links.get(workload.device) if workload else None
    if workload is None or place is None or link is None:
        return {}
    mtu = workload_mtu(world)
    found = classed(world, place, workload.labels)
    value = workload_value(
        link.index,
        world.identity(workload.labels),
        mtu,
        DELIVERY[workload.kind],
        workload.mac,
        found.number,
        found.rules,
    )
    return {
        (Table.WORKLOADS, number(place)): value,
        (Table.DEVICES, number(link.index)): number(place),
        (Table.MTUS, name): mtu,
        **found.entries,
        **program_entries(link, "workload"),
    }


def fabric_entries(world: World) -> Entries:
    """The prefixes that must not be seen in clear, but for the exposed ones, and who the node itself is."""
    networks = world.prefixes.get("", ())
    place = world.workload_numbers.find(host_name(world)) or NOWHERE
    exposed = [prefix_of(network) for network in world.exposed.get("", ())]
    value = fabric_value(place, [prefix_of(network) for network in networks], exposed)
    return {(Table.FABRIC, number(0)): value} if networks else {}


def uplink_entries(world: World) -> Entries:
    """The uplinks' devices by slot, with their programs and, as long as they are up, their queues."""
    entries: Entries = {}
    for uplink in world.uplinks:
        wanted = world.settings.uplinks[uplink.slot]
        link = world.links[wanted.device]
        addresses = [parse_address(address) for address in uplink.addresses]
        entries[Table.UPLINKS, number(uplink.slot)] = uplink_value(
            link.index, addresses, capacity_of(world, uplink.slot), lead_of(world, uplink.slot)
        )
        entries |= program_entries(link, "uplink")
        if wanted.qdisc is Queue.AUTO and link.up:
            entries[Table.QUEUES, link.name] = FairQueue(link.index)
    return entries


def route_entries(world: World) -> Entries:
    """The host's addresses and way into the fabric, and beneath it a wall: never out of an uplink instead.

    The gateway has a route of its own: what it says of packets that do not fit (ICMP) comes from there, and
    Linux may take nothing from where it knows no way to (rp_filter).
    """
    entries: Entries = {
        (Table.ROUTES, (MAIN_TABLE, str(network), UNREACHABLE_METRIC)): Route()
        for network in world.prefixes.get("", ())
    }
    host = world.workloads.get(host_name(world))
    outer, _ = host_devices(world.settings.datapath.prefix)
    if host is None or outer not in world.links:
        return entries
    entries[Table.ROUTES, (MAIN_TABLE, GATEWAY4_ROUTE, 0)] = Route(outer)
    for address in host.addresses:
        entries[Table.HOST_ADDRESSES, (outer, format_prefix(host_prefix(address)))] = True
        for network in world.prefixes.get("", ()):
            if is_ipv4(address) == (network.version == 4):
                gateway = GATEWAY4 if network.version == 4 else GATEWAY6
                route = Route(outer, gateway, format_address(address))
                entries[Table.ROUTES, (MAIN_TABLE, str(network), 0)] = route
    return entries
