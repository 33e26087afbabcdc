"""The same answers by simpler means: slow, short and without the structures that they are held against.

`says_who` reads policies as a person would, tier after tier; `asks_table` looks a packet up in
compiled entries as the datapath does (bpf/include/types.h); `meaning` is a plan
with every number replaced by what it stands for, so that plans of worlds that
gave out their numbers in another order can be compared.
"""

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv6Address
from itertools import product
from typing import Any

from meshfabric.model.addresses import Network
from meshfabric.model.labels import Labels
from meshfabric.model.networks import Cidr
from meshfabric.model.plan import Plan, Table
from meshfabric.model.policy import Action, Entity, Mode, Peer, Policy, Rule, Tier
from meshfabric.model.ports import PROTOCOLS
from meshfabric.model.qos import NUMBERS
from meshfabric.model.settings import WorldMode
from meshfabric.model.tables import (
    ADDRESS_KEY,
    ADDRESS_VALUE,
    AUDITING,
    CLASS_RULE_KEY,
    FABRIC_HEAD,
    FIRST_NODE,
    NUMBER,
    POLICY_KEY,
    POLICY_VALUE,
    WORKLOAD,
    WORLD,
    Direction,
    Verdict,
)
from meshfabric.model.world import World
from tests.vocabulary import MEANING, PORT_MEANING

ANYONE, ANYONE_OUTSIDE, ELSEWHERE = 0, 1, 2
KEY_BITS, ADDRESS_BITS = 96, 128

PROTOCOL_NAMES = {number: name for name, number in PROTOCOLS.items()}

Outside = IPv4Address | IPv6Address
Whom = Labels | Outside | None
"""A peer: by its labels, by its address outside of the fabric, or nobody that is known."""


def says_who(
    policies: Iterable[Policy],
    own_host: Labels | None,
    subject: Labels,
    peer: Whom,
    direction: Direction,
    packet: tuple[int, int],
    apiservers: Iterable[Network] = (),
    modes: Iterable[Mode] = (Mode.ENFORCE,),
) -> bool:
    """Whether documents of these modes let `subject` exchange the packet (protocol, port) with `peer`.

    One tier after the other; `own_host` are the labels of the host that the subject is on.
    """
    policies = [policy for policy in policies if policy.mode in modes]
    asked = [policy for policy in policies if MEANING[policy.select](dict(subject))]
    asked = [policy for policy in asked if _rules(policy, direction) is not None]

    def actions(tier: Tier, priority: int | None = None, place: int = 0) -> set[Action]:
        return {
            rule.action
            for policy in asked
            if policy.tier is tier and priority in (None, policy.priority)
            for number, rule in enumerate(_rules(policy, direction) or ())
            if place == (number if policy.first_match else 0)
            if _covers_peer(rule, own_host, peer, apiservers)
            and _covers_port(rule, subject if direction is Direction.INGRESS else peer, packet)
        }

    ranks = sorted(product({policy.priority for policy in asked}, range(longest(asked, direction))))
    for priority, place in ranks:
        said = actions(Tier.ADMIN, priority, place)
        if Action.DENY in said:
            return False
        if Action.PASS in said:
            break
        if Action.ALLOW in said:
            return True
    said = actions(Tier.NORMAL)
    if said:
        return Action.DENY not in said
    if direction is Direction.INGRESS and own_host is not None and peer == own_host:
        return True
    normal = [policy for policy in asked if policy.tier is Tier.NORMAL]
    if normal:
        ingress = direction is Direction.INGRESS
        rest = {policy.ingress_default if ingress else policy.egress_default for policy in normal}
        return rest == {Action.ALLOW}
    for priority, place in ranks:
        said = actions(Tier.BASELINE, priority, place)
        if said:
            return Action.DENY not in said
    return True


def longest(policies: Iterable[Policy], direction: Direction) -> int:
    """How many rules one of them has at most for a direction."""
    return max((len(_rules(policy, direction) or ()) for policy in policies), default=0)


def _rules(policy: Policy, direction: Direction) -> tuple[Rule, ...] | None:
    return policy.ingress if direction is Direction.INGRESS else policy.egress


def _covers_peer(rule: Rule, own_host: Labels | None, peer: Whom, apiservers: Iterable[Network]) -> bool:
    return rule.peers is None or any(_is(one, own_host, peer, apiservers) for one in rule.peers)


