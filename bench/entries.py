"""The policy map of a node on which many policies are enforced, for `datapath` to run packets beside."""

from collections import Counter
from functools import cache
from typing import Any

from bench import compiler
from meshfabric.compiler.step import compile_plan
from meshfabric.model.plan import Table
from meshfabric.model.tables import (
    POLICY_FIXED_BITS,
    POLICY_KEY,
    POLICY_VALUE,
    PROTOCOL_BITS,
    Direction,
    Verdict,
)
from tests.packet import world as fabric

LEAST_LABEL_SETS, NODES = 100, 100


@cache
def entries_of(policies: int) -> list[fabric.Rule]:
    """What a node with so many policies has in its map; one of those whom they select is alpha."""
    if not policies:
        return []
    label_sets = min(max(policies, LEAST_LABEL_SETS), compiler.MANY_LABEL_SETS)
    compiler.NAMES[:] = [f"node{number}" for number in range(NODES)]
    many = map(compiler.one_of_many, range(policies))
    plan = compile_plan(compiler.crowded(many, label_sets, NODES))
    entries = [
        (POLICY_KEY.unpack(key), POLICY_VALUE.unpack(value)) for key, value in plan.entries(Table.POLICY)
    ]
    alpha = Counter(subject for (_, subject, *_), _ in entries).most_common(1)[0][0]
    return [_rule(key, value, alpha) for key, value in entries]


def _rule(key: tuple[Any, ...], value: tuple[Any, ...], alpha: int) -> fabric.Rule:
    bits, subject, peer, direction, protocol, port_be = key
    port_bits = bits - POLICY_FIXED_BITS - PROTOCOL_BITS if protocol else None
    owner = fabric.ID_ALPHA if subject == alpha else subject
    port, (precedence, verdict, _) = int.from_bytes(port_be, "big"), value
    where = Direction(direction), Verdict(verdict), protocol, port, port_bits, precedence
    return fabric.Rule(owner, peer, *where)
