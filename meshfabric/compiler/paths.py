"""Which tunnels lead to a node, and how large a packet they carry.

A tunnel exists for a pair (local uplink, remote slot) of uplinks in the same
segment that share an address family. IPv4 is preferred where both have it: its
header is 20 bytes shorter. Where both ends take packets in clear there is a second
one that does not encrypt (`compiler.plain`).
"""

from collections.abc import Iterator, Sequence
from itertools import product
from typing import NamedTuple

from meshfabric.compiler.sharing import Member, slots
from meshfabric.model.addresses import family_of
from meshfabric.model.keyring import GENERATIONS
from meshfabric.model.names import plain_device, tunnel_device, twin_device
from meshfabric.model.node import MAX_SLOTS, NodeRecord, Tunnel, Uplink
from meshfabric.model.plan import Entries, Table
from meshfabric.model.settings import Sharing
from meshfabric.model.tables import FIRST_NODE, MAX_PATHS, node_value, number
from meshfabric.model.uplinks import Size, addresses_of, size_of
from meshfabric.model.world import World

WIREGUARD_OVERHEAD = 32  # data message header and tag (WireGuard white paper, 5.4.6)
UDP_HEADER = 8
IP_HEADER = {4: 20, 6: 40}
RESERVED_FOR_IPIP = 40  # packets between addresses that the two nodes do not own
LEAST_MTU = 1280  # RFC 8200, 5
PLAIN_POSITIONS = (
    3,
    4,
    2,
    5,
)  # between those of the two generations of keys, and not more than leave room for these


class Pair(NamedTuple):
    """A local and a remote uplink that reach each other, with the addresses to use.

    `plain`: both take packets in clear as well. `relay`: the node that hands them on, if any; then
    `destination` is its address, and `relay_port` the first of those where it takes what is for the far one.
    """

    cost: int
    local: int
    remote: int
    source: str
    destination: str
    draining: bool = False  # at either end
    plain: bool = False
    relay: str = ""
    relay_port: int = 0


class Joined(NamedTuple):
    """A pair with a device here and one there whose keys are of the same generation; `far` is that one."""

    device: str
    generation: int
    pair: Pair
    far: Tunnel


class Way(NamedTuple):
    """A pair with a device at its position among the datapath's tunnels to the node.

    `generation` is that of its keys, None of a tunnel without encryption.
    """

    position: int
    device: str
    generation: int | None
    pair: Pair


def pairs(world: World, node: str) -> list[Pair]:
    """The tunnels towards a node, cheapest first, after them those through relays, and last those over an
    uplink that is drained; none to itself, a revoked or an unknown one.
    """
    record = world.nodes.get(node)
    if record is None or node == world.node or node in world.revoked:
        return []
    ends = [(near, far) for near in world.uplinks for far in record.uplinks if near.meeting == far.meeting]
    found = [
        relayed_pair(world, node, near, far) if near.relay else direct_pair(near, far) for near, far in ends
    ]
    return sorted(filter(None, found), key=lambda pair: (pair.draining, bool(pair.relay), pair))


def joined(world: World, node: str, generation: int) -> list[Joined]:
    """The pairs with keys of one generation at both ends, if operators allocated addresses to the node."""
    if node not in world.allocations or generation not in world.own_keys.generations:
        return []
    prefix = world.settings.datapath.prefix
    ready = pairs(world, node)
    ends = {(far.remote, far.local): far for far in world.nodes[node].tunnels_of(generation)} if ready else {}
    return [
        Joined(tunnel_device(prefix, pair.local, pair.remote, generation), generation, pair, end)
        for pair in ready
        if (end := ends.get((pair.local, pair.remote)))
    ]


