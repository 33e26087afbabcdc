"""A small fabric as one node sees it: the world of the packet tests, and how it gets into the maps.

                    this node                                       other nodes
      +------------------------------------------+
      | alpha 10.77.0.1, fd77::1   place 1  pod  |   mfwg00   +--> far   10.77.1.0/24, fd77:0:0:1::/64  4096
      | beta  10.77.0.2, fd77::2   place 2  pod  |---mfwg01---+
      | guest 10.77.0.3, fd77::3   place 3  tap  |            +--> away  10.77.2.0/24, fd77:0:0:2::/64  4097
      | host  10.77.0.9, fd77::9   place 4  self |                 (mute: place 4098, no tunnel yet)
      +------------------------------------------+

Plain records; `Tables` packs them with `meshfabric.model.tables`, `oracle` judges
packets by them.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_network

from meshfabric.kernel.bpf import Map, MapType
from meshfabric.model import tables
from meshfabric.model.addresses import ADDRESS_BITS, Prefix, parse_address, parse_network, prefix_of
from meshfabric.model.tables import Delivery, Direction, Verdict

GATEWAY_MAC = "02:6d:66:00:00:01"
POD_MTU = 1380
GUEST_MTU = 1300
TCP, UDP, ICMP, ICMPV6, SCTP, GRE = 6, 17, 1, 58, 132, 47
ANY = 0

ALPHA, BETA, GUEST, HOST = 1, 2, 3, 4
FAR, AWAY, MUTE = tables.FIRST_NODE, tables.FIRST_NODE + 1, tables.FIRST_NODE + 2

# identities
ID_ALPHA, ID_BETA, ID_GUEST, ID_HOST, ID_FAR, ID_AWAY, ID_MUTE = 101, 102, 103, 104, 201, 202, 203


@dataclass
class Workload:
    """A local workload; `device` is the node's side, and runs `from_netkit` where that is a `netkit`."""

    device: str
    identity: int
    mac: str
    mtu: int = POD_MTU
    delivery: Delivery = Delivery.PEER
    netkit: bool = False
    class_number: int = 0
    class_rules: int = 0


@dataclass
class Node:
    """Another node: names of the tunnels towards it, the preferred one first.

    `mtu` is what fits over the first, 0 anything; over the others too, unless `other_mtu` says else.
    `probed` are the two ends of the probes to it, if there are any.
    """

    tunnels: list[str]
    mtu: int = 0
    other_mtu: int | None = None
    probed: tuple[str, str] | None = None


@dataclass(frozen=True)
class Owner:
    """Who holds an address."""

    identity: int
    place: int


@dataclass(frozen=True)
class Rule:
    """One policy entry. `port_bits` None is any port, protocol 0 any protocol."""

    subject: int
    peer: int
    direction: int
    verdict: Verdict = Verdict.ALLOW
    protocol: int = 0
    port: int = 0
    port_bits: int | None = None
    precedence: int = 100
    audited: bool = False


@dataclass(frozen=True)
class ClassRule:
    """What class a workload's packets are of; `dscp` ANY_DSCP and protocol 0 are any."""

    place: int
    number: int
    dscp: int = tables.ANY_DSCP
    protocol: int = 0
    port: int = 0
    port_bits: int = 0


@dataclass
class World:
    """Everything that the agent would have written; generations by place."""

    workloads: dict[int, Workload] = field(default_factory=dict)
    nodes: dict[int, Node] = field(default_factory=dict)
    addresses: dict[str, Owner] = field(default_factory=dict)
    rules: list[Rule] = field(default_factory=list)
    class_rules: list[ClassRule] = field(default_factory=list)
    classes: dict[int, bytes] = field(default_factory=dict)
    capacity: dict[str, int] = field(default_factory=dict)  # of an uplink, in bit/s
    generations: dict[int, int] = field(default_factory=dict)
    prefixes: tuple[str, ...] = ("10.77.0.0/16", "fd77::/32")
    exposed: tuple[str, ...] = ()
    host: int = HOST
    slots: dict[str, int] = field(default_factory=dict)
    underlay: dict[str, tuple[str, ...]] = field(default_factory=dict)  # addresses of an uplink

    def copy(self) -> "World":
        """One that may be changed."""
        return copy.deepcopy(self)

    def bump(self, *places: int) -> None:
        """What was decided about these places is to be decided again."""
        for place in places:
            self.generations[place] = self.generations.get(place, 0) + 1

    def is_netkit(self, device: str) -> bool:
        """Whether a netkit pair is behind the device."""
        return any(one.netkit for one in self.workloads.values() if one.device == device)

    @property
    def devices(self) -> list[str]:
        """Every device, without repetition, in a fixed order."""
        tunnels = {name for node in self.nodes.values() for name in node.tunnels}
        return [*(w.device for w in self.workloads.values()), *sorted(tunnels), *sorted(self.slots)]


