"""Whatever happens, in whatever order: stepping ends in the plan that compiling the world makes."""

from itertools import pairwise
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from meshfabric.compiler.step import compile_plan, step
from meshfabric.model.plan import Change, Plan, Table
from meshfabric.model.policytext import IngressText, PolicyText, read_policy
from meshfabric.model.settings import Settings
from meshfabric.model.versions import LANGUAGE
from meshfabric.model.world import Event, Kind, World
from tests.oracles import meaning
from tests.strategies import all_settings, full, policed, sequences, world_of

EXAMPLES = 100


def stepped(given: Settings, happened: list[Event]) -> tuple[World, Plan, list[Change]]:
    """A world and a plan that were made one event at a time, from nothing."""
    world = World(given)
    plan = compile_plan(world)
    return world, plan, [change for event in happened for change in step(world, plan, event)]


@given(all_settings(), sequences())
@settings(max_examples=2 * EXAMPLES, deadline=None)
def test_every_step_ends_in_the_plan_of_its_world(given: Settings, happened: list[Event]) -> None:
    world = World(given)
    plan = compile_plan(world)
    for event in happened:
        step(world, plan, event)
        assert plan == compile_plan(world), event
        assert all(plan.units.values()), "a unit without entries is kept"


@given(all_settings(), policed().map(lambda more: full() + more))
@settings(max_examples=2 * EXAMPLES, deadline=None)
def test_so_does_every_step_where_policies_meet(given: Settings, happened: list[Event]) -> None:
    """Tiers, passes and defaults about the same few workloads."""
    world = world_of(given, happened[: len(full())])
    plan = compile_plan(world)
    for event in happened[len(full()) :]:
        step(world, plan, event)
        assert plan == compile_plan(world), event


def test_a_normal_policy_takes_the_baseline_away_and_gives_it_back(base: Settings) -> None:
    """It reaches pairs with those whom only the baseline names."""
    rules = [IngressText(["app=db"], action="deny")]
    baseline = read_policy(PolicyText("p", "*", rules, min_version=LANGUAGE, tier="baseline"))
    normal = read_policy(PolicyText("q", "*", [IngressText(["app=web"])]))
    world = world_of(base, [*full(), Event(Kind.POLICY, "q"), Event(Kind.POLICY, "p", baseline)])
    plan = compile_plan(world)
    for value in (normal, None):
        assert step(world, plan, Event(Kind.POLICY, "q", value))
        assert plan == compile_plan(world)


@given(all_settings(), sequences())
@settings(max_examples=EXAMPLES, deadline=None)
def test_changes_carried_out_make_the_tables(given: Settings, happened: list[Event]) -> None:
    world = World(given)
    plan = compile_plan(world)
    tables = {table: dict(plan.entries(table)) for table in Table}
    for event in happened:
        for change in step(world, plan, event):
            assert tables[change.table].get(change.key) == change.old
            assert change.value != change.old
            if change.value is None:
                del tables[change.table][change.key]
            else:
                tables[change.table][change.key] = change.value
        assert tables == {table: dict(plan.entries(table)) for table in Table}


@given(all_settings(), sequences())
@settings(max_examples=EXAMPLES, deadline=None)
def test_no_two_units_share_an_entry(given: Settings, happened: list[Event]) -> None:
    plan = compile_plan(world_of(given, happened))
    keys = [key for entries in plan.units.values() for key in entries]
    assert len(keys) == len(set(keys))


@given(all_settings(), sequences(), st.data())
@settings(max_examples=EXAMPLES, deadline=None)
def test_a_plan_compiled_midway_is_stepped_on_the_same(
    given: Settings, happened: list[Event], data: st.DataObject
) -> None:
    cut = data.draw(st.integers(0, len(happened)))
    world = world_of(given, happened[:cut])
    plan = compile_plan(world)
    for event in happened[cut:]:
        step(world, plan, event)
    _, whole, _ = stepped(given, happened)
    assert plan == whole


@given(all_settings(), sequences())
@settings(max_examples=EXAMPLES, deadline=None)
def test_an_event_said_twice_changes_nothing(given: Settings, happened: list[Event]) -> None:
    world = World(given)
    plan = compile_plan(world)
    for event in happened:
        step(world, plan, event)
        text = str(plan)
        assert step(world, plan, event) == []
        assert str(plan) == text


@given(all_settings(), sequences(), sequences(8))
@settings(max_examples=EXAMPLES, deadline=None)
def test_what_was_undone_leaves_no_trace(given: Settings, happened: list[Event], detour: list[Event]) -> None:
    world, plan, _ = stepped(given, happened)
    before = meaning(world, plan)
    back = []
    for event in detour:
        back.append(event._replace(value=world.get(event.kind, event.key)))
        step(world, plan, event)
    for event in reversed(back):
        step(world, plan, event)
    assert meaning(world, plan) == before


@given(all_settings(), sequences(), st.randoms(use_true_random=False))
@settings(max_examples=EXAMPLES, deadline=None)
def test_the_order_of_independent_events_does_not_matter(
    given: Settings, happened: list[Event], dice: Random
) -> None:
    world, plan, _ = stepped(given, happened)
    other_world, other_plan, _ = stepped(given, shuffled(happened, dice))
    assert meaning(other_world, other_plan) == meaning(world, plan)


def shuffled(happened: list[Event], dice: Random) -> list[Event]:
    """Another interleaving: events about the same thing keep their order."""
    lanes: dict[object, list[Event]] = {}
    for event in happened:
        lanes.setdefault((event.kind, event.key), []).append(event)
    order = [(event.kind, event.key) for event in happened]
    dice.shuffle(order)
    return [lanes[lane].pop(0) for lane in order]


@given(all_settings(), sequences())
@settings(max_examples=EXAMPLES, deadline=None)
def test_a_world_taken_down_is_empty_again(given: Settings, happened: list[Event]) -> None:
    world, plan, _ = stepped(given, happened)
    for event in happened:
        step(world, plan, event._replace(value=None))
    assert plan == compile_plan(World(given))
    numbers = (world.identities, world.node_numbers, world.workload_numbers, world.class_numbers)
    networks = (world.networks.by_number, world.networks.by_prefix, world.networks.of_apiservers)
    indexes = (*networks, world.labels, world.here, world.subjects, world.uplinks)
    assert [len(one) for one in (*numbers, *indexes)] == [0] * 11
    assert list(world.far_ends.sizes()) == []


@given(all_settings(), sequences())
@settings(max_examples=EXAMPLES, deadline=None)
def test_a_plan_prints_sorted_and_whole(given: Settings, happened: list[Event]) -> None:
    plan = compile_plan(world_of(given, happened))
    lines = str(plan).splitlines()
    assert len(lines) == sum(1 for table in Table for _ in plan.entries(table))
    order = [table.value for table in Table]
    keys = [(order.index(line.split()[0]), line) for line in lines]
    assert all(one < other for one, other in pairwise(keys))