def ways(world: World, node: str) -> list[Way]:
    """The tunnels that traffic to a node may take, those of the preferred generation first, then by cost.

    A tunnel keeps its position when others of another generation come and go, and so does what the
    datapath knows of it. Where both generations need more positions than there are, the new one is short
    of them: all that carries traffic now stays, but for the eighth. Those without encryption are of no
    generation; what encrypts over the same uplinks comes after all others of the preferred one.
    """
    plain = plain_ways(world, node)
    free = [position for position in range(MAX_PATHS) if position not in PLAIN_POSITIONS[: len(plain)]]
    both = [_open(world, node, generation) for generation in range(GENERATIONS)]
    preferred = world.own_keys.preferred
    other = 1 - preferred
    both[other] = both[other][: len(free) - bool(both[preferred])]
    both[preferred] = both[preferred][: len(free) - len(both[other])]
    placed = [
        [_placed(position, one) for position, one in zip(positions, joined, strict=False)]
        for positions, joined in zip((free, free[::-1]), both, strict=True)
    ]
    return _mingled(world, node, plain, placed[preferred]) + placed[other]


def plain_ways(world: World, node: str) -> list[Way]:
    """Those without encryption, by cost; one for each pair both ends of which take packets in clear."""
    if node not in world.allocations:
        return []
    prefix = world.settings.datapath.prefix
    there = [pair for pair in pairs(world, node) if pair.plain]
    return [
        Way(position, plain_device(prefix, pair.local, pair.remote), None, pair)
        for position, pair in zip(PLAIN_POSITIONS, there, strict=False)
    ]


def _placed(position: int, one: Joined) -> Way:
    return Way(position, one.device, one.generation, one.pair)


def _mingled(world: World, node: str, plain: list[Way], encrypted: list[Way]) -> list[Way]:
    """By cost, what is there in clear as well last, and behind all that what is drained."""
    if not plain:
        return encrypted
    ranks = {(pair.local, pair.remote): rank for rank, pair in enumerate(pairs(world, node))}
    clear = {(way.pair.local, way.pair.remote) for way in plain}

    def rank(way: Way) -> tuple[bool, bool, int]:
        ends = (way.pair.local, way.pair.remote)
        return way.pair.draining, way.generation is not None and ends in clear, ranks[ends]

    return sorted(plain + encrypted, key=rank)


def _open(world: World, node: str, generation: int) -> list[Joined]:
    """What is joined, unless one end is about to give it up: it hears by it until the other one knows."""
    record = world.nodes.get(node)
    if record is None or generation not in world.own_keys.open or generation not in record.keyring.open:
        return []
    return joined(world, node, generation)


def node_entries(world: World, node: str) -> Entries:
    """The datapath's list of tunnels towards a node, those that it is a peer of, and what fits into each."""
    place = world.node_numbers.find(node)
    if place is None or node not in world.nodes or node == world.node:
        return {}
    there = [way for way in ways(world, node) if way.device in world.links]
    # The map is an array: an entry of zeros is no entry.
    if not there:
        return {}
    mtu = workload_mtu(world)
    found = [(0, 0)] * MAX_PATHS
    for way in there:
        found[way.position] = (world.links[way.device].index, _carried(world, way.device, node, mtu))
    order = [way.position for way in there]
    value = node_value(found, order, shares=_shares(world, node, there))
    return {(Table.NODES, number(place - FIRST_NODE)): value}


def sharing(world: World, there: Sequence[Way]) -> int:
    """How many of the paths, which come in order of preference, share the flows; at most 1: none do.

    Those that are preferred as much as the first: alike in all but their ends, and of the same generation.
    """
    if world.settings.sharing is Sharing.OFF:
        return min(len(there), 1)
    ranks = [
        (way.generation, way.pair._replace(local=0, remote=0, source="", destination="")) for way in there
    ]
    return sum(rank == ranks[0] for rank in ranks)


def _shares(world: World, node: str, there: Sequence[Way]) -> list[int]:
    """For each slot the position of the path that takes it; empty where nothing is shared.

    A path weighs as much as the slower of its ends carries, all alike if that of one is unknown.
    """
    sharers = there[: sharing(world, there)]
    if len(sharers) < 2:
        return []
    near = {uplink.slot: uplink.capacity for uplink in world.uplinks}
    far = {uplink.slot: uplink.capacity for uplink in world.nodes[node].uplinks}
    ends = [(way.pair.local, way.pair.remote) for way in sharers]
    weights = [min(filter(None, (near[local], far[remote])), default=0) for local, remote in ends]
    known = all(weights)
    members = tuple(Member(*end, weight if known else 1) for end, weight in zip(ends, weights, strict=True))
    return [sharers[at].position for at in slots(members)]


