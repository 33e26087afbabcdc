"""Whose address is it, and where: one entry for each address in use.

Those of a node that was revoked are nobody's: no policy knows them, and no flow of theirs goes on.
"""

from collections.abc import Iterator

from meshfabric.model.addresses import Address, host_prefix
from meshfabric.model.tables import address_key, address_value
from meshfabric.model.world import World


def key_of(address: Address) -> bytes:
    """The key in the `addresses` table."""
    return address_key(host_prefix(address))


def address_entry(world: World, address: Address) -> bytes | None:
    """The value, or None: what is attached here comes before what the store says."""
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
