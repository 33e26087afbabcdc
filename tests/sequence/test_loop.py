"""From any state to any state: what the loop leaves is the plan, through failures and disturbances."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from meshfabric.model.addresses import host_prefix
from meshfabric.model.plan import Change, Key, Table, Value
from meshfabric.model.settings import Settings
from meshfabric.model.tables import FIRST_NODE, address_key, address_value
from meshfabric.model.world import Event, Kind, Numbers, World
from meshfabric.reconcile import rounds as module
from meshfabric.reconcile.delta import revokes
from meshfabric.reconcile.loop import Loop
from tests.fakes.targets import FakeGenerations, FakeTarget
from tests.strategies import all_settings, full, sequences, world_of
from tests.vocabulary import LOCAL

EXAMPLES = 60
DEADLINE_S = 60.0  # a bound for what hangs, not for slow machines


@pytest.fixture(autouse=True)
def _quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_FIRST_S", 0.001)


def run(world: World, target: FakeTarget, story: Callable[[Loop, FakeGenerations], Awaitable[None]]) -> Loop:
    """Run a loop beside a story that ends it."""
    generations = FakeGenerations(target)

    async def play() -> Loop:
        loop = Loop(world, [target], generations)
        async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as tasks:
            running = tasks.create_task(loop.run())
            await story(loop, generations)
            running.cancel()
        return loop

    return asyncio.run(play())


async def until(holds: Callable[[], bool]) -> None:
    """Wait for what the loop does by itself."""
    while not holds():  # noqa: ASYNC110  # nothing tells us: that is what is tested
        await asyncio.sleep(0.001)


def assert_is(target: FakeTarget, loop: Loop) -> None:
    """Everything is as planned, and nothing else is there."""
    for table in Table:
        assert target.entries[table] == loop.plan.table(table), table


@given(all_settings(), sequences(), sequences())
@settings(max_examples=EXAMPLES, deadline=None)
def test_any_state_becomes_the_plan(given: Settings, earlier: list[Event], now: list[Event]) -> None:
    target = FakeTarget()

    async def story(loop: Loop, _: FakeGenerations) -> None:
        loop.sync()
        await loop.settled()

    run(world_of(given, earlier), target, story)
    assert_is(target, run(world_of(given, now), target, story))


@given(all_settings(), sequences(), st.randoms(use_true_random=False))
@settings(max_examples=EXAMPLES, deadline=None)
def test_failures_on_the_way_change_nothing_in_the_end(
    given: Settings, happened: list[Event], random: Random
) -> None:
    target = FakeTarget()

    async def story(loop: Loop, _: FakeGenerations) -> None:
        loop.sync()
        for event in happened:
            target.broken = set(random.sample(list(Table), random.randrange(4)))
            loop.feed([event])
            await asyncio.sleep(0)
        target.broken = set()
        await until(lambda: not loop.failing)
        await loop.settled()

    assert_is(target, run(World(given), target, story))


@given(all_settings(), sequences(), sequences())
@settings(max_examples=EXAMPLES, deadline=None)
def test_nothing_is_removed_before_every_source_told_all(
    given: Settings, earlier: list[Event], now: list[Event]
) -> None:
    target = FakeTarget()
    left = world_of(given, earlier)

    async def settle(loop: Loop, _: FakeGenerations) -> None:
        loop.sync()
        await loop.settled()

    async def start_only(loop: Loop, _: FakeGenerations) -> None:
        await loop.settled()

    run(left, target, settle)
    before = {table: set(entries) for table, entries in target.entries.items()}
    run(world_of(given, now), target, start_only)
    for table in Table:
        assert before[table] <= set(target.entries[table])


def test_a_broken_table_holds_up_nobody_and_is_tried_again(base: Settings) -> None:
    target = FakeTarget()
    target.broken = {Table.RECORDS}

    async def story(loop: Loop, _: FakeGenerations) -> None:
        loop.feed(full())
        loop.sync()
        await loop.settled()
        assert list(loop.failing) == [Table.RECORDS]
        assert target.entries[Table.ADDRESSES] == loop.plan.addresses
        target.broken = set()
        await until(lambda: not loop.failing)

    assert_is(target, run(World(base), target, story))


def test_drift_is_repaired_and_counted(base: Settings) -> None:
    settings = replace(base, drift_check_s=0.1)
    target = FakeTarget()

    async def story(loop: Loop, _: FakeGenerations) -> None:
        loop.feed(full())
        loop.sync()
        await loop.settled()
        key = next(iter(target.entries[Table.ADDRESSES]))
        del target.entries[Table.ADDRESSES][key]
        target.entries[Table.ADDRESSES][address_key(host_prefix(b"stranger--------"))] = address_value(1, 1)
        await until(lambda: loop.drift_repaired == 2)
        await loop.settled()

    loop = run(World(settings), target, story)
    assert_is(target, loop)
    assert loop.drift_repaired == 2


def test_a_store_that_hangs_holds_up_nothing_in_the_kernel(base: Settings) -> None:
    target, answers = FakeTarget(), asyncio.Event()

    class Silent(FakeTarget):
        async def apply(self, changes: Sequence[Change]) -> None:
            await answers.wait()
            await super().apply(changes)

    async def play() -> None:
        kernel = FakeTarget([table for table in Table if table is not Table.RECORDS])
        store = Silent([Table.RECORDS])
        loop = Loop(World(base), [kernel, store], FakeGenerations(target))
        async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as tasks:
            running = tasks.create_task(loop.run())
            loop.feed(full())
            loop.sync()
            await until(lambda: kernel.entries[Table.ADDRESSES] == loop.plan.addresses)
            assert not store.entries[Table.RECORDS]
            answers.set()
            await loop.settled()
            assert store.entries[Table.RECORDS] == loop.plan.table(Table.RECORDS)
            running.cancel()

    asyncio.run(play())


def test_what_comes_while_everything_is_compared_does_not_wait_for_the_end(base: Settings) -> None:
    """A policy goes while the first table is looked at: it has gone when the second one's turn comes."""
    looked_at: asyncio.Queue[Table] = asyncio.Queue()
    go_on: asyncio.Queue[None] = asyncio.Queue()

    class Slow(FakeTarget):
        gated = False

        async def observe(self, table: Table) -> Iterable[tuple[Key, Value]]:
            if self.gated and table is not Table.RECORDS:
                await looked_at.put(table)
                await go_on.get()
            return await super().observe(table)

    target = Slow()

    async def story(loop: Loop, _: FakeGenerations) -> None:
        loop.feed(full())
        loop.sync()
        await loop.settled()
        target.gated = True
        loop.check(Table, drift=True)
        assert await looked_at.get() is Table.TUNNELS
        loop.feed([Event(Kind.POLICY, "p")])
        assert target.entries[Table.POLICY] != loop.plan.table(Table.POLICY)
        await go_on.put(None)
        assert await looked_at.get() is Table.PEERS
        assert target.entries[Table.POLICY] == loop.plan.table(Table.POLICY)
        target.gated = False
        await go_on.put(None)
        await loop.settled()
        assert not loop.drift_repaired

    run(World(base), target, story)