def path_mtu(world: World, device: str, node: str) -> int:
    """The largest packet, in bytes, that workloads may send to a node through a tunnel device."""
    return _carried(world, device, node, workload_mtu(world))


def _carried(world: World, device: str, node: str, mtu: int) -> int:
    """Of a tunnel with new keys what was found for the one with old keys, until more is known."""
    carried = world.carried.get((device, node), world.carried.get((twin_device(device), node)))
    return mtu if carried is None else max(min(mtu, carried - RESERVED_FOR_IPIP), LEAST_MTU)


def tunnel_devices(world: World, generation: int) -> Iterator[tuple[int, int, str]]:
    """Every device that this node may have for a generation of keys: local uplink, remote slot, name."""
    prefix = world.settings.datapath.prefix
    for local, remote in product(range(len(world.settings.uplinks)), range(MAX_SLOTS)):
        yield local, remote, tunnel_device(prefix, local, remote, generation)


def tunnel_mtu(size: Size) -> int:
    """The largest IP packet, in bytes, that a tunnel over an uplink of this size carries whole."""
    return size.mtu - IP_HEADER[size.family] - UDP_HEADER - WIREGUARD_OVERHEAD


def workload_mtu(world: World) -> int:
    """The MTU of every workload, in bytes: what the tightest uplink of the fabric carries."""
    sizes = [*map(size_of, world.uplinks), *world.far_ends.sizes()]
    tightest = min(map(tunnel_mtu, sizes), default=LEAST_MTU + RESERVED_FOR_IPIP)
    return max(tightest - RESERVED_FOR_IPIP, LEAST_MTU)


def direct_pair(near: Uplink, far: Uplink) -> Pair | None:
    """Two uplinks of one segment, if they share an address family."""
    sources, destinations = addresses_of(near), addresses_of(far)
    shared = sources.keys() & destinations.keys()
    if not shared:
        return None
    family = min(shared)
    ends = near.cost + far.cost, near.slot, far.slot, sources[family], destinations[family]
    plain = bool(near.plain_port) and near.plain_port == far.plain_port
    return Pair(*ends, draining=near.draining or far.draining, plain=plain)


def relayed_pair(world: World, node: str, near: Uplink, far: Uplink) -> Pair | None:
    """Two uplinks through the same relay: if it says that it knows both nodes, and if it has uplinks in
    both segments and uses one address family in them. The header of a packet stays as large as it is.
    """
    if not world.is_member(near.relay):
        return None
    relay = world.nodes[near.relay]
    port = relay.relayed.get(node)
    ours, theirs = (direct_to(relay, one) for one in (near, far))
    if port is None or world.node not in relay.relayed or not ours or not theirs:
        return None
    if family_of(ours.destination) != family_of(theirs.destination):
        return None
    return Pair(
        near.cost + far.cost,
        near.slot,
        far.slot,
        ours.source,
        ours.destination,
        draining=ours.draining or theirs.draining,
        relay=near.relay,
        relay_port=port,
    )


def direct_to(relay: NodeRecord, uplink: Uplink) -> Pair | None:
    """How a relay is reached from an uplink through it."""
    there = [far for far in relay.uplinks if not far.relay and far.segment == uplink.segment]
    found = filter(None, (direct_pair(uplink, far) for far in there))
    return min(found, key=lambda pair: (pair.draining, pair), default=None)


def port_at_relay(first: int, generation: int, slot: int) -> int:
    """Where a relay takes what is for a node's tunnel by the uplink `slot`; `first` of the node's ports."""
    return first + MAX_SLOTS * generation + slot
