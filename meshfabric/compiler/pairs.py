"""Which pairs of identities an event reaches; `policies` compiles them.

What was read out of the policies for a subject is kept with the plan
(`Plan.rules`) until a policy that selects it changes, or it is no subject any
more. Everything is asked before the world has changed and after, of a policy
both as it was and as it will be: the first normal policy of a subject takes
away what its baseline named, and names nobody itself.
"""

from meshfabric.compiler.policies import Rules, concerned, peers_of, reach, rules_of, subjects
from meshfabric.compiler.workloads import host_name
from meshfabric.model.plan import Plan
from meshfabric.model.policy import Policy
from meshfabric.model.world import Event, Kind, World

Pairs = dict[int, set[int]]
"""Peers by subject."""


def all_pairs(world: World, plan: Plan) -> Pairs:
    """Every pair that may have entries."""
    return {subject: peers_of(world, rules_for(world, plan, subject)) for subject in subjects(world)}


def touched_pairs(world: World, plan: Plan, event: Event, before: object) -> Pairs:
    """The pairs that depend on an event: on its policy, as it was and will be, or on its local workload."""
    pairs: Pairs = {}
    for policy in _policies(event, before):
        for one in concerned(world, policy):
            join(pairs, {one: reach(world, policy, rules_for(world, plan, one))})
    if event.kind is Kind.WORKLOAD and event.key in world.workloads:
        number = world.identity(world.workloads[str(event.key)].labels)
        join(pairs, {number: peers_of(world, rules_for(world, plan, number))})
        if event.key == host_name(world):
            join(pairs, {subject: {number} for subject in subjects(world)})
    elif event.kind is Kind.APISERVERS:
        join(pairs, {subject: set(world.networks.of_apiservers) for subject in subjects(world)})
    return pairs


def forget_rules(world: World, plan: Plan, event: Event, before: object) -> None:
    """After an event: what was read out of the policies for those whom it is about is not right any more."""
    for policy in _policies(event, before):
        for subject in concerned(world, policy):
            plan.rules.pop(subject, None)
    if event.kind is Kind.WORKLOAD:
        for subject in plan.rules.keys() - subjects(world):
            del plan.rules[subject]


def rules_for(world: World, plan: Plan, subject: int) -> Rules:
    """What the policies say of a subject."""
    rules: Rules | None = plan.rules.get(subject)
    if rules is None:
        rules = plan.rules[subject] = rules_of(world, world.labels[subject])
    return rules


def join(pairs: Pairs, more: Pairs) -> None:
    """Add some pairs to others."""
    for subject, peers in more.items():
        pairs.setdefault(subject, set()).update(peers)


def _policies(event: Event, before: object) -> list[Policy]:
    """An event's policy as it was and as it will be."""
    return [one for one in (before, event.value) if isinstance(one, Policy)]