def _covers_port(rule: Rule, spoken_to: Whom, packet: tuple[int, int]) -> bool:
    """A port by its name is the one that the end which is spoken to has under it."""
    names = dict(spoken_to) if isinstance(spoken_to, tuple) else {}
    return rule.ports is None or any(
        packet[0] == ports.protocol
        and names.get(f"port.meshfabric.io/{ports.name}") == f"{PROTOCOL_NAMES[packet[0]]}.{packet[1]}"
        if ports.name
        else PORT_MEANING[ports](*packet)
        for ports in rule.ports
    )


def _is(wanted: Peer, own_host: Labels | None, peer: Whom, apiservers: Iterable[Network]) -> bool:
    if isinstance(peer, Outside):
        return _is_outside(wanted, peer, apiservers)
    if wanted is Entity.FABRIC:
        return True
    if peer is None or isinstance(wanted, Cidr):
        return False
    if isinstance(wanted, Entity):
        return wanted is Entity.HOST and peer == own_host
    return MEANING[wanted](dict(peer))


def _is_outside(wanted: Peer, peer: Outside, apiservers: Iterable[Network]) -> bool:
    if wanted is Entity.KUBE_APISERVER:
        return any(peer in network for network in apiservers)
    if isinstance(wanted, Cidr):
        return peer in wanted.network and not any(peer in network for network in wanted.exceptions)
    return wanted is Entity.WORLD


def asks_table(
    table: Mapping[bytes, bytes],
    subject: int,
    peer: int,
    direction: int,
    packet: tuple[int, int],
    anyone: int = ANYONE,
) -> bool:
    """The datapath's rule: longest prefix for each of peer and anyone, then precedence, then denial."""
    found = [lookup(table, subject, one, direction, packet) for one in {peer, anyone}]
    verdicts = [POLICY_VALUE.unpack(value)[:2] for value in found if value is not None]
    best = max((precedence for precedence, _ in verdicts), default=-1)
    winners = {verdict for precedence, verdict in verdicts if precedence == best}
    return winners == {Verdict.ALLOW}


def audits_table(
    table: Mapping[bytes, bytes],
    subject: int,
    peer: int,
    direction: Direction,
    packet: tuple[int, int],
    anyone: int = ANYONE,
) -> bool:
    """Whether the datapath tells of the packet: what allows it is audited, and under audit it is denied."""
    found = [lookup(table, subject, one, direction, packet) for one in (anyone, peer)]
    audited = {bool(POLICY_VALUE.unpack(value)[2]) for value in found if value is not None}
    assert len(audited) <= 1, "all entries of a subject and direction, or none"
    if audited != {True} or not asks_table(table, subject, peer, direction, packet, anyone):
        return False
    return not asks_table(table, subject, peer, direction | AUDITING, packet, anyone)


def lookup(
    table: Mapping[bytes, bytes], subject: int, peer: int, direction: int, packet: tuple[int, int]
) -> bytes | None:
    """An LPM trie's look-up (kernel, lpm_trie.c): the bits count from the first byte after the length."""
    protocol, port = packet
    wanted = POLICY_KEY.pack(KEY_BITS, subject, peer, direction, protocol, port.to_bytes(2, "big"))
    best, found = -1, None
    for key, value in table.items():
        length = NUMBER.unpack_from(key)[0]
        if length > best and _bits(key, length) == _bits(wanted, length):
            best, found = length, value
    return found


def _bits(key: bytes, length: int) -> int:
    return int.from_bytes(key[NUMBER.size :], "big") >> KEY_BITS - length


def enforces(
    world: World,
    subject: Labels,
    peer: Whom,
    direction: Direction,
    packet: tuple[int, int],
    modes: Iterable[Mode] = (Mode.ENFORCE,),
) -> bool:
    """What a node enforces for one of its workloads: the documents, and that the host may reach it."""
    host = world.workloads.get(world.node)
    own_host = host.labels if host else None
    servers = world.apiservers.get("", ())
    return says_who(world.policies.values(), own_host, subject, peer, direction, packet, servers, modes)


def audits(world: World, subject: Labels, peer: Whom, direction: Direction, packet: tuple[int, int]) -> bool:
    """Whether it passes, and would not with the policies in audit."""
    about = (world, subject, peer, direction, packet)
    return enforces(*about) and not enforces(*about, modes=tuple(Mode))


