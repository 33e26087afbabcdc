"""Policies to entries of the `policy` table.

The unit is a pair (subject, peer): the identity of a local workload, and the
identity at the other end or ANY_PEER. So a new identity costs one unit for each
local subject, whatever the number of policies' entries. A subject that no
policy selects in a direction has one entry there, that allows; a selected one
has one that denies, and its rules above it.
"""

from collections.abc import Iterable, Iterator, Set

from meshfabric.model.labels import Labels, Selector, matches
from meshfabric.model.plan import Entries, Table
from meshfabric.model.policy import MAX_PORT, Policy, Ports, Rule
from meshfabric.model.tables import PORT_BITS, Direction, Verdict, policy_key, policy_value
from meshfabric.model.world import World

ANY_PEER = 0
DEFAULT_PRECEDENCE = 0
BASELINE_PRECEDENCE = 1
RULE_PRECEDENCE = 1000
BASELINE = "allow-local-host"  # the node reaches its own workloads: health checks

Rules = dict[Direction, list[Rule] | None]


def subjects(world: World) -> Set[int]:
    """The identities that this node enforces policy for."""
    return world.subjects.keys()


def rules_of(world: World, labels: Labels) -> Rules:
    """What selects a label set, by direction; None where nothing does."""
    found: Rules = {Direction.EGRESS: None, Direction.INGRESS: None}
    for _, policy in sorted(world.policies.items()):
        if matches(policy.select, labels):
            _add(found, Direction.EGRESS, policy.egress)
            _add(found, Direction.INGRESS, policy.ingress)
    return found


def pair_entries(world: World, rules: Rules, subject: int, peer: int) -> Entries:
    """The entries of one pair; `rules` are those of the subject's labels."""
    entries: Entries = {}
    for direction, ruled in rules.items():
        if peer == ANY_PEER:
            verdict = Verdict.ALLOW if ruled is None else Verdict.DENY
            key = policy_key(subject, ANY_PEER, direction)
            entries[Table.POLICY, key] = policy_value(DEFAULT_PRECEDENCE, verdict)
        for rule in ruled or ():
            if _concerns(world, rule, peer):
                for key in _keys(subject, peer, direction, rule.ports):
                    entries[Table.POLICY, key] = policy_value(RULE_PRECEDENCE, Verdict.ALLOW)
    if peer == _local_host(world):
        key = policy_key(subject, peer, Direction.INGRESS)
        entries.setdefault((Table.POLICY, key), policy_value(BASELINE_PRECEDENCE, Verdict.ALLOW))
    return entries


def concerned(world: World, policy: Policy) -> set[int]:
    """The local subjects that a policy selects."""
    return {subject for subject in subjects(world) if matches(policy.select, world.labels[subject])}


def named(world: World, policy: Policy) -> set[int]:
    """The peers whose pairs a policy has a say in: ANY_PEER, and whom its rules name."""
    selectors = {
        one for rule in (*(policy.ingress or ()), *(policy.egress or ())) for one in rule.peers or ()
    }
    peers = (number for number, labels in world.labels.items() if _any_matches(selectors, labels))
    return {ANY_PEER, *peers}


def port_prefixes(ports: Ports) -> Iterator[tuple[int, int]]:
    """A port range as the fewest (port, prefix bits)."""
    first = ports.first
    while first <= ports.last:
        size = first & -first or MAX_PORT + 1
        while first + size - 1 > ports.last:
            size //= 2
        yield first, PORT_BITS + 1 - size.bit_length()
        first += size


def _add(found: Rules, direction: Direction, rules: tuple[Rule, ...] | None) -> None:
    if rules is not None:
        found[direction] = [*(found[direction] or ()), *rules]


def _concerns(world: World, rule: Rule, peer: int) -> bool:
    if peer == ANY_PEER:
        return rule.peers is None
    return rule.peers is not None and _any_matches(rule.peers, world.labels[peer])


def _any_matches(selectors: Iterable[Selector], labels: Labels) -> bool:
    return any(matches(one, labels) for one in selectors)


def _keys(subject: int, peer: int, direction: Direction, ports: tuple[Ports, ...] | None) -> Iterator[bytes]:
    if ports is None:
        yield policy_key(subject, peer, direction)
        return
    for one in ports:
        for port, bits in port_prefixes(one):
            yield policy_key(subject, peer, direction, one.protocol, port, bits)


def _local_host(world: World) -> int:
    host = world.workloads.get(world.node)
    return world.identity(host.labels) if host else ANY_PEER - 1
