"""What a node should look like: tables of entries, and changes to them.

A plan is a value: sorted, printable and comparable. Each table is one kind of
thing in the kernel or in the store; `reconcile` has a target for each, and the
order of `Table` is the order of making (removal goes backwards).
"""

from collections.abc import Hashable, Iterator
from enum import Enum
from typing import Any, cast

import msgspec

from meshfabric.model.show import show_key, show_value

Key = Any  # hashable
Value = Any  # bytes for the datapath's maps, one of the structs below elsewhere


class Table(Enum):
    """The value is the name of the map, or of the thing."""

    TUNNELS = "tunnels"
    PEERS = "peers"
    PLAIN_DEVICES = "plain_devices"
    RULES = "rules"
    HOST_ADDRESSES = "host_addresses"
    ROUTES = "routes"
    MTUS = "mtus"
    QUEUES = "queues"
    DELAYS = "delays"
    FABRIC = "fabric"
    UPLINKS = "uplinks"
    PLAIN_ENDS = "plain_ends"
    RELAY_ENDS = "relay_ends"
    RELAY_SOURCES = "relay_sources"
    NODES = "nodes"
    PROBES = "probes"
    LOOP = "loop"
    CLASSES = "classes"
    CLASS_RULES = "class_rules"
    WORKLOADS = "workloads"
    DEVICES = "devices"
    POLICY = "policy"
    ADDRESSES = "addresses"
    PROGRAMS = "programs"
    RECORDS = "records"


MAPS = (
    Table.FABRIC,
    Table.UPLINKS,
    Table.PLAIN_ENDS,
    Table.RELAY_ENDS,
    Table.RELAY_SOURCES,
    Table.NODES,
    Table.PROBES,
    Table.LOOP,
    Table.CLASSES,
    Table.CLASS_RULES,
    Table.WORKLOADS,
    Table.DEVICES,
    Table.POLICY,
    Table.ADDRESSES,
)


class TunnelDevice(msgspec.Struct, frozen=True):
    """A WireGuard device (key: its name); `mark` leads its packets to routing table `table`."""

    local: int
    remote: int
    port: int
    mark: int
    mtu: int


class PlainDevice(msgspec.Struct, frozen=True):
    """A device of a tunnel without encryption (key: its name): VXLAN-GPE to UDP `port`, of which it takes in
    what has this VNI. Where each packet goes its program says.
    """

    vni: int
    port: int
    mtu: int


class TunnelPeer(msgspec.Struct, frozen=True):
    """A peer (key: device, public key); `endpoint` as WireGuard writes it."""

    node: str
    endpoint: str
    allowed_ips: tuple[str, ...]
    keepalive_s: int


class Rule(msgspec.Struct, frozen=True):
    """An ip rule of both families (key: mark): packets with `mark` use `table`."""

    table: int


class Route(msgspec.Struct, frozen=True):
    """A route (key: table, destination, metric). No device: unreachable.

    `mtu` in bytes, whatever routers on the way say of it; 0: the device's, less where they say so.
    """

    device: str = ""
    gateway: str = ""
    source: str = ""
    mtu: int = 0


class FairQueue(msgspec.Struct, frozen=True):
    """The queue of an uplink is to be fq (key: its device), unless an operator chose another."""

    ifindex: int


class Delay(msgspec.Struct, frozen=True):
    """A pair of devices (key: one of the two): what leaves by that one is held back, one packet after the
    other for `interval_ms`, and comes in by `peer`.
    """

    peer: str
    interval_ms: int


class Attachment(msgspec.Struct, frozen=True):
    """A program on a device (key: device, "ingress" or "egress"); only then may the device be up."""

    program: str
    ifindex: int


Unit = tuple[Hashable, ...]
Entries = dict[tuple[Table, Key], Value]


class Change(msgspec.Struct, frozen=True):
    """Set the entry to `value`, or remove it when that is None; `old` is what the plan had."""

    table: Table
    key: Key
    value: Value
    old: Value = None


class Plan:
    """All entries, by the unit of the world that they were compiled from.

    Addresses come by the ten thousand and each is its own unit, so they are
    kept flat, packed key to packed value. `rules` is what the compiler has read
    out of the policies so far, by subject: to be had again from the world.
    """

    def __init__(self) -> None:
        self.units: dict[Unit, Entries] = {}
        self.addresses: dict[bytes, bytes] = {}
        self.rules: dict[int, Any] = {}

    def entries(self, table: Table) -> Iterator[tuple[Key, Value]]:
        """Every entry of one table, in no particular order."""
        if table is Table.ADDRESSES:
            yield from self.addresses.items()
            return
        for entries in self.units.values():
            for (owner, key), value in entries.items():
                if owner is table:
                    yield key, value

    def table(self, table: Table) -> dict[Key, Value]:
        """One table as a mapping; the addresses are not copied."""
        return (
            dict(self.entries(table))
            if table is not Table.ADDRESSES
            else cast(dict[Key, Value], self.addresses)
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plan) and (self.units, self.addresses) == (other.units, other.addresses)

    __hash__ = None  # type: ignore[assignment]  # mutable, and mypy wants the parent's signature

    def __str__(self) -> str:
        return "\n".join(line for table in Table for line in sorted(self._lines(table.value, table)))

    def _lines(self, name: str, table: Table) -> Iterator[str]:
        for key, value in self.entries(table):
            yield f"{name} {show_key(name, key)} -> {show_value(name, value)}"
