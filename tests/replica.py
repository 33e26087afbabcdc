"""The simplest consumer of `store.watch.follow`: a dict; the oracle of the watch tests.

After whatever happened it must be equal to what a fresh scan reads, and no event
may have come to it out of order or twice.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from typing import Self

from meshfabric.model.errors import TemporaryError
from meshfabric.store.client import Entry, Etcd, Page
from meshfabric.store.watch import Batch, Position, Relist, Synced, Update, follow
from tests.patience import DEADLINE_S

PREFIX = b"/state/"


def no_jitter(limit: float) -> float:
    return 0.0 * limit


class Replica:
    """A dict that follows a prefix, and a record of what it was told."""

    def __init__(self, etcd: Etcd, since: Position | None = None, prefix: bytes = PREFIX) -> None:
        self._etcd, self.prefix = etcd, prefix
        self.position = since
        self.keys: dict[bytes, bytes] = {}
        self.listed_at = 0
        self.revisions: list[int] = []  # of events since the last listing
        self.told: list[Batch] = []
        self._listing: dict[bytes, bytes] = {}
        self._batches: AsyncGenerator[Batch, None] = follow(etcd, prefix, since, jitter=no_jitter)

    async def until(self, reached: Callable[[], bool]) -> None:
        """Follow until a condition holds."""
        async with asyncio.timeout(DEADLINE_S):
            while not reached():
                self._take(await anext(self._batches))

    async def until_like(self, etcd: Etcd) -> None:
        """Follow until we are where etcd is, and be equal to it."""
        revision = 0
        keys: dict[bytes, bytes] = {}
        async for page in etcd.scan(self.prefix):
            revision = max([revision, *(entry.mod_revision for entry in page.entries)])
            keys |= {entry.key: entry.value for entry in page.entries}
        await self.until(lambda: self.position is not None and self.position.revision >= revision)
        await self.until(lambda: self.keys == keys)

    async def until_it_watches(self) -> None:
        """Follow until an event came by a watch: not before that is there something to interrupt."""
        seen = self.count(Update)
        await self.until(lambda: self.position is not None)
        await self._etcd.put(self.prefix + b"watched", b"%d" % seen)
        await self.until(lambda: self.count(Update) > seen)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._batches.aclose()

    def reasons(self) -> list[str]:
        """Why listings were made."""
        return [batch.reason for batch in self.told if isinstance(batch, Relist)]

    def count(self, kind: type[Batch]) -> int:
        return sum(isinstance(batch, kind) for batch in self.told)

    def _take(self, batch: Batch) -> None:
        self.told.append(batch)
        match batch:
            case Relist():
                self._listing = {}
            case Page(entries=entries):
                self._listing |= {entry.key: entry.value for entry in entries}
            case Synced(position=position):
                self.keys, self.position = self._listing, position
                self.listed_at, self.revisions = position.revision, []
            case Update():
                self._apply(batch)

    def _apply(self, update: Update) -> None:
        revisions = [event.mod_revision for event in update.events]
        assert revisions == sorted(revisions)
        assert self.position
        assert all(revision > self.position.revision for revision in revisions)
        assert update.position.revision >= max(revisions, default=0)
        self.position = update.position
        self.revisions += revisions
        for event in update.events:
            if isinstance(event, Entry):
                self.keys[event.key] = event.value
            else:
                del self.keys[event.key]


async def insist(call: Callable[[], Awaitable[int]]) -> int:
    """Repeat a call until etcd takes it."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            with suppress(TemporaryError):
                return await call()
            await asyncio.sleep(0.01)


async def current_revision(etcd: Etcd) -> int:
    """The cluster's revision now."""
    return (await etcd.read(PREFIX)).revision
