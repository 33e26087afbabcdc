"""Tunnels without encryption: where both ends of a pair of uplinks say that their segment is trusted.

Each node says so of itself, in its own file: nobody who may write into the store can
make another node's packets go in clear. Whoever does not say so, does not know how to,
or says so of another port, is reached by WireGuard as ever, and so is everyone else
until the tunnel in clear works, and as soon as it does not: the encrypted tunnel of
the same pair of uplinks stays, as the last that is taken (`paths.ways`).
"""

from meshfabric.compiler.paths import IP_HEADER, UDP_HEADER, plain_ways
from meshfabric.compiler.programs import program_entries
from meshfabric.compiler.wireguard import tunnel_number
from meshfabric.model.addresses import parse_address
from meshfabric.model.names import plain_device
from meshfabric.model.plan import Entries, PlainDevice, Rule, Table
from meshfabric.model.tables import plain_key, plain_value
from meshfabric.model.uplinks import Size, size_of
from meshfabric.model.world import World

FIRST_VNI = 0x6D6600  # a multiple of 64: the datapath reads the slot out of it
VXLAN_HEADER = 8  # RFC 7348, 5; with GPE an IP packet comes next, and no link header


def plain_vni(local: int, remote: int) -> int:
    """By which a node tells its own devices apart: local uplink, remote slot."""
    return FIRST_VNI + tunnel_number(local, remote)


def plain_mtu(size: Size) -> int:
    """The largest IP packet, in bytes, that a tunnel without encryption carries whole over such an uplink."""
    return size.mtu - IP_HEADER[size.family] - UDP_HEADER - VXLAN_HEADER


def clear_nodes(world: World) -> dict[int, list[str]]:
    """For each uplink whose segment this node trusts, by slot: the nodes that packets may go to in clear."""
    found: dict[int, list[str]] = {slot: [] for slot in world.settings.trusted_slots}
    for node in sorted(world.nodes) if found else ():
        for slot in {way.pair.local for way in plain_ways(world, node)}:
            found[slot].append(node)
    return found


def plain_device_entries(world: World, local: int, remote: int) -> Entries:
    """The device for (local uplink, remote slot), if any node takes packets in clear there."""
    uplink = next((uplink for uplink in world.uplinks if uplink.slot == local and uplink.plain_port), None)
    if uplink is None or not world.far_ends.reachable(uplink, remote, uplink.plain_port):
        return {}
    name = plain_device(world.settings.datapath.prefix, local, remote)
    device = PlainDevice(plain_vni(local, remote), uplink.plain_port, plain_mtu(size_of(uplink)))
    link = world.links.get(name)
    return {(Table.PLAIN_DEVICES, name): device, **(program_entries(link, "plain") if link else {})}


def plain_rule_entries(world: World) -> Entries:
    """The way of each uplink's packets in clear into the table that holds nothing but this uplink."""
    datapath = world.settings.datapath
    return {
        (Table.RULES, datapath.plain_mark + slot): Rule(datapath.table_base + slot)
        for slot in world.settings.trusted_slots
    }


def plain_end_entries(world: World, node: str) -> Entries:
    """Where the devices lead that packets to a node may take in clear, and from where they may come."""
    place, mark = world.node_numbers.find(node), world.settings.datapath.plain_mark
    if place is None:
        return {}
    there = [way for way in plain_ways(world, node) if way.device in world.links]
    return {
        (Table.PLAIN_ENDS, plain_key(world.links[way.device].index, place)): plain_value(
            parse_address(way.pair.destination),
            parse_address(way.pair.source),
            plain_vni(way.pair.remote, way.pair.local),
            mark + way.pair.local,
        )
        for way in there
    }
