"""The shapes of a lab's description: segments, nodes, workloads, and what follows from them (pure).

`topology` reads them from text, checks and completes them; everything else in
the lab works from a complete `Topology`.
"""

from ipaddress import IPv4Interface, IPv6Interface
from typing import Literal, NamedTuple, TypeVar

import msgspec

from meshfabric.lab import blocks
from meshfabric.lab.impairment import Impairment
from meshfabric.model.addresses import parse_network
from meshfabric.model.errors import InputError
from meshfabric.model.node import NodeKind
from meshfabric.model.settings import (
    Encryption,
    PodPair,
    RotationSettings,
    Sharing,
    WireGuardKind,
    WorldMode,
)
from meshfabric.model.yamltext import suggest

TAP_PREFIX = "tap-"

_Named = TypeVar("_Named", "Segment", "Node", "Uplink", "Workload")


class Segment(msgspec.Struct, frozen=True):
    """An underlay network of its own: segments do not reach each other. `mtu` in bytes.

    `encryption` off: its nodes say so of their uplinks, but for those that say otherwise.
    The rest is what befalls each crossing from one node to another, see `impairment`.
    """

    name: str
    ipv4: str = ""
    ipv6: str = ""
    mtu: int = 1500
    encryption: Encryption = Encryption.ON
    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    loss_percent: float = 0.0
    rate_mbit: float = 0.0
    black_hole_mtu: int = 0

    @property
    def impairment(self) -> Impairment:
        """What befalls each crossing."""
        return Impairment(
            self.delay_ms, self.jitter_ms, self.loss_percent, self.rate_mbit, self.black_hole_mtu
        )

    @property
    def subnets(self) -> tuple[str, ...]:
        """The subnets that are there, IPv4 first."""
        return tuple(filter(None, (self.ipv4, self.ipv6)))


class Uplink(msgspec.Struct, frozen=True):
    """A node's port in a segment; `name` is its device. `mtu` 0 and no `encryption` mean the segment's.

    `capacity`, in Mbit/s, is what its agent is told; `Segment.rate_mbit` is what holds.
    """

    name: str
    segment: str
    mtu: int = 0
    cost: int = 0
    capacity: int = 0
    encryption: Encryption | None = None


class Node(msgspec.Struct, frozen=True):
    """One machine. `blocks` are its fabric addresses; none in the file means: cut some.

    `relay_mbit`: it hands on others' packets; `through`: the relays that it uses, by each of its uplinks.
    """

    name: str
    uplinks: tuple[Uplink, ...]
    kind: NodeKind = NodeKind.METAL
    labels: dict[str, str] = {}
    blocks: tuple[str, ...] = ()
    wireguard: WireGuardKind = WireGuardKind.AUTO
    pods: PodPair = PodPair.AUTO
    relay_mbit: int = 0
    through: tuple[str, ...] = ()


class Workload(msgspec.Struct, frozen=True):
    """Something that runs on a node: a pod, or a virtual machine behind a tap."""

    name: str
    node: str
    kind: Literal["pod", "vm"] = "pod"
    labels: dict[str, str] = {}
    ports: dict[str, str] = {}

    @property
    def tap(self) -> str:
        """The tap on the node that a virtual machine is behind."""
        return TAP_PREFIX + self.name


class Etcd(msgspec.Struct, frozen=True):
    """The store, which runs beside the segments and listens in each of them."""

    port: int = 2379
    heartbeat_ms: int = 100
    election_ms: int = 1000


class Probe(msgspec.Struct, frozen=True):
    """How often the agents probe each tunnel, and when one is left for a better one (docs/paths.md)."""

    interval_ms: int = 50
    loss_percent: float = 10.0
    rtt_ms: float = 300.0
    hold_s: float = 32.0


class Topology(msgspec.Struct, frozen=True):
    """A whole lab. From `read` it is complete: blocks cut, MTUs set, everything checked.

    `impaired_by` says what delays and loses where a segment asks for it; auto: netem where there is one.
    """

    segments: tuple[Segment, ...]
    nodes: tuple[Node, ...]
    fabric: str = "lab"
    prefixes: tuple[str, ...] = ("10.64.0.0/16", "fd6d:6600::/48")
    workloads: tuple[Workload, ...] = ()
    etcd: Etcd = Etcd()
    probe: Probe = Probe()
    rotation: RotationSettings = RotationSettings()
    drift_check_s: float = 30.0
    world: WorldMode = WorldMode.OFF
    sharing: Sharing = Sharing.OFF
    impaired_by: Literal["auto", "netem", "cable"] = "auto"

    def node(self, name: str) -> Node:
        """The node of that name; `InputError` with the nearest one."""
        return _find(self.nodes, name, "the lab has no node")

    def segment(self, name: str) -> Segment:
        """The segment of that name; `InputError` with the nearest one."""
        return _find(self.segments, name, "the lab has no segment")

    def uplink(self, node: str, name: str) -> Uplink:
        """The uplink of that node and name; `InputError` with the nearest one."""
        return _find(self.node(node).uplinks, name, f"node {node} has no uplink")

    def workloads_of(self, node: str) -> list[Workload]:
        """The workloads on a node, in the file's order."""
        return [workload for workload in self.workloads if workload.node == node]

    def workload(self, node: str, name: str) -> Workload:
        """The workload of that node and name; `InputError` with the nearest one."""
        return _find(tuple(self.workloads_of(node)), name, f"node {node} has no workload")

    def ports(self, segment: str) -> list["Port"]:
        """What is plugged into a segment, in the file's order, with underlay addresses."""
        subnets = [parse_network(text) for text in self.segment(segment).subnets]
        plugged = [
            (node.name, slot, uplink)
            for node in self.nodes
            for slot, uplink in enumerate(node.uplinks)
            if uplink.segment == segment
        ]
        return [
            Port(node, slot, uplink, tuple(blocks.host(subnet, i) for subnet in subnets))
            for i, (node, slot, uplink) in enumerate(plugged, 1)
        ]

    def own_addresses(self, segment: str) -> list[IPv4Interface | IPv6Interface]:
        """The addresses of the underlay itself in a segment, where etcd listens."""
        return [blocks.host(parse_network(text), 0) for text in self.segment(segment).subnets]


class Port(NamedTuple):
    """An uplink in its segment, with its underlay addresses (one of each family of the segment)."""

    node: str
    slot: int
    uplink: Uplink
    addresses: tuple[IPv4Interface | IPv6Interface, ...]


def _find(among: tuple[_Named, ...], name: str, absence: str) -> _Named:
    for each in among:
        if each.name == name:
            return each
    raise InputError(f"{absence} {name!r}", remedy=suggest(name, [each.name for each in among]))
