"""The same answers by simpler means: slow, short and without the structures that they are held against.

`says_who` reads policies as a person would, tier after tier; `asks_table` looks a packet up in
compiled entries as the datapath does (bpf/include/types.h); `meaning` is a plan
with every number replaced by what it stands for, so that plans of worlds that
gave out their numbers in another order can be compared.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from meshfabric.model.labels import Labels
from meshfabric.model.plan import Plan, Table
from meshfabric.model.policy import Action, Entity, Peer, Policy, Rule, Tier
from meshfabric.model.tables import (
    ADDRESS_KEY,
    ADDRESS_VALUE,
    FABRIC_HEAD,
    FIRST_NODE,
    NUMBER,
    POLICY_KEY,
    POLICY_VALUE,
    WORKLOAD,
    Direction,
    Verdict,
)
from meshfabric.model.world import World
from tests.strategies import MEANING, PORT_MEANING

ANYONE = 0
KEY_BITS = 96


def says_who(
    policies: Iterable[Policy],
    own_host: Labels | None,
    subject: Labels,
    peer: Labels | None,
    direction: Direction,
    packet: tuple[int, int],
) -> bool:
    """Whether documents let `subject` exchange the packet (protocol, port) with `peer` (None: unknown).

    One tier after the other; `own_host` are the labels of the host that the subject is on.
    """
    asked = [policy for policy in policies if MEANING[policy.select](dict(subject))]
    asked = [policy for policy in asked if _rules(policy, direction) is not None]

    def actions(tier: Tier, priority: int | None = None) -> set[Action]:
        return {
            rule.action
            for policy in asked
            if policy.tier is tier and priority in (None, policy.priority)
            for rule in _rules(policy, direction) or ()
            if _covers(rule, own_host, peer, packet)
        }

    for priority in sorted({policy.priority for policy in asked}):
        said = actions(Tier.ADMIN, priority)
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
    for priority in sorted({policy.priority for policy in asked}):
        said = actions(Tier.BASELINE, priority)
        if said:
            return Action.DENY not in said
    return True


def _rules(policy: Policy, direction: Direction) -> tuple[Rule, ...] | None:
    return policy.ingress if direction is Direction.INGRESS else policy.egress


def _covers(rule: Rule, own_host: Labels | None, peer: Labels | None, packet: tuple[int, int]) -> bool:
    fits = rule.peers is None or any(_is(one, own_host, peer) for one in rule.peers)
    return fits and (rule.ports is None or any(PORT_MEANING[ports](*packet) for ports in rule.ports))


def _is(wanted: Peer, own_host: Labels | None, peer: Labels | None) -> bool:
    if wanted is Entity.FABRIC:
        return True
    if peer is None:
        return False
    return peer == own_host if isinstance(wanted, Entity) else MEANING[wanted](dict(peer))


def asks_table(
    table: Mapping[bytes, bytes],
    subject: int,
    peer: int,
    direction: Direction,
    packet: tuple[int, int],
) -> bool:
    """The datapath's rule: longest prefix for each of peer and ANY_PEER, then precedence, then denial."""
    found = [lookup(table, subject, one, direction, packet) for one in {peer, ANYONE}]
    verdicts = [POLICY_VALUE.unpack(value) for value in found if value is not None]
    best = max((precedence for precedence, _ in verdicts), default=-1)
    winners = {verdict for precedence, verdict in verdicts if precedence == best}
    return winners == {Verdict.ALLOW}


def lookup(
    table: Mapping[bytes, bytes], subject: int, peer: int, direction: Direction, packet: tuple[int, int]
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
    world: World, subject: Labels, peer: Labels | None, direction: Direction, packet: tuple[int, int]
) -> bool:
    """What a node enforces for one of its workloads: the documents, and that the host may reach it."""
    host = world.workloads.get(world.node)
    return says_who(world.policies.values(), host.labels if host else None, subject, peer, direction, packet)


def holders(world: World) -> dict[bytes, tuple[str, Labels]]:
    """Who holds each address: a local workload, or else the endpoint that another node has."""
    found = {
        address: (endpoint.node, endpoint.labels)
        for address, endpoint in world.endpoints.items()
        if endpoint.node != world.node
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
        self._labels: dict[int, Labels | None] = {ANYONE: None, **world.labels}

    def key(self, table: Table, key: Any) -> object:
        if table is Table.WORKLOADS:
            return self._places[NUMBER.unpack(key)[0]]
        if table in (Table.NODES, Table.PROBES):
            return self._places[FIRST_NODE + NUMBER.unpack(key)[0]]
        if table is Table.POLICY:
            bits, subject, peer, *rest = POLICY_KEY.unpack(key)
            return bits, self._labels[subject], self._labels[peer], *rest
        return ADDRESS_KEY.unpack(key) if table is Table.ADDRESSES else key

    def value(self, table: Table, value: Any) -> object:
        if table is Table.ADDRESSES:
            identity, place = ADDRESS_VALUE.unpack(value)
            return self._labels[identity], self._places[place]
        if table is Table.WORKLOADS:
            ifindex, identity, *rest = WORKLOAD.unpack(value)
            return ifindex, self._labels[identity], *rest
        if table is Table.DEVICES:
            return self._places[NUMBER.unpack(value)[0]]
        if table is Table.FABRIC:
            count, place = FABRIC_HEAD.unpack_from(value)
            return count, self._places[place], value[FABRIC_HEAD.size :]
        return value