def both(subject: int, peer: int, **rest: int) -> list[Rule]:
    """Egress and ingress of one subject and one peer."""
    return [Rule(subject, peer, direction, **rest) for direction in Direction]  # type: ignore[arg-type]  # fields by name


def standard() -> World:
    """The fabric of the drawing. alpha may speak to all; beta answers, and takes only some ports."""
    return World(
        workloads={
            ALPHA: Workload("mfp1", ID_ALPHA, "02:6d:66:01:00:01"),
            BETA: Workload("mfp2", ID_BETA, "02:6d:66:01:00:02"),
            GUEST: Workload("mfp3", ID_GUEST, "02:6d:66:01:00:03", GUEST_MTU, Delivery.EGRESS),
            HOST: Workload("mfhost1", ID_HOST, "02:6d:66:01:00:04", delivery=Delivery.EGRESS),
        },
        nodes={FAR: Node(["mfwg00", "mfwg01"]), AWAY: Node(["mfwg01", "mfwg00"]), MUTE: Node([])},
        addresses={
            "10.77.0.1": Owner(ID_ALPHA, ALPHA),
            "fd77::1": Owner(ID_ALPHA, ALPHA),
            "10.77.0.2": Owner(ID_BETA, BETA),
            "fd77::2": Owner(ID_BETA, BETA),
            "10.77.0.3": Owner(ID_GUEST, GUEST),
            "fd77::3": Owner(ID_GUEST, GUEST),
            "10.77.0.9": Owner(ID_HOST, HOST),
            "fd77::9": Owner(ID_HOST, HOST),
            "10.77.1.0/24": Owner(ID_FAR, FAR),
            "fd77:0:0:1::/64": Owner(ID_FAR, FAR),
            "10.77.2.0/24": Owner(ID_AWAY, AWAY),
            "fd77:0:0:2::/64": Owner(ID_AWAY, AWAY),
            "10.77.3.0/24": Owner(ID_MUTE, MUTE),
            "fd77:0:0:3::/64": Owner(ID_MUTE, MUTE),
        },
        rules=[
            Rule(ID_ALPHA, ANY, Direction.EGRESS),
            Rule(ID_ALPHA, ID_FAR, Direction.INGRESS, protocol=TCP, port=443, port_bits=16),
            Rule(ID_BETA, ID_ALPHA, Direction.INGRESS, protocol=TCP, port=8080, port_bits=16),
            Rule(ID_BETA, ID_ALPHA, Direction.INGRESS, protocol=UDP, port=0x1F00, port_bits=8),
            Rule(ID_BETA, ID_ALPHA, Direction.INGRESS, protocol=ICMP, port=8, port_bits=16),
            Rule(ID_BETA, ID_ALPHA, Direction.INGRESS, protocol=ICMPV6, port=128, port_bits=16),
            Rule(ID_BETA, ID_ALPHA, Direction.INGRESS, protocol=SCTP),
            Rule(ID_BETA, ID_FAR, Direction.INGRESS),
            Rule(ID_BETA, ID_FAR, Direction.INGRESS, Verdict.DENY, TCP, 22, 16),
            Rule(ID_GUEST, ANY, Direction.INGRESS),
            Rule(ID_GUEST, ID_AWAY, Direction.INGRESS, Verdict.DENY, precedence=200),
            Rule(ID_GUEST, ID_FAR, Direction.EGRESS, protocol=UDP, port=53, port_bits=16),
            Rule(ID_HOST, ANY, Direction.EGRESS),
            Rule(ID_HOST, ANY, Direction.INGRESS),
        ],
        generations={ALPHA: 7, BETA: 8, GUEST: 1, HOST: 1, FAR: 3, AWAY: 4, MUTE: 1},
        slots={"up0": 0, "up1": 1},
    )


