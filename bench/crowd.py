"""The records of a fabric of many equal nodes: what operators and a thousand agents would have written.

Every node has one uplink in the one segment, a block of 256 addresses, and on it
its host and one pod.
"""

from base64 import b64encode
from collections.abc import Iterator
from hashlib import sha256
from ipaddress import ip_network

import msgspec

from meshfabric.model.addresses import Address, Network, parse_address
from meshfabric.model.node import (
    AllocationRecord,
    EndpointRecord,
    FabricRecord,
    GrantRecord,
    NodeKind,
    NodeRecord,
    Tunnel,
    Uplink,
)
from meshfabric.store.keys import (
    allocation_key,
    config_key,
    endpoint_key,
    grant_key,
    node_key,
    policy_key,
)

FABRIC = "crowd"
SEGMENT = "all"
PREFIXES = ("10.0.0.0/8",)
MTU = 1500
PORT = 51820
LABEL_SETS = 100
FIRST_POD = 16  # in a block

Item = tuple[bytes, bytes]


def fabric(nodes: int) -> Iterator[Item]:
    """All records."""
    yield config_key(FABRIC).encode(), msgspec.json.encode(FabricRecord(PREFIXES))
    for number in range(nodes):
        yield from _of_node(number)


def policy(turn: int) -> Item:
    """A policy for everybody, other in each turn: every agent has something to apply."""
    ports = [f"tcp/{1000 + turn}"]
    record = {"name": "everybody", "select": "*", "ingress": [{"ports": ports}]}
    return policy_key(FABRIC, "everybody").encode(), msgspec.json.encode(record)


def pod(number: int, labels: int) -> Item:
    """The pod of a node, with the label set of that number."""
    chosen = labels % LABEL_SETS
    record = EndpointRecord(f"shop/web-{number}", "pod", {"app": f"app{chosen}", "team": f"team{chosen % 5}"})
    address = address_in(ip_network(block_of(number)), FIRST_POD)
    return endpoint_key(FABRIC, name_of(number), address).encode(), msgspec.json.encode(record)


def name_of(number: int) -> str:
    """A node."""
    return f"node{number}"


def block_of(number: int) -> str:
    """Its fabric addresses."""
    return f"10.{number >> 8}.{number & 255}.0/24"


def address_in(block: Network, host: int = 1) -> Address:
    """An address of a block; the node's own is the first."""
    return parse_address(str(block[host]))


def underlay_of(number: int) -> str:
    """The address of its uplink."""
    return f"198.18.{1 + (number >> 8)}.{number & 255}"


def public_key(number: int) -> str:
    """The key of its one tunnel device."""
    return b64encode(sha256(name_of(number).encode()).digest()).decode()


def _of_node(number: int) -> Iterator[Item]:
    name, block = name_of(number), ip_network(block_of(number))
    uplink = Uplink(0, "up0", SEGMENT, (underlay_of(number),), MTU)
    tunnel = Tunnel(0, 0, public_key(number), PORT)
    record = NodeRecord(name, NodeKind.METAL, {}, (uplink,), (tunnel,))
    host = endpoint_key(FABRIC, name, address_in(block))
    yield allocation_key(FABRIC, name).encode(), msgspec.json.encode(AllocationRecord((str(block),)))
    yield grant_key(FABRIC, name).encode(), msgspec.json.encode(GrantRecord({"*": ("*",)}))
    yield node_key(FABRIC, name).encode(), msgspec.json.encode(record)
    yield host.encode(), msgspec.json.encode(EndpointRecord(name, "host"))
    yield pod(number, number)
