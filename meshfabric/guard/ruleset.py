"""What a guard makes of the kernel, as text: one transaction of nftables, and routes.

    card ── enters (prerouting) ─┬─ delivered (input) ── process
                                 └─ forwarded (forward) ──┐
    process ── sent (output) ─────────────────────────────┴─ leaves (postrouting) ── card
    port ── bridged (forward of family bridge) ── port
    port ── delivered (input of family bridge) ── bridge ── sent (output of family bridge) ── port

Every hook asks the same: does a packet with a fabric address come in, or go out, by
another device than those of the fabric? The early hooks see addresses before any
translation (priority -310: before raw, -300), the last one after all of it (310: after
source translation, 100), and input and forward what was translated in prerouting.
So neither DNAT into the fabric nor SNAT out of it is a way around the guard. There is
no connection tracking in it: the guard costs a few comparisons a packet.

A packet must meet the old rules or the new ones. For that the chains stay and only
their rules change: with chains that are made anew, a packet may run through the new
one before the transaction and through the old one after it. There are no sets either, whose
elements come by another way than rules. With both, 4 packets passed in 30 updates on 6.18.
For the same reason a later build gives a chain that it moves to another hook another name:
the kernel refuses to move one that is there, and one that nobody fills is left empty.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from meshfabric.guard.file import Guard
from meshfabric.model.names import guard_table

FIRST, LAST = -310, 310
ROUTE_METRIC = 8192  # above all of the fabric's own routes, also the agent's unreachable ones (4096)
ROUTE_PROTOCOL = 0x6E  # not the agent's: that one removes routes of its own that it has not planned
VERSIONS = (4, 6)
PROTOCOLS = {4: "ip", 6: "ip6"}
SIDES = {"saddr": "from", "daddr": "to"}
WAYS = ("in", "out")
JUDGES = {"in": "by_others_in", "out": "by_others_out"}


class Hook(NamedTuple):
    """A chain at a hook of the kernel, and which ways it looks."""

    family: str
    chain: str
    hook: str
    priority: int
    ways: Sequence[str]


HOOKS = (
    Hook("inet", "enters", "prerouting", FIRST, ["in"]),
    Hook("inet", "delivered", "input", FIRST, ["in"]),
    Hook("inet", "forwarded", "forward", FIRST, WAYS),
    Hook("inet", "sent", "output", FIRST, ["out"]),
    Hook("inet", "leaves", "postrouting", LAST, ["out"]),
    Hook("bridge", "bridged", "forward", FIRST, WAYS),
    Hook("bridge", "delivered", "input", FIRST, ["in"]),
    Hook("bridge", "sent", "output", FIRST, ["out"]),
)
FAMILIES = {"inet": "host", "bridge": "bridges"}
"""The tables' families, and where their packets are."""


def render(guard: Guard) -> str:
    """The whole ruleset; it takes the place of the one that is there from one packet to the next."""
    return "\n".join([line for family in FAMILIES for line in _table(guard, family)]) + "\n"


def removal(fabric: str) -> str:
    """A ruleset that leaves nothing of a guard, also where there is none (deleting wants one)."""
    table = guard_table(fabric)
    return "".join(f"table {family} {table}\ndelete table {family} {table}\n" for family in FAMILIES)


def routes(guard: Guard) -> list[str]:
    """The unreachable routes, in iproute2's words."""
    return [
        f"unreachable {network} metric {ROUTE_METRIC} proto {ROUTE_PROTOCOL}"
        for version in VERSIONS
        for network in guard.networks(version)
    ]


def _table(guard: Guard, family: str) -> Iterator[str]:
    table = guard_table(guard.fabric)
    yield f"table {family} {table}"
    yield f"flush table {family} {table}"
    yield f"table {family} {table} {{"
    for way in WAYS:
        yield from _judge(guard, way)
    for hook in HOOKS:
        if hook.family == family:
            yield from _chain(hook)
    yield "}"


def _judge(guard: Guard, way: str) -> Iterator[str]:
    device = {"in": "iifname", "out": "oifname"}[way]
    yield f"  chain {JUDGES[way]} {{"
    for pattern in ["lo", *guard.patterns()]:
        yield f'    {device} "{pattern}" return'
    for version, protocol in PROTOCOLS.items():
        for network in guard.networks(version):
            for side in SIDES:
                yield f"    {protocol} {side} {network} counter drop"
    yield "  }"


def _chain(hook: Hook) -> Iterator[str]:
    yield f"  chain {hook.chain} {{"
    yield f"    type filter hook {hook.hook} priority {hook.priority}; policy accept;"
    for way in hook.ways:
        yield f"    jump {JUDGES[way]}"
    yield "  }"