def packed_address(text: str) -> bytes:
    """Key of `addresses` for an address or a prefix."""
    if text == "::/0":  # 0.0.0.0/0 lies in it, and is longer
        return tables.address_key(Prefix(0, bytes(16)))
    if "/" in text:
        return tables.address_key(prefix_of(ip_network(text)))
    return tables.ADDRESS_KEY.pack(ADDRESS_BITS, parse_address(text))


def _packed_node(world: World, place: int, ifindex: Mapping[str, int]) -> bytes:
    node = world.nodes[place]
    other = node.mtu if node.other_mtu is None else node.other_mtu
    mtus = [node.mtu] + [other] * len(node.tunnels)
    return tables.node_value([(ifindex[name], mtu) for name, mtu in zip(node.tunnels, mtus, strict=False)])


def _prefixes(texts: tuple[str, ...]) -> list[Prefix]:
    return [prefix_of(parse_network(text)) for text in texts]


def packed(world: World, ifindex: Mapping[str, int]) -> dict[str, dict[bytes, bytes]]:
    """Map name -> its entries; `ifindex` by device name."""
    number = tables.number
    return {
        "addresses": {
            packed_address(text): tables.address_value(owner.identity, owner.place)
            for text, owner in world.addresses.items()
        },
        "policy": {
            tables.policy_key(r.subject, r.peer, r.direction, r.protocol, r.port, r.port_bits): (
                tables.policy_value(r.precedence, r.verdict, r.audited)
            )
            for r in world.rules
        },
        "workloads": {
            number(place): tables.workload_value(
                ifindex[w.device], w.identity, w.mtu, w.delivery, w.mac, w.class_number, w.class_rules
            )
            for place, w in world.workloads.items()
        },
        "class_rules": {
            tables.class_rule_key(r.place, r.dscp, r.protocol, r.port, r.port_bits): number(r.number)
            for r in world.class_rules
        },
        "classes": {number(which): value for which, value in world.classes.items()},
        "devices": {number(ifindex[w.device]): number(place) for place, w in world.workloads.items()},
        "nodes": {
            number(place - tables.FIRST_NODE): _packed_node(world, place, ifindex) for place in world.nodes
        },
        "probes": {
            number(place - tables.FIRST_NODE): tables.probe_value(*map(parse_address, node.probed))
            for place, node in world.nodes.items()
            if node.probed
        },
        "generations": {number(place): number(value) for place, value in world.generations.items()},
        "fabric": {
            number(0): tables.fabric_value(world.host, _prefixes(world.prefixes), _prefixes(world.exposed))
        },
        "uplinks": {
            number(slot): tables.uplink_value(
                ifindex[name],
                map(parse_address, world.underlay.get(name, ())),
                world.capacity.get(name, 0),
                slot,
            )
            for name, slot in world.slots.items()
        },
    }


class Tables:
    """The maps, and what was written to them last: only differences are written."""

    def __init__(self, maps: Mapping[str, Map], ifindex: Mapping[str, int]) -> None:
        self._maps, self._ifindex = maps, ifindex
        self._written: dict[str, dict[bytes, bytes]] = {}

    def write(self, world: World) -> None:
        """Make the maps say what the world says, and nothing else."""
        for name, wanted in packed(world, self._ifindex).items():
            held, before = self._maps[name], self._written.get(name, {})
            gone = before.keys() - wanted.keys()
            changed = [(key, value) for key, value in wanted.items() if before.get(key) != value]
            if held.type is MapType.ARRAY:
                changed += [(key, bytes(held.value_size)) for key in gone]
            else:
                held.delete_batch(gone)
            held.update_batch(changed)
            self._written[name] = wanted
