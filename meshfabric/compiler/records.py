"""What this node tells the others: its own records in the store, key below `state/` to JSON."""

import msgspec

from meshfabric import __version__
from meshfabric.compiler.paths import tunnel_devices
from meshfabric.compiler.relays import relayed_nodes
from meshfabric.compiler.wireguard import tunnel_number
from meshfabric.model.addresses import format_address
from meshfabric.model.labels import is_reserved
from meshfabric.model.node import NODE_VERSION, RECORD_VERSION, EndpointRecord, NodeRecord, Tunnel
from meshfabric.model.plan import Entries, Table
from meshfabric.model.portnames import named_ports
from meshfabric.model.world import World


def node_record_entries(world: World) -> Entries:
    """`nodes/<node>`: uplinks as observed, tunnels whose keys exist."""
    settings = world.settings
    record = NodeRecord(
        settings.node,
        settings.kind,
        settings.labels,
        world.uplinks,
        tuple(_tunnels(world, 0)),
        __version__,
        settings.wireguard.value,
        tuple(_tunnels(world, 1)),
        world.own_keys,
        min_version=NODE_VERSION if any(uplink.relay for uplink in world.uplinks) else RECORD_VERSION,
        relayed=relayed_nodes(world),
    )
    return {(Table.RECORDS, f"nodes/{settings.node}"): msgspec.json.encode(record)}


def endpoint_record_entries(world: World, name: str) -> Entries:
    """`endpoints/<node>/<address>` for each address of a workload attached here."""
    workload = world.workloads.get(name)
    if workload is None:
        return {}
    given = {key: value for key, value in workload.labels if not is_reserved(key)}
    ports = named_ports(workload.labels)
    record = msgspec.json.encode(EndpointRecord(workload.name, workload.kind, given, ports=ports))
    keys = [f"endpoints/{world.node}/{format_address(address)}" for address in workload.addresses]
    return {(Table.RECORDS, key): record for key in keys}


def _tunnels(world: World, generation: int) -> list[Tunnel]:
    """Of a generation that was given up keys may be left on the disk for a moment: they are not told."""
    if generation not in world.own_keys.generations:
        return []
    base = world.settings.datapath.port_base
    return [
        Tunnel(local, remote, world.keys[device], base + tunnel_number(local, remote, generation))
        for local, remote, device in tunnel_devices(world, generation)
        if device in world.keys
    ]
