"""A fabric of pure worlds: each node compiles, and what it would do comes back to it and the others.

Where the real thing has a kernel and a store, here tunnels that a plan wants
get a device and a key at once, and records travel to every node. `settle` goes
on until nobody has anything left to do.
"""

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_interface, ip_network

import msgspec

from meshfabric.compiler.step import compile_plan, step
from meshfabric.model.addresses import parse_address
from meshfabric.model.names import host_devices, workload_mac
from meshfabric.model.node import (
    Allocation,
    Endpoint,
    EndpointRecord,
    Link,
    NodeKind,
    NodeRecord,
    Workload,
)
from meshfabric.model.plan import Table
from meshfabric.model.settings import Encryption, EtcdSettings, Settings, UplinkSettings
from meshfabric.model.world import Event, Kind, World
from meshfabric.store.rights import endpoint_labels

PREFIXES = (ip_network("10.1.0.0/16"), ip_network("fd00:1::/48"))
ROUNDS = 6
"""Uplinks, tunnels, keys and devices of the others are known after four; more would mean a circle."""


@dataclass(frozen=True)
class Attachment:
    """An uplink of a node: its segment, its cost and its addresses with prefix length.

    With a relay it is the device of the node's uplink before it.
    """

    segment: str
    addresses: tuple[str, ...]
    mtu: int = 1500
    cost: int = 0
    capacity: int = 0
    encryption: Encryption = Encryption.ON
    relay: str = ""


class Node:
    """One node's world and plan."""

    def __init__(self, number: int, uplinks: Sequence[Attachment], relay_mbit: int = 0) -> None:
        self.number, self.name = number, f"n{number}"
        self.world = World(_settings(self.name, uplinks, relay_mbit))
        self.plan = compile_plan(self.world)
        self._indexes: dict[str, int] = {}
        self.tell(Event(Kind.PREFIXES, "", PREFIXES))
        for uplink, configured in zip(uplinks, self.world.settings.uplinks, strict=True):
            self.see(configured.device, uplink.mtu, uplink.addresses)

    def tell(self, event: Event) -> None:
        """Step the plan."""
        step(self.world, self.plan, event)

    def see(self, device: str, mtu: int = 1500, addresses: tuple[str, ...] = ()) -> None:
        """A device is there; its index is its place in the order of appearance."""
        index = self._indexes.setdefault(device, len(self._indexes) + 2)
        self.tell(Event(Kind.LINK, device, Link(device, index, workload_mac(index), mtu, True, addresses)))

    def attach(
        self, kind: str, name: str, labels: dict[str, str], device: str, addresses: Iterable[str]
    ) -> None:
        """A workload behind a device."""
        self.see(device)
        own = tuple(map(parse_address, addresses))
        mac = workload_mac(len(self.world.workloads) + 1)
        workload = Workload(name, kind, endpoint_labels(kind, self.name, labels), own, device, mac)
        self.tell(Event(Kind.WORKLOAD, name, workload))

    def attach_host(self) -> None:
        """The node itself, with the first address of each of its blocks."""
        outer, inner = host_devices(self.world.settings.datapath.prefix)
        self.see(outer)
        own = [str(block[1]) for block in blocks(self.number)]
        self.attach("host", self.name, {}, inner, own)

    def carry_out(self) -> None:
        """Devices and keys for the tunnels of the plan."""
        for device in self.plan.table(Table.PLAIN_DEVICES):
            self.see(str(device))
        for device in self.plan.table(Table.TUNNELS):
            self.see(str(device))
            self.tell(Event(Kind.KEY, device, f"key-{self.name}-{device}="))

    def records(self) -> Iterator[Event]:
        """What it writes to the store, as others read it."""
        for key, value in self.plan.entries(Table.RECORDS):
            kind, name, *address = str(key).split("/")
            if kind == "nodes":
                yield Event(Kind.NODE, name, msgspec.json.decode(value, type=NodeRecord))
            else:
                record = msgspec.json.decode(value, type=EndpointRecord)
                labels = endpoint_labels(record.kind, name, record.labels)
                endpoint = Endpoint(name, record.workload, record.kind, labels)
                yield Event(Kind.ENDPOINT, parse_address(address[0]), endpoint)


def _settings(name: str, uplinks: Sequence[Attachment], relay_mbit: int) -> Settings:
    configured = tuple(
        UplinkSettings(
            f"up{slot}",
            f"eth{slot - 1 if uplink.relay else slot}",
            uplink.segment,
            uplink.cost,
            capacity=uplink.capacity,
            encryption=uplink.encryption,
            relay=uplink.relay,
        )
        for slot, uplink in enumerate(uplinks)
    )
    etcd = EtcdSettings(("http://192.0.2.1:2379",))
    return Settings("lab", name, NodeKind.VM, etcd, configured, relay_mbit=relay_mbit)


def blocks(number: int) -> tuple[IPv4Network | IPv6Network, ...]:
    """What operators gave to node `number`."""
    return ip_network(f"10.1.{number}.0/24"), ip_network(f"fd00:1:0:{number:x}::/64")


def fabric(uplinks: Sequence[Sequence[Attachment]], relays: Container[str] = ()) -> list[Node]:
    """Nodes n1, n2, .. with these uplinks, settled."""
    nodes = [
        Node(number, own, relay_mbit=100 if f"n{number}" in relays else 0)
        for number, own in enumerate(uplinks, 1)
    ]
    for node in nodes:
        own = blocks(node.number)
        allocation = Allocation(own, tuple(parse_address(str(block[1])) for block in own))
        for other in nodes:
            other.tell(Event(Kind.ALLOCATION, node.name, allocation))
    for node in nodes:
        node.attach_host()
    settle(nodes)
    return nodes


def settle(nodes: Sequence[Node]) -> None:
    """Until nobody has anything left to do."""
    for _ in range(ROUNDS):
        before = [str(node.plan) for node in nodes]
        for node in nodes:
            node.carry_out()
        for event in [event for node in nodes for event in node.records()]:
            for node in nodes:
                node.tell(event)
        if [str(node.plan) for node in nodes] == before:
            return
    raise AssertionError(f"not settled after {ROUNDS} rounds")


def address_in(uplink: Attachment, family: int) -> str:
    """The uplink's address of a family, without length; empty if it has none."""
    found = [str(one.ip) for one in map(ip_interface, uplink.addresses) if one.version == family]
    return found[0] if found else ""
