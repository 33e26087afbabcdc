"""The fabric that agents are shown: one node of ours, and others with endpoints by the ten thousand.

What operators and nodes would have written, as keys and values of etcd. The
others share no segment with ours: they cost an agent memory and events, not
tunnels. Endpoints are of some hundred label sets, as in a fabric where many run the same.
"""

from collections.abc import Iterator

import msgspec

from meshfabric.model.addresses import MAPPED, Address
from meshfabric.model.node import (
    AllocationRecord,
    EndpointRecord,
    FabricRecord,
    GrantRecord,
    NodeKind,
    NodeRecord,
    Uplink,
)
from meshfabric.store.keys import (
    allocation_key,
    config_key,
    endpoint_key,
    grant_key,
    node_key,
)

FABRIC = "bench"
HERE = "here"
SEGMENT, ELSEWHERE = "near", "far"
PREFIXES = ("10.0.0.0/8",)
OWN_BLOCK = "10.255.0.0/24"
PER_NODE = 5000
"""Endpoints; a registry takes 8,192 of one node (`store.endpoints`)."""
LABEL_SETS = 500
_BLOCK_BITS = 16
_FIRST_HOST = 16  # in the block; the first few are the node's own
_FIRST_ADDRESS = 10 << 24

Item = tuple[bytes, bytes]


def fabric(endpoints: int) -> Iterator[Item]:
    """All records of a fabric with so many endpoints on other nodes."""
    yield config_key(FABRIC).encode(), msgspec.json.encode(FabricRecord(PREFIXES))
    yield from granted(HERE, OWN_BLOCK)
    for number in range(-(-endpoints // PER_NODE) + 1):  # one more, for those that come later
        yield from granted(name_of(number), f"10.{number}.0.0/{_BLOCK_BITS}")
        yield node(number)
    yield from map(endpoint, range(endpoints))


def granted(name: str, block: str) -> Iterator[Item]:
    """What operators write of a node."""
    yield allocation_key(FABRIC, name).encode(), msgspec.json.encode(AllocationRecord((block,)))
    yield grant_key(FABRIC, name).encode(), msgspec.json.encode(GrantRecord({"*": ("*",)}))


def node(number: int) -> Item:
    """What one of the other nodes says of itself."""
    uplink = Uplink(0, "up0", ELSEWHERE, (f"198.19.{number >> 8}.{number & 255}",), 1500)
    record = NodeRecord(name_of(number), NodeKind.METAL, {}, (uplink,))
    return node_key(FABRIC, record.name).encode(), msgspec.json.encode(record)


def endpoint(number: int, labels: int | None = None) -> Item:
    """The endpoint of that number, with the label set of that number."""
    chosen = number % LABEL_SETS if labels is None else labels
    record = EndpointRecord(
        f"shop/web-{number}",
        "pod",
        {"app": f"app{chosen}", "tier": f"tier{chosen % 10}", "team": f"team{chosen % 5}", "env": "prod"},
    )
    key = endpoint_key(FABRIC, name_of(number // PER_NODE), address_of(number))
    return key.encode(), msgspec.json.encode(record)


def name_of(number: int) -> str:
    """One of the other nodes."""
    return f"node{number}"


def address_of(number: int) -> Address:
    """The address of an endpoint, in a block of its node."""
    block, host = divmod(number, PER_NODE)
    return MAPPED + (_FIRST_ADDRESS + (block << _BLOCK_BITS) + _FIRST_HOST + host).to_bytes(4, "big")
