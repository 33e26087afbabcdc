"""Policies to entries of the `policy` table.

The unit is a pair (subject, peer): the identity of a local workload, and the
identity at the other end or ANY_PEER. A subject has an entry for ANY_PEER in
each direction, which says what becomes of what no rule covers, and pairs with
those whom its rules name.

**Precedence.** The datapath looks a packet up twice, for the exact peer and for
ANY_PEER; of what it finds the higher precedence wins. So the order of the tiers
is an order of numbers, with room for the priorities in each:

    pairs that pass | admin, priority 0 .. 1000 | normal rules | own host | baseline, 0 .. 1000 | default

Within a priority denial is above pass, and pass above allowance: of rules of
equal rank the careful one holds. Whether a direction of a subject has baseline
rules or the default of the normal tier follows from the subject's labels alone,
so the two never stand in one pair, and "normal did not select" needs no number.

**Longest prefix.** Each of the two look-ups gives the longest port prefix, not the
strongest rule. Therefore every key carries the strongest rule *of its pair* that
covers the key. That is exact: a rule that covers a port has a key that holds the
port, prefixes nest, so the rule covers the smallest key around the port as well.

**Pass** is no verdict: it becomes what the tiers after admin say of that key. For a
pair that is what the rules for the exact peer and for anyone say together. So
where a pass has a say, in the pair or among the rules for anyone, the pair is
compiled from both, and its precedence is above all: ANY_PEER must not have
another say. Only keys that a rule for the exact peer covers are in it; on other
ports the two look-ups find ANY_PEER alone, where pass was resolved for those whom
no rule names. This is why a policy may change pairs that it does not name
(`Ruled.entangled`), as does one that ends the baseline of a direction.

**Entities.** `host` is the identity of the node's own host workload. `fabric` is
ANY_PEER as long as the datapath forwards nothing from or to the world.
"""

from collections.abc import Iterable, Iterator, Mapping, Set
from typing import NamedTuple

from meshfabric.model.labels import Labels, matches
from meshfabric.model.plan import Entries, Table
from meshfabric.model.policy import LAST_PRIORITY, Action, Entity, Policy, Rule, Tier
from meshfabric.model.ports import MAX_PORT, Ports
from meshfabric.model.selection import peer_selectors
from meshfabric.model.tables import PORT_BITS, Direction, Verdict, policy_key, policy_value
from meshfabric.model.world import World

ANY_PEER = 0
NOBODY = -1  # no identity
REST = -1  # no rule: what no rule covers
BASELINE = "allow-local-host"  # the node reaches its own workloads: health checks

RANK = {Action.ALLOW: 0, Action.PASS: 1, Action.DENY: 2}  # among rules of one priority
PRIORITY_STEP = len(RANK)
DEFAULT_PRECEDENCE = 0
LOCAL_HOST_PRECEDENCE = 10_000
BASE_PRECEDENCE = {Tier.BASELINE: 1, Tier.NORMAL: 20_000, Tier.ADMIN: 30_000}
SETTLED_PRECEDENCE = (1 << 32) - 1  # of pairs that speak for ANY_PEER too

Block = tuple[int, int, int]
"""Protocol (0: any), port, prefix bits of the port."""
EVERYTHING: Block = (0, 0, 0)


class Source(NamedTuple):
    """Whose word a verdict is: of a policy the rule of that place, or what it says of the rest."""

    policy: str = ""
    rule: int = REST


class Weighed(NamedTuple):
    """A rule as its pairs need it."""

    precedence: int
    action: Action
    blocks: tuple[Block, ...]
    source: Source = Source()

    @property
    def passes(self) -> bool:
        return self.action is Action.PASS


LOCAL_HOST = Weighed(LOCAL_HOST_PRECEDENCE, Action.ALLOW, (EVERYTHING,), Source(f"baseline:{BASELINE}"))


class Ruled(NamedTuple):
    """One direction of a subject: its rules by whom they are about.

    `named` goes with sets that stay right while label sets come and go. The
    last of `anyone` is the default. `entangled`: a policy may reach pairs here
    that it does not name.
    """

    named: list[tuple[Set[int], Weighed]]
    own_host: list[Weighed]
    anyone: list[Weighed]
    entangled: bool


Rules = Mapping[Direction, Ruled]


def subjects(world: World) -> Set[int]:
    """The identities that this node enforces policy for."""
    return world.subjects.keys()


def rules_of(world: World, labels: Labels) -> Rules:
    """What the policies say of a label set, by direction."""
    selecting = [world.policies[name] for name in sorted(world.selection.policies(labels))]
    return {direction: _ruled(world, selecting, direction) for direction in Direction}


def pair_entries(world: World, rules: Rules, subject: int, peers: Set[int]) -> dict[int, Entries]:
    """The entries of a subject's pairs with these peers; `rules` are those of its labels."""
    entries: dict[int, Entries] = {}
    for direction, ruled in rules.items():
        cells: dict[tuple[int, ...], list[Cell]] = {}  # many peers have the same rules
        for peer, own in _about(world, ruled, direction, peers).items():
            same = tuple(map(id, own))
            if same not in cells:
                cells[same] = _cells(own, () if peer == ANY_PEER else ruled.anyone)
            made = entries.setdefault(peer, {})
            for (protocol, port, bits), value in cells[same]:
                made[Table.POLICY, policy_key(subject, peer, direction, protocol, port, bits)] = value
    return entries


def peers_of(world: World, rules: Rules) -> set[int]:
    """Whom a subject has pairs with: ANY_PEER, its node's host, and whom its rules name."""
    found = {ANY_PEER, _local_host(world)} - {NOBODY}
    return found.union(*(members for ruled in rules.values() for members, _ in ruled.named))


