"""Policies to entries of the `policy` table.

The unit is a pair (subject, peer): the identity of a local workload, and the
identity at the other end, of a workload or of a network outside, or anyone:
ANY_PEER in the fabric, ANY_WORLD outside of it. A subject has an entry for each
of the two in each direction, which says what becomes of what no rule covers, and
pairs with those whom its rules name. What stands in the entries of a pair is the
business of `compiler.cells`; here is who is in a pair, and by which rules.

**Names of ports** are those of the end that was spoken to. Coming in, that is the
subject: a rule has numbers from the start. Going out it is the peer: the rule is
about those who have the name, also where it names nobody, and gets its number
from each one's labels.

**Audit.** Policies in audit have no say. Where one rules a direction of a subject,
the entries of that direction say so, and there are others beside them, under
`AUDITING`, as they would be with those policies in force.

**Entities.** `host` is the identity of the node's own host workload, `fabric` is
ANY_PEER, `world` ANY_WORLD, and a rule that names no peers is about both.
`kube-apiserver` are networks of one address each, and a CIDR is all networks that
it covers (`model.networks`).
"""

from collections.abc import Iterable, Mapping, Set
from typing import NamedTuple

from meshfabric.compiler.cells import (
    DEFAULT_PRECEDENCE,
    EVERYTHING,
    LOCAL_HOST,
    Cell,
    Source,
    Weighed,
    blocks_of,
    cells_of,
    precedence_of,
)
from meshfabric.model.labels import Labels, Selector, matches
from meshfabric.model.networks import Cidr
from meshfabric.model.plan import Entries, Table
from meshfabric.model.policy import Action, Entity, Mode, Policy, Rule, Tier, cidrs_of
from meshfabric.model.portnames import resolved, split
from meshfabric.model.ports import Ports
from meshfabric.model.selection import holders, peer_selectors
from meshfabric.model.tables import AUDITING, Direction, policy_key
from meshfabric.model.world import World

ANY_PEER, ANY_WORLD = 0, 1
ANYONE = frozenset({ANY_PEER, ANY_WORLD})
NOBODY = -1  # no identity


class Ruled(NamedTuple):
    """One direction of a subject: its rules by whom they are about.

    `named` goes with sets that stay right while label sets and networks come and
    go. `anyone` is by ANY_PEER and ANY_WORLD, each with the default at last.
    `entangled`: a policy may reach pairs here that it does not name. `audited`:
    there is another one of these with the policies in audit.
    """

    named: list[tuple[Set[int], Weighed]]
    own_host: list[Weighed]
    anyone: Mapping[int, list[Weighed]]
    entangled: bool
    audited: bool = False


Rules = Mapping[int, Ruled]
"""By direction, with or without `AUDITING`."""


def subjects(world: World) -> Set[int]:
    """The identities that this node enforces policy for."""
    return world.subjects.keys()


def rules_of(world: World, labels: Labels) -> Rules:
    """What the policies say of a label set, by direction."""
    selecting = [world.policies[name] for name in sorted(world.selection.policies(labels))]
    in_force = [policy for policy in selecting if policy.mode is Mode.ENFORCE]
    rules: dict[int, Ruled] = {}
    for direction in Direction:
        rules[direction] = _ruled(world, labels, in_force, direction)
        if any(policy.mode is Mode.AUDIT and is_ruled(policy, direction) for policy in selecting):
            rules[direction] = rules[direction]._replace(audited=True)
            rules[direction | AUDITING] = _ruled(world, labels, selecting, direction)
    return rules


def is_ruled(policy: Policy, direction: Direction) -> bool:
    """Whether a policy has anything to say about a direction, though it be that nothing may pass."""
    return _side(policy, direction)[0] is not None


def pair_entries(world: World, rules: Rules, subject: int, peers: Set[int]) -> dict[int, Entries]:
    """The entries of a subject's pairs with these peers; `rules` are those of its labels."""
    entries: dict[int, Entries] = {}
    for lane, ruled in rules.items():
        direction = Direction(lane & ~AUDITING)
        cells: dict[tuple[int, ...], list[Cell]] = {}  # many peers have the same rules
        for peer, own in _about(world, ruled, direction, peers).items():
            where = ANY_WORLD if peer in world.networks.by_number else ANY_PEER
            same = (-1 if peer in ANYONE else where, *map(id, own))
            if same not in cells:
                anyone = () if peer in ANYONE else ruled.anyone[where]
                cells[same] = cells_of(own, anyone, ruled.audited)
            made = entries.setdefault(peer, {})
            for (protocol, port, bits), value in cells[same]:
                made[Table.POLICY, policy_key(subject, peer, lane, protocol, port, bits)] = value
    return entries


def peers_of(world: World, rules: Rules) -> set[int]:
    """Whom a subject has pairs with: anyone, its node's host, and whom its rules name."""
    found = {*ANYONE, _local_host(world)} - {NOBODY}
    return found.union(*(members for ruled in rules.values() for members, _ in ruled.named))


def reach(world: World, policy: Policy, rules: Rules) -> set[int]:
    """The peers of one subject whose pairs a policy that selects it has a say in.

    With a policy in audit all of them are compiled once more, or no longer.
    """
    if policy.mode is Mode.AUDIT or any(ruled.entangled for ruled in rules.values()):
        return peers_of(world, rules)
    return named(world, policy)


def concerned(world: World, policy: Policy) -> set[int]:
    """The local subjects that a policy selects."""
    return {subject for subject in subjects(world) if matches(policy.select, world.labels[subject])}


