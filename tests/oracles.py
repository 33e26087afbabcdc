"""The same answers by simpler means: slow, short and without the structures that they are held against.

`says_who` reads policies as a person would; `asks_table` looks a packet up in
compiled entries as the datapath does (bpf/include/types.h); `meaning` is a plan
with every number replaced by what it stands for, so that plans of worlds that
gave out their numbers in another order can be compared.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from meshfabric.model.labels import Labels
from meshfabric.model.plan import Plan, Table
from meshfabric.model.policy import Policy, Rule
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
    subject: Labels,
    peer: Labels | None,
    direction: Direction,
    packet: tuple[int, int],
) -> bool:
    """Whether documents let `subject` exchange the packet (protocol, port) with `peer` (None: unknown)."""
    ruled, allowed = False, False
    for policy in policies:
        rules = policy.ingress if direction is Direction.INGRESS else policy.egress
        if rules is not None and MEANING[policy.select](dict(subject)):
            ruled = True
            allowed = allowed or any(_allows(rule, peer, packet) for rule in rules)
    return allowed or not ruled


def _allows(rule: Rule, peer: Labels | None, packet: tuple[int, int]) -> bool:
    peer_fits = rule.peers is None or (
        peer is not None and any(MEANING[selector](dict(peer)) for selector in rule.peers)
    )
    return peer_fits and (rule.ports is None or any(PORT_MEANING[ports](*packet) for ports in rule.ports))


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
    if direction is Direction.INGRESS and host is not None and peer == host.labels:
        return True
    return says_who(world.policies.values(), subject, peer, direction, packet)


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
        if table is Table.NODES:
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
