"""Numbers outlive the agent: a world built anew with the pinned ones makes the same plan, byte for byte."""

from collections.abc import Callable, Hashable
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from meshfabric.compiler.step import compile_plan, step
from meshfabric.model.addresses import Network
from meshfabric.model.networks import Cidr, network_labels
from meshfabric.model.qos import BUILT_IN, FIRST_OWN_NUMBER, LAST_NUMBER
from meshfabric.model.settings import Settings
from meshfabric.model.tables import FIRST_NODE, WORLD
from meshfabric.model.world import FIRST_IDENTITY, Event, Kind, Numbers, World
from tests.strategies import all_settings, sequences, world_of

EXAMPLES = 100


def pinned_like(world: World) -> World:
    """A world as a restarted agent has it before the first event."""
    fresh = World(world.settings)
    fresh.pin(*(list(numbers.items()) for numbers in numbers_of(world)))  # type: ignore[arg-type]  # any sets will do
    return fresh


def numbers_of(world: World) -> tuple[Numbers, Numbers, Numbers, Numbers]:
    """Identities, nodes, workloads, classes: the order of `World.pin`."""
    return world.identities, world.node_numbers, world.workload_numbers, world.class_numbers


def told_anew(world: World, dice: Random) -> list[Event]:
    """What sources tell that list all that there is, in any order."""
    everything = [
        Event(kind, key, value) for kind in Kind for key, value in getattr(world, kind.value).items()
    ]
    dice.shuffle(everything)
    return everything


@given(all_settings(), sequences(), st.randoms(use_true_random=False))
@settings(max_examples=EXAMPLES, deadline=None)
def test_a_restart_changes_nothing(given: Settings, happened: list[Event], dice: Random) -> None:
    world = world_of(given, happened)
    again = pinned_like(world)
    plan = compile_plan(again)
    for event in told_anew(world, dice):
        step(again, plan, event)
    assert plan == compile_plan(world)
    assert str(plan) == str(compile_plan(world))


@given(all_settings(), sequences(), sequences(), st.randoms(use_true_random=False))
@settings(max_examples=EXAMPLES, deadline=None)
def test_numbers_that_nothing_claims_are_free_after_the_first_sync(
    given: Settings, happened: list[Event], other: list[Event], dice: Random
) -> None:
    again = pinned_like(world_of(given, other))
    for event in told_anew(world_of(given, happened), dice):
        again.apply(event)
    plan = compile_plan(again)
    again.release_unused()
    assert compile_plan(again) == plan
    identities, nodes, workloads, classes = (set(dict(numbers.items())) for numbers in numbers_of(again))
    used = in_use(again)
    assert [identities, nodes, classes] == [used[0], used[1], used[3]]
    assert workloads | {again.node} == {*again.workloads, again.node}


def in_use(world: World) -> list[set[Hashable]]:
    """What must have a number, found by looking at everything."""
    labels: set[Hashable] = {endpoint.labels for endpoint in world.endpoints.values()}
    labels |= {workload.labels for workload in world.workloads.values()}
    labels |= set(map(network_labels, named_outside(world)))
    nodes: set[Hashable] = {*world.nodes, *(endpoint.node for endpoint in world.endpoints.values())}
    classes: set[Hashable] = set(world.classes.keys() - BUILT_IN.keys())
    return [labels, nodes - {world.node}, set(world.workloads), classes]


def named_outside(world: World) -> set[Network]:
    """The networks that documents name, and the API servers' addresses."""
    rules = [rule for policy in world.policies.values() for rule in policy.rules]
    cidrs = [peer for rule in rules for peer in rule.peers or () if isinstance(peer, Cidr)]
    named = {network for cidr in cidrs for network in (cidr.network, *cidr.exceptions)}
    return named | set(world.apiservers.get("", ()))


@given(all_settings(), sequences())
@settings(max_examples=EXAMPLES, deadline=None)
def test_what_is_in_use_keeps_its_number(given: Settings, happened: list[Event]) -> None:
    world = World(given)
    ranges: list[Callable[[int], bool]] = [
        lambda number: number >= FIRST_IDENTITY,
        lambda number: FIRST_NODE <= number < WORLD,
        lambda number: 1 <= number < FIRST_NODE,
        lambda number: FIRST_OWN_NUMBER <= number <= LAST_NUMBER,
    ]
    for event in happened:
        before = [dict(numbers.items()) for numbers in numbers_of(world)]
        world.apply(event)
        for numbers, old, keys, fits in zip(numbers_of(world), before, in_use(world), ranges, strict=True):
            now = dict(numbers.items())
            assert set(now) == keys
            assert len(set(now.values())) == len(now)
            assert all(fits(number) for number in now.values())
            assert {key: now[key] for key in now.keys() & old} == {key: old[key] for key in now.keys() & old}
        networks = {number: network_labels(network) for number, network in world.networks.by_number.items()}
        assert {**world.labels, **networks} == {number: labels for labels, number in world.identities.items()}
        assert not world.labels.keys() & networks.keys()
