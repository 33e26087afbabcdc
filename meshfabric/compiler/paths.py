"""Which tunnels lead to a node, and how large a packet they carry.

A tunnel exists for a pair (local uplink, remote slot) of uplinks in the same
segment that share an address family. IPv4 is preferred where both have it: its
header is 20 bytes shorter.
"""

from typing import NamedTuple

from meshfabric.model.names import tunnel_device
from meshfabric.model.node import Tunnel, Uplink
from meshfabric.model.plan import Entries, Table
from meshfabric.model.tables import FIRST_NODE, node_value, number
from meshfabric.model.uplinks import Size, addresses_of, size_of
from meshfabric.model.world import World

WIREGUARD_OVERHEAD = 32  # data message header and tag (WireGuard white paper, 5.4.6)
UDP_HEADER = 8
IP_HEADER = {4: 20, 6: 40}
RESERVED_FOR_IPIP = 40  # packets between addresses that the two nodes do not own
LEAST_MTU = 1280  # RFC 8200, 5


class Pair(NamedTuple):
    """A local and a remote uplink that reach each other, with the addresses to use."""

    cost: int
    local: int
    remote: int
    source: str
    destination: str


def pairs(world: World, node: str) -> list[Pair]:
    """The tunnels towards a node, cheapest first; none to itself, a revoked or an unknown one."""
    record = world.nodes.get(node)
    if record is None or node == world.node or node in world.revoked:
        return []
    return sorted(filter(None, (_pair(near, far) for near in world.uplinks for far in record.uplinks)))


def joined_pairs(world: World, node: str) -> list[tuple[Pair, Tunnel]]:
    """The pairs with a far end that has a key, and addresses that operators allocated to the node."""
    ready = [pair for pair in pairs(world, node) if node in world.allocations]
    if not ready:
        return []
    ends = {(tunnel.remote, tunnel.local): tunnel for tunnel in world.nodes[node].tunnels}
    return [(pair, ends[pair.local, pair.remote]) for pair in ready if (pair.local, pair.remote) in ends]


def node_entries(world: World, node: str) -> Entries:
    """The datapath's list of tunnels towards a node, those that it is a peer of, and what fits into each."""
    place = world.node_numbers.find(node)
    if place is None or node not in world.nodes or node == world.node:
        return {}
    prefix = world.settings.datapath.prefix
    devices = [tunnel_device(prefix, pair.local, pair.remote) for pair, _ in joined_pairs(world, node)]
    mtu = workload_mtu(world)
    found = [
        (world.links[device].index, _carried(world, device, node, mtu))
        for device in devices
        if device in world.links
    ]
    # The map is an array: an entry of zeros is no entry.
    return {(Table.NODES, number(place - FIRST_NODE)): node_value(found)} if found else {}


def path_mtu(world: World, device: str, node: str) -> int:
    """The largest packet, in bytes, that workloads may send to a node through a tunnel device."""
    return _carried(world, device, node, workload_mtu(world))


def _carried(world: World, device: str, node: str, mtu: int) -> int:
    carried = world.carried.get((device, node))
    return mtu if carried is None else max(min(mtu, carried - RESERVED_FOR_IPIP), LEAST_MTU)


def tunnel_mtu(size: Size) -> int:
    """The largest IP packet, in bytes, that a tunnel over an uplink of this size carries whole."""
    return size.mtu - IP_HEADER[size.family] - UDP_HEADER - WIREGUARD_OVERHEAD


def workload_mtu(world: World) -> int:
    """The MTU of every workload, in bytes: what the tightest uplink of the fabric carries."""
    sizes = [*map(size_of, world.uplinks), *world.far_ends.sizes()]
    tightest = min(map(tunnel_mtu, sizes), default=LEAST_MTU + RESERVED_FOR_IPIP)
    return max(tightest - RESERVED_FOR_IPIP, LEAST_MTU)


def _pair(near: Uplink, far: Uplink) -> Pair | None:
    if near.segment != far.segment:
        return None
    sources, destinations = addresses_of(near), addresses_of(far)
    shared = sources.keys() & destinations.keys()
    if not shared:
        return None
    family = min(shared)
    return Pair(near.cost + far.cost, near.slot, far.slot, sources[family], destinations[family])