def reach(world: World, policy: Policy, rules: Rules) -> set[int]:
    """The peers of one subject whose pairs a policy that selects it has a say in."""
    if any(ruled.entangled for ruled in rules.values()):
        return peers_of(world, rules)
    return named(world, policy)


def concerned(world: World, policy: Policy) -> set[int]:
    """The local subjects that a policy selects."""
    return {subject for subject in subjects(world) if matches(policy.select, world.labels[subject])}


def named(world: World, policy: Policy) -> set[int]:
    """The peers that a policy's rules are about: ANY_PEER, the own host, and whom they name."""
    found = {ANY_PEER, _local_host(world)} - {NOBODY}
    return found.union(*(world.selection.members(selector) for selector in peer_selectors(policy)))


def port_prefixes(ports: Ports) -> Iterator[tuple[int, int]]:
    """A port range as the fewest (port, prefix bits)."""
    first = ports.first
    while first <= ports.last:
        size = first & -first or MAX_PORT + 1
        while first + size - 1 > ports.last:
            size //= 2
        yield first, PORT_BITS + 1 - size.bit_length()
        first += size


Cell = tuple[Block, bytes]
"""A key less its pair and direction, with the packed value."""


class Decided(NamedTuple):
    """A key less its pair and direction, the rule whose verdict it has, and with which precedence."""

    block: Block
    rule: Weighed
    precedence: int


def _ruled(world: World, selecting: Iterable[Policy], direction: Direction) -> Ruled:
    ruling = [policy for policy in selecting if _side(policy, direction)[0] is not None]
    normal = [policy for policy in ruling if policy.tier is Tier.NORMAL]
    default = _default(normal, direction)
    based = any(policy.tier is Tier.BASELINE for policy in ruling)
    ruled = Ruled([], [], [], based or any(_passes(policy, direction) for policy in ruling))
    for policy in ruling:
        if policy.tier is not Tier.BASELINE or not normal:
            for at, rule in enumerate(_side(policy, direction)[0] or ()):
                _add(world, ruled, rule, _weigh(policy, rule, at))
    ruled.anyone.append(default)
    return ruled


def _default(normal: list[Policy], direction: Direction) -> Weighed:
    """What becomes of what no rule covers: one policy that denies it is enough."""
    denying = [policy for policy in normal if _side(policy, direction)[1] is Action.DENY]
    source = Source(next((policy.name for policy in denying or normal), ""))
    return Weighed(DEFAULT_PRECEDENCE, Action.DENY if denying else Action.ALLOW, (EVERYTHING,), source)


def _side(policy: Policy, direction: Direction) -> tuple[tuple[Rule, ...] | None, Action]:
    if direction is Direction.INGRESS:
        return policy.ingress, policy.ingress_default
    return policy.egress, policy.egress_default


def _passes(policy: Policy, direction: Direction) -> bool:
    return any(rule.action is Action.PASS for rule in _side(policy, direction)[0] or ())


def _weigh(policy: Policy, rule: Rule, at: int) -> Weighed:
    above = 0 if policy.tier is Tier.NORMAL else LAST_PRIORITY - policy.priority
    precedence = BASE_PRECEDENCE[policy.tier] + above * PRIORITY_STEP + RANK[rule.action]
    return Weighed(precedence, rule.action, tuple(_blocks(rule.ports)), Source(policy.name, at))


def _add(world: World, ruled: Ruled, rule: Rule, weighed: Weighed) -> None:
    if rule.peers is None or Entity.FABRIC in rule.peers:
        ruled.anyone.append(weighed)
        return
    for peer in rule.peers:
        if isinstance(peer, Entity):
            ruled.own_host.append(weighed)
        else:
            ruled.named.append((world.selection.members(peer), weighed))


def _blocks(ports: tuple[Ports, ...] | None) -> Iterator[Block]:
    if ports is None:
        yield EVERYTHING
        return
    for one in ports:
        for port, bits in port_prefixes(one):
            yield one.protocol, port, bits


def _about(world: World, ruled: Ruled, direction: Direction, peers: Set[int]) -> Mapping[int, list[Weighed]]:
    """The rules about each of these peers that there are any about."""
    found: dict[int, list[Weighed]] = {ANY_PEER: ruled.anyone} if ANY_PEER in peers else {}
    for members, weighed in ruled.named:
        for peer in members & peers:
            found.setdefault(peer, []).append(weighed)
    host = _local_host(world)
    if host in peers:
        own = about_own_host(ruled, direction)
        if own:
            found[host] = [*found.get(host, []), *own]
    return found


def about_own_host(ruled: Ruled, direction: Direction) -> list[Weighed]:
    """The rules about the host of the node that a workload is on, but for those that name its labels."""
    return [*ruled.own_host, *([LOCAL_HOST] if direction is Direction.INGRESS else [])]


def _cells(own: list[Weighed], anyone: Iterable[Weighed]) -> list[Cell]:
    return [(block, _value(rule, precedence)) for block, rule, precedence in decide(own, anyone)]


def decide(own: Iterable[Weighed], anyone: Iterable[Weighed]) -> list[Decided]:
    """What a pair's keys say; `own` are the rules about its peer, `anyone` those about ANY_PEER."""
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


def _value(rule: Weighed, precedence: int) -> bytes:
    return policy_value(precedence, Verdict.DENY if rule.action is Action.DENY else Verdict.ALLOW)


def _local_host(world: World) -> int:
    host = world.workloads.get(world.node)
    return world.identity(host.labels) if host else NOBODY
