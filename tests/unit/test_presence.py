"""What a node reports to the store: how far it has come, no sooner than it has, and until it is taken."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from meshfabric.agent import presence
from meshfabric.model.errors import TemporaryError
from meshfabric.model.settings import Settings
from meshfabric.model.world import World
from meshfabric.reconcile.loop import Loop
from tests.fakes.targets import FakeGenerations, FakeTarget
from tests.patience import DEADLINE_S
from tests.strategies import full

POSITION = SimpleNamespace(revision=7)


class Store:
    """Keeps the reports that it takes; `away`, it takes none."""

    def __init__(self) -> None:
        self.reports: list[dict[str, Any]] = []
        self.away = False
        self.asked = 0

    async def put(self, key: bytes, value: bytes) -> None:
        self.asked += 1
        if self.away:
            raise TemporaryError("etcd is away")
        self.reports.append(msgspec.json.decode(value))

    @property
    def revisions(self) -> list[int]:
        return [report["revision"] for report in self.reports]


class Node:
    """Just what is reported of: a loop, and how far the store was read."""

    def __init__(self, base: Settings) -> None:
        self.store = Store()
        target = FakeTarget()
        self.loop = Loop(World(base), [target], FakeGenerations(target))
        self.source = SimpleNamespace(changed=asyncio.Event(), position=POSITION, connected=True, listings=1)
        self.registry = SimpleNamespace(refused={}, held="")

    @asynccontextmanager
    async def reporting(self) -> AsyncIterator[None]:
        reports: Any = presence.keep_reporting(self.store, self.source, self.registry, self.loop)  # type: ignore[arg-type]  # fakes
        async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(self.loop.run()), tasks.create_task(reports)]
            yield
            for task in running:
                task.cancel()


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "REPORT_AT_MOST_EVERY_S", 0.001)


async def until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110  # nothing tells us: that is what is tested
        await asyncio.sleep(0.001)


async def test_no_revision_is_reported_before_anything_was_removed_for_it(base: Settings) -> None:
    node = Node(base)
    node.loop.feed(full())
    async with node.reporting():
        node.source.changed.set()
        await until(lambda: node.store.revisions == [0])
        node.loop.sync()
        node.source.changed.set()
        await until(lambda: node.store.revisions == [0, 7])


async def test_what_the_store_did_not_take_is_told_again(base: Settings) -> None:
    node = Node(base)
    node.loop.sync()
    node.store.away = True
    async with node.reporting():
        node.source.changed.set()
        await until(lambda: node.store.asked > 2)
        node.store.away = False
        await until(lambda: node.store.revisions == [7])


async def test_a_store_that_was_listed_anew_is_told_again(base: Settings) -> None:
    """It may have been set back to where it had an older report, or none."""
    node = Node(base)
    node.loop.sync()
    async with node.reporting():
        node.source.changed.set()
        await until(lambda: node.store.revisions == [7])
        node.source.listings += 1
        node.source.changed.set()
        await until(lambda: node.store.revisions == [7, 7])