def test_nothing_is_written_to_what_was_not_looked_at(base: Settings) -> None:
    """Routes are set a whole table at a time: who writes before he looks removes what is there."""

    class Careful(FakeTarget):
        async def observe(self, table: Table) -> Iterable[tuple[Key, Value]]:
            looked_at.add(table)
            return await super().observe(table)

        async def apply(self, changes: Sequence[Change]) -> None:
            assert changes[0].table in looked_at
            await super().apply(changes)

    async def story(loop: Loop, _: FakeGenerations) -> None:
        loop.feed(full())
        await loop.settled()

    looked_at: set[Table] = set()
    target = Careful()
    assert_is(target, run(World(base), target, story))


@given(sequences())
@settings(max_examples=EXAMPLES, deadline=None)
def test_revocations_go_first_and_generations_last(base: Settings, happened: list[Event]) -> None:
    target = FakeTarget()

    async def story(loop: Loop, generations: FakeGenerations) -> None:
        loop.feed(full())
        loop.sync()
        await loop.settled()
        target.log.clear()
        generations.bumps.clear()
        loop.feed(happened)
        await loop.settled()
        order = [revokes(change) for change in target.in_kernel]
        assert order == sorted(order, reverse=True)
        assert all(written == len(target.in_kernel) for _, written in generations.bumps)

    run(World(base), target, story)


def test_an_event_without_a_number_left_is_refused_alone(base: Settings) -> None:
    target = FakeTarget()
    world = World(base)
    world.node_numbers = Numbers(FIRST_NODE, FIRST_NODE)  # room for one

    async def story(loop: Loop, _: FakeGenerations) -> None:
        loop.feed(full())
        loop.sync()
        await loop.settled()

    loop = run(world, target, story)
    assert loop.events_refused > 0
    assert len(world.nodes) > 0
    assert_is(target, loop)


def test_it_is_in_force_once_all_was_tried_with_the_node_in_it(base: Settings) -> None:
    """Before, what an earlier run left may still be what forwards."""
    looked_at, go_on = asyncio.Event(), asyncio.Event()

    class Slow(FakeTarget):
        async def observe(self, table: Table) -> Iterable[tuple[Key, Value]]:
            looked_at.set()
            await go_on.wait()
            return await super().observe(table)

    node = [event for event in full() if event.key in LOCAL and event.kind is Kind.WORKLOAD]
    rest = [event for event in full() if event not in node]

    async def story(loop: Loop, _: FakeGenerations) -> None:
        loop.feed(rest)
        await looked_at.wait()
        assert not loop.in_force
        go_on.set()
        await loop.settled()
        assert not loop.in_force
        loop.feed(node)
        assert not loop.in_force
        await loop.settled()
        assert loop.in_force

    assert base.node in LOCAL
    run(World(base), Slow(), story)


def test_before_anything_is_applied_it_is_said_so(base: Settings) -> None:
    """Then numbers are written down: no map may hold one that the next run gives to somebody else."""
    written: list[tuple[int, ...]] = []

    class Strict(FakeTarget):
        async def apply(self, changes: Sequence[Change]) -> None:
            assert written[-1] == world.numbers_given
            await super().apply(changes)

    async def story(loop: Loop, _: FakeGenerations) -> None:
        loop.on_apply = lambda: written.append(world.numbers_given)
        for event in full():
            loop.feed([event])
            await loop.settled()

    world, target = World(base), Strict()
    assert_is(target, run(world, target, story))


def test_checks_that_take_longer_than_the_time_between_them_keep_nobody_waiting(base: Settings) -> None:
    """As on a machine that is too busy: what is attached meanwhile is told to be in force."""

    class Slow(FakeTarget):
        async def observe(self, table: Table) -> Iterable[tuple[Key, Value]]:
            await asyncio.sleep(0.001)
            return await super().observe(table)

    async def story(loop: Loop, _: FakeGenerations) -> None:
        for event in full():
            loop.feed([event])
            await loop.settled()

    target = Slow()
    assert_is(target, run(World(replace(base, drift_check_s=0.0001)), target, story))
