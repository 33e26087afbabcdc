"""What a relay needs to hand on the encrypted packets of others.

Two nodes that cannot speak with each other directly have a tunnel through a third one, the relay:
an uplink of each names it (`Uplink.relay`), with a device and keys of its own. The relay takes
part in none of that. It has a row of UDP ports for each such node; what comes to one from a socket
that it knows to be a node's goes on to the node whose port it is, under the relay's own address
and the sender's port, so that the answer finds its way back.

      A, socket s --> port of B | relay | port of A --> B, socket t

A node's own tunnel to the relay proves its address. Its other sockets are as its record says, so a
NAT on the way has to keep its ports.
"""

from collections.abc import Iterator
from typing import NamedTuple

from meshfabric.compiler.paths import joined
from meshfabric.compiler.wireguard import tunnel_number
from meshfabric.model.addresses import Address, parse_address
from meshfabric.model.keyring import GENERATIONS
from meshfabric.model.node import PORTS_OF_ONE, NodeRecord, Uplink
from meshfabric.model.plan import Entries, Table
from meshfabric.model.settings import RELAYED_NODES
from meshfabric.model.tables import (
    FIRST_NODE,
    RelayEnd,
    relay_end_value,
    relay_source_key,
    relay_source_value,
)
from meshfabric.model.world import World


class _Way(NamedTuple):
    """How the relay and a node speak by one of the node's uplinks."""

    address: Address  # the node's, as seen here
    source: Address  # ours
    ifindex: int
    mark: int  # leads to the table that holds only the uplink


def relayed_nodes(world: World) -> dict[str, int]:
    """The nodes that want this one as a relay, by name, each with the first of its ports here."""
    if not world.settings.relay_mbit:
        return {}
    found = {}
    for name in sorted(world.nodes):
        place = world.node_numbers.find(name)
        wants = any(uplink.relay == world.node for uplink in world.nodes[name].uplinks)
        if wants and world.is_member(name) and place is not None and place - FIRST_NODE < RELAYED_NODES:
            found[name] = world.settings.datapath.relay_port_base + PORTS_OF_ONE * (place - FIRST_NODE)
    return found


def relay_entries(world: World) -> Entries:
    """The sockets whose packets are handed on, and where to. Who has the lower number keeps a socket that two
    nodes tell of.
    """
    entries: Entries = {}
    for end, port, way in _known_ends(world):
        source = Table.RELAY_SOURCES, relay_source_key(way.address, port)
        if source not in entries:
            entries[source] = relay_source_value(end, way.ifindex, way.source)
            target = relay_end_value(way.address, way.source, port, way.ifindex, way.mark)
            entries[Table.RELAY_ENDS, end.key()] = target
    return entries


def _known_ends(world: World) -> Iterator[tuple[RelayEnd, int, _Way]]:
    """Each with its port, nodes by number."""
    numbers = {world.node_numbers[name] - FIRST_NODE: name for name in relayed_nodes(world)}
    for number, name in sorted(numbers.items()):
        record = world.nodes[name]
        for uplink in record.uplinks:
            way = _way(world, name, uplink) if uplink.relay == world.node else None
            if way is not None:
                yield from ((end, port, way) for end, port in _ends(record, uplink, number))


def _ends(record: NodeRecord, uplink: Uplink, number: int) -> list[tuple[RelayEnd, int]]:
    """The node's tunnels by an uplink, with the port of each."""
    return [
        (RelayEnd(number, tunnel.local, tunnel.remote, generation), tunnel.port)
        for generation in range(GENERATIONS)
        for tunnel in record.tunnels_of(generation)
        if tunnel.local == uplink.slot
    ]


def _way(world: World, name: str, uplink: Uplink) -> _Way | None:
    """By the tunnel of our own that the node's endpoint is known from, in the uplink's segment."""
    settings = world.settings
    for generation in world.own_keys.generations:
        for device, _, pair, far in joined(world, name, generation):
            heard = world.heard.get((device, name))
            if heard is None or pair.relay or settings.uplinks[pair.local].segment != uplink.segment:
                continue
            link = world.links.get(settings.uplinks[pair.local].device)
            if link is not None and heard[1] == far.port:
                mark = settings.datapath.mark_base + tunnel_number(pair.local, pair.remote, generation)
                return _Way(heard[0], parse_address(pair.source), link.index, mark)
    return None