def is_outside(world: World, address: Outside) -> bool:
    """Whether it is the world's: the node knows one, and the fabric's prefixes, and none holds it."""
    prefixes = world.prefixes.get("", ())
    known = world.settings.world is not WorldMode.OFF and bool(prefixes)
    return known and not any(address in network for network in prefixes)


def owner(table: Mapping[bytes, bytes], address: Outside) -> tuple[int, int] | None:
    """Identity and place by the longest prefix in the `addresses` table."""
    packed = address.packed if address.version == 6 else bytes(10) + b"\xff\xff" + address.packed
    best, found = -1, None
    for key, value in table.items():
        length, net = ADDRESS_KEY.unpack(key)
        shift = ADDRESS_BITS - length
        inside = int.from_bytes(net, "big") >> shift == int.from_bytes(packed, "big") >> shift
        if inside and length > best:
            best, found = length, ADDRESS_VALUE.unpack(value)
    return found


def holders(world: World) -> dict[bytes, tuple[str, Labels]]:
    """Who holds each address: a local workload, or else the endpoint that another node has."""
    found = {
        address: (endpoint.node, endpoint.labels)
        for address, endpoint in world.endpoints.items()
        if endpoint.node != world.node and endpoint.node not in world.revoked
    }
    for name, workload in world.workloads.items():
        found |= dict.fromkeys(workload.addresses, (f"local {name}", workload.labels))
    return found


def place_of(world: World, holder: str) -> int | None:
    """The number of a holder as `holders` names it."""
    name = holder.removeprefix("local ")
    return (world.workload_numbers if name != holder else world.node_numbers).find(name)


def meaning(world: World, plan: Plan) -> dict[tuple[str, Any], Any]:
    """The plan without numbers that the world gave out."""
    reader = _Reader(world)
    return {
        (table.value, reader.key(table, key)): reader.value(table, value)
        for table in Table
        for key, value in plan.entries(table)
    }


class _Reader:
    def __init__(self, world: World) -> None:
        self._places: dict[int, object] = {0: None}
        self._places |= {number: ("local", name) for name, number in world.workload_numbers.items()}
        self._places |= {number: ("node", name) for name, number in world.node_numbers.items()}
        self._places[WORLD] = "world"
        self._labels: dict[int, object] = {ANYONE: None, ANYONE_OUTSIDE: "world", ELSEWHERE: "elsewhere"}
        self._classes = {number: name for name, number in (*NUMBERS.items(), *world.class_numbers.items())}
        self._labels |= {**world.labels, **world.networks.by_number}

    def key(self, table: Table, key: Any) -> object:
        if table is Table.WORKLOADS:
            return self._places[NUMBER.unpack(key)[0]]
        if table in (Table.NODES, Table.PROBES):
            return self._places[FIRST_NODE + NUMBER.unpack(key)[0]]
        if table is Table.CLASSES:
            return self._classes[NUMBER.unpack(key)[0]]
        if table is Table.CLASS_RULES:
            bits, place, *rest = CLASS_RULE_KEY.unpack(key)
            return bits, self._places[place], *rest
        if table is Table.POLICY:
            bits, subject, peer, *rest = POLICY_KEY.unpack(key)
            return bits, self._labels[subject], self._labels[peer], *rest
        return ADDRESS_KEY.unpack(key) if table is Table.ADDRESSES else key

    def value(self, table: Table, value: Any) -> object:
        if table is Table.ADDRESSES:
            identity, place = ADDRESS_VALUE.unpack(value)
            return self._labels[identity], self._places[place]
        if table is Table.WORKLOADS:
            ifindex, identity, mtu, delivery, number, *rest = WORKLOAD.unpack(value)
            return ifindex, self._labels[identity], mtu, delivery, self._classes[number], *rest
        if table is Table.CLASS_RULES:
            return self._classes[NUMBER.unpack(value)[0]]
        if table is Table.DEVICES:
            return self._places[NUMBER.unpack(value)[0]]
        if table is Table.FABRIC:
            count, place = FABRIC_HEAD.unpack_from(value)
            return count, self._places[place], value[FABRIC_HEAD.size :]
        return value
