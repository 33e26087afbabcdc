"""Whose address is it, and where: one entry for each address in use, and what lies around them.

    10.1.0.7/32        its workload's identity, at its place      for each address in use
    10.0.0.0/8         nobody, nowhere                            for each prefix of the fabric
    198.51.100.0/24    the network's identity, at WORLD           for each network that policies name
    0.0.0.0/0, ::/0    WORLD_IDENTITY, at WORLD

All but the first only on a node whose workloads speak with the world, and not
before the fabric's prefixes are known: an address of the fabric is never taken
for one outside. Therefore a network that lies in a prefix of the fabric has no
entry, and is nobody's. So are the addresses of a node that was revoked: no policy
knows them, and no flow of theirs goes on.
"""

from collections.abc import Iterable, Iterator

from meshfabric.model.addresses import ADDRESS_BITS, Address, Network, Prefix, contains, prefix_of
from meshfabric.model.networks import EVERYWHERE, WORLD_IDENTITY
from meshfabric.model.settings import WorldMode
from meshfabric.model.tables import NOWHERE, WORLD, address_value
from meshfabric.model.world import World

NOBODY = address_value(0, NOWHERE)
ELSEWHERE = address_value(WORLD_IDENTITY, WORLD)


def address_entry(world: World, prefix: Prefix) -> bytes | None:
    """The value, or None: what is attached here comes before what the store says."""
    held = _held(world, prefix.address) if prefix.length == ADDRESS_BITS else None
    return held if held is not None else _around(world, prefix)


def prefixes_around(world: World, before: Iterable[Network] = ()) -> Iterator[Prefix]:
    """Every prefix that may have an entry and is no address in use; `before` were the fabric's."""
    yield from map(prefix_of, (*world.prefixes.get("", ()), *before, *world.networks.by_number.values()))
    yield from EVERYWHERE


def knows_world(world: World) -> bool:
    """Whether there is anything outside of the fabric for this node's workloads."""
    return world.settings.world is not WorldMode.OFF


def _around(world: World, prefix: Prefix) -> bytes | None:
    fabric = [prefix_of(network) for network in world.prefixes.get("", ())]
    if not fabric or not knows_world(world):
        return None
    if prefix in fabric:
        return NOBODY
    if any(one.length < prefix.length and contains(one, prefix.address) for one in fabric):
        return None
    number = world.networks.by_prefix.get(prefix)
    if number is not None:
        return address_value(number, WORLD)
    return ELSEWHERE if prefix in EVERYWHERE else None


def _held(world: World, address: Address) -> bytes | None:
    name = world.here.get(address)
    if name is not None:
        place = world.workload_numbers[name]
        return address_value(world.identity(world.workloads[name].labels), place)
    endpoint = world.endpoints.get(address)
    if endpoint is None or endpoint.node == world.node or endpoint.node in world.revoked:
        return None
    return address_value(world.identity(endpoint.labels), world.node_numbers[endpoint.node])


def addresses_of_node(world: World, node: str) -> Iterator[Address]:
    """Every address that the store has for a node; looks at all of them."""
    return (address for address, endpoint in world.endpoints.items() if endpoint.node == node)