def named(world: World, policy: Policy) -> set[int]:
    """The peers that a policy's rules are about: anyone, the own host, and whom they name."""
    found = {*ANYONE, _local_host(world)} - {NOBODY}
    if any(Entity.KUBE_APISERVER in (rule.peers or ()) for rule in policy.rules):
        found |= world.networks.of_apiservers
    chosen: set[Selector | Cidr] = {*peer_selectors(policy), *cidrs_of(policy)}
    return found.union(*map(world.selection.members, chosen))


def _ruled(world: World, labels: Labels, selecting: Iterable[Policy], direction: Direction) -> Ruled:
    ruling = [policy for policy in selecting if is_ruled(policy, direction)]
    normal = [policy for policy in ruling if policy.tier is Tier.NORMAL]
    default = _default(normal, direction)
    based = any(policy.tier is Tier.BASELINE for policy in ruling)
    ruled = Ruled(
        [],
        [],
        {one: [] for one in sorted(ANYONE)},
        based or any(_passes(policy, direction) for policy in ruling),
    )
    for policy in ruling:
        if policy.tier is not Tier.BASELINE or not normal:
            for place, rule in enumerate(_side(policy, direction)[0] or ()):
                precedence, source = precedence_of(policy, rule.action, place), Source(policy.name, place)
                weighed = Weighed(precedence, rule.action, (), source=source)
                if direction is Direction.INGRESS:
                    _add(world, ruled, rule, weighed, _at(rule.ports, labels))
                else:
                    _add_outgoing(world, ruled, rule, weighed)
    for rules in ruled.anyone.values():
        rules.append(default)
    return ruled


def _default(normal: list[Policy], direction: Direction) -> Weighed:
    """What becomes of what no rule covers: one policy that denies it is enough."""
    denying = [policy for policy in normal if _side(policy, direction)[1] is Action.DENY]
    source = Source(next((policy.name for policy in denying or normal), ""))
    action = Action.DENY if denying else Action.ALLOW
    return Weighed(DEFAULT_PRECEDENCE, action, (EVERYTHING,), source=source)


def _side(policy: Policy, direction: Direction) -> tuple[tuple[Rule, ...] | None, Action]:
    if direction is Direction.INGRESS:
        return policy.ingress, policy.ingress_default
    return policy.egress, policy.egress_default


def _passes(policy: Policy, direction: Direction) -> bool:
    return any(rule.action is Action.PASS for rule in _side(policy, direction)[0] or ())


def _at(ports: tuple[Ports, ...] | None, labels: Labels) -> tuple[Ports, ...] | None:
    """Ports with the numbers that their names have at a label set; names that it does not have left out."""
    if ports is None:
        return None
    return tuple(found for one in ports if (found := resolved(one, labels)) is not None)


def _add_outgoing(world: World, ruled: Ruled, rule: Rule, weighed: Weighed) -> None:
    numbers, names = split(rule.ports)
    _add(world, ruled, rule, weighed, numbers)
    for port in names:
        of_name = weighed._replace(port=port)
        ruled.named.extend((world.selection.members(one), of_name) for one in holders(rule, port))
        if Entity.HOST in (rule.peers or ()):
            ruled.own_host.append(of_name)


def _add(world: World, ruled: Ruled, rule: Rule, weighed: Weighed, ports: tuple[Ports, ...] | None) -> None:
    weighed = weighed._replace(blocks=tuple(blocks_of(ports)))
    if not weighed.blocks:
        return
    for peer in (Entity.FABRIC, Entity.WORLD) if rule.peers is None else rule.peers:
        match peer:
            case Entity.FABRIC:
                ruled.anyone[ANY_PEER].append(weighed)
            case Entity.WORLD:
                ruled.anyone[ANY_WORLD].append(weighed)
            case Entity.HOST:
                ruled.own_host.append(weighed)
            case Entity.KUBE_APISERVER:
                ruled.named.append((world.networks.of_apiservers, weighed))
            case _:
                ruled.named.append((world.selection.members(peer), weighed))


def _about(world: World, ruled: Ruled, direction: Direction, peers: Set[int]) -> Mapping[int, list[Weighed]]:
    """The rules about each of these peers that there are any about."""
    found = {peer: rules for peer, rules in ruled.anyone.items() if peer in peers}
    of_names: dict[tuple[int, Ports], Weighed] = {}
    for members, weighed in ruled.named:
        for peer in members & peers:  # a million times for 10,000 policies
            one = numbered_at(world, weighed, peer, of_names) if weighed.port else weighed
            if one is not None:
                found.setdefault(peer, []).append(one)
    host = _local_host(world)
    if host in peers:
        numbered = [
            numbered_at(world, weighed, host, of_names) for weighed in about_own_host(ruled, direction)
        ]
        if any(numbered):
            found[host] = [*found.get(host, []), *filter(None, numbered)]
    return found


def about_own_host(ruled: Ruled, direction: Direction) -> list[Weighed]:
    """The rules about the host of the node that a workload is on, but for those that name its labels."""
    return [*ruled.own_host, *([LOCAL_HOST] if direction is Direction.INGRESS else [])]


def numbered_at(
    world: World, weighed: Weighed, peer: int, of_names: dict[tuple[int, Ports], Weighed]
) -> Weighed | None:
    """A rule as it is about one peer, the same object for all that have the same number; None where the
    peer's port is of another protocol, or it has none of the name.
    """
    if weighed.port is None:
        return weighed
    port = resolved(weighed.port, world.labels[peer])
    if port is None:
        return None
    made = weighed._replace(blocks=tuple(blocks_of((port,))), port=None)
    return of_names.setdefault((id(weighed), port), made)


def _local_host(world: World) -> int:
    host = world.workloads.get(world.node)
    return world.identity(host.labels) if host else NOBODY
