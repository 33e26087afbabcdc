"""What the entries of one pair of identities say, and in which order the datapath believes them.

**Precedence.** The datapath looks a packet up twice, for the exact peer and for
anyone where that one is; of what it finds the higher precedence wins. So the order
of the tiers is an order of numbers, with room for the priorities in each:

    pairs that pass | admin, priority 0 .. 1000 | normal rules | own host | baseline, 0 .. 1000 | default

Within a priority come the places of rules in a policy whose first match holds, all
rules of other policies being at the first; and at one place denial is above pass,
and pass above allowance: of rules of equal rank the careful one holds. Whether a
direction of a subject has baseline rules or the default of the normal tier follows
from the subject's labels alone, so the two never stand in one pair, and "normal did
not select" needs no number.

**Longest prefix.** Each of the two look-ups gives the longest port prefix, not the
strongest rule. Therefore every key carries the strongest rule *of its pair* that
covers the key. That is exact: a rule that covers a port has a key that holds the
port, prefixes nest, so the rule covers the smallest key around the port as well.

**Pass** is no verdict: it becomes what the tiers after admin say of that key. For a
pair that is what the rules for the exact peer and for anyone say together. So
where a pass has a say, in the pair or among the rules for anyone, the pair is
compiled from both, and its precedence is above all: anyone's entry must not have
another say. Only keys that a rule for the exact peer covers are in it; on other
ports the two look-ups find anyone's alone, where pass was resolved for those whom
no rule names. This is why a policy may change pairs that it does not name
(`policies.Ruled.entangled`), as does one that ends the baseline of a direction.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from meshfabric.model.policy import LAST_PRIORITY, MAX_IN_ORDER, Action, Policy, Tier
from meshfabric.model.ports import MAX_PORT, Ports
from meshfabric.model.tables import PORT_BITS, Verdict, policy_value

RANK = {Action.ALLOW: 0, Action.PASS: 1, Action.DENY: 2}  # among rules of one priority and place
PRIORITY_STEP = len(RANK) * MAX_IN_ORDER
DEFAULT_PRECEDENCE = 0
LOCAL_HOST_PRECEDENCE = 400_000
BASE_PRECEDENCE = {Tier.BASELINE: 1, Tier.NORMAL: 500_000, Tier.ADMIN: 1_000_000}
SETTLED_PRECEDENCE = (1 << 32) - 1  # of pairs that speak for anyone too

Block = tuple[int, int, int]
"""Protocol (0: any), port, prefix bits of the port."""
EVERYTHING: Block = (0, 0, 0)
REST = -1  # no rule: what no rule covers
BASELINE = "allow-local-host"  # the node reaches its own workloads: health checks


class Source(NamedTuple):
    """Whose word a verdict is: of a policy the rule of that place, or what it says of the rest."""

    policy: str = ""
    rule: int = REST


class Weighed(NamedTuple):
    """A rule as its pairs need it. `port`: a name, of which the peer has the number; then without blocks."""

    precedence: int
    action: Action
    blocks: tuple[Block, ...]
    port: Ports | None = None
    source: Source = Source()

    @property
    def passes(self) -> bool:
        """Whether it leaves the verdict to the tiers after its own."""
        return self.action is Action.PASS


LOCAL_HOST = Weighed(
    LOCAL_HOST_PRECEDENCE, Action.ALLOW, (EVERYTHING,), source=Source(f"baseline:{BASELINE}")
)

Cell = tuple[Block, bytes]
"""A key less its pair and direction, with the packed value."""


class Decided(NamedTuple):
    """A key less its pair and direction, the rule whose verdict it has, and with which precedence."""

    block: Block
    rule: Weighed
    precedence: int


def precedence_of(policy: Policy, action: Action, place: int) -> int:
    """Of a rule of a policy that does this, at its place among the others."""
    above = 0 if policy.tier is Tier.NORMAL else LAST_PRIORITY - policy.priority
    before = MAX_IN_ORDER - 1 - (place if policy.first_match else 0)
    return BASE_PRECEDENCE[policy.tier] + above * PRIORITY_STEP + before * len(RANK) + RANK[action]


def cells_of(own: list[Weighed], anyone: Iterable[Weighed], audited: bool = False) -> list[Cell]:
    """What a pair's keys say, packed; see `decide`."""
    return [(block, _value(rule, precedence, audited)) for block, rule, precedence in decide(own, anyone)]


def decide(own: Iterable[Weighed], anyone: Iterable[Weighed]) -> list[Decided]:
    """What a pair's keys say; `own` are the rules about its peer, `anyone` those about anyone where it is."""
    if not any(rule.passes for rule in (*own, *anyone)):
        table = _strongest(own)
        ruling = ((block, _ruling(table, block)) for block in table)
        return [Decided(block, rule, rule.precedence) for block, rule in ruling]
    table = _strongest([*own, *anyone])
    after = _strongest(rule for rule in (*own, *anyone) if rule.precedence < BASE_PRECEDENCE[Tier.ADMIN])
    keys = _strongest(own)
    settled = SETTLED_PRECEDENCE if anyone else DEFAULT_PRECEDENCE
    found = []
    for block in table:
        if any(key in keys for key in around(block)):
            first = _ruling(table, block)
            verdict = _ruling(after, block) if first.passes else first
            found.append(Decided(block, verdict, max(settled, first.precedence)))
    return found


def blocks_of(ports: tuple[Ports, ...] | None) -> Iterator[Block]:
    """What ports cover, None everything."""
    if ports is None:
        yield EVERYTHING
        return
    for one in ports:
        for port, bits in port_prefixes(one):
            yield one.protocol, port, bits


def port_prefixes(ports: Ports) -> Iterator[tuple[int, int]]:
    """A port range as the fewest (port, prefix bits)."""
    first = ports.first
    while first <= ports.last:
        size = first & -first or MAX_PORT + 1
        while first + size - 1 > ports.last:
            size //= 2
        yield first, PORT_BITS + 1 - size.bit_length()
        first += size


def _strongest(rules: Iterable[Weighed]) -> dict[Block, Weighed]:
    found: dict[Block, Weighed] = {}
    for rule in rules:
        for block in rule.blocks:
            if block not in found or found[block].precedence < rule.precedence:
                found[block] = rule
    return found


def _ruling(table: Mapping[Block, Weighed], block: Block) -> Weighed:
    """The strongest rule that covers a block."""
    return max((table[one] for one in around(block) if one in table), key=lambda one: one.precedence)


def around(block: Block) -> Iterator[Block]:
    """A block and those that hold it, the smallest first."""
    protocol, port, bits = block
    if protocol:
        for length in range(bits, -1, -1):
            yield protocol, port >> PORT_BITS - length << PORT_BITS - length, length
    yield EVERYTHING


def _value(rule: Weighed, precedence: int, audited: bool) -> bytes:
    verdict = Verdict.DENY if rule.action is Action.DENY else Verdict.ALLOW
    return policy_value(precedence, verdict, audited)
