"""Following all keys of a prefix: list once, then every change in order, over any disturbance.

Owns when to list anew and how an interrupted watch goes on. `client` owns single
requests, `registry` what the records mean; whoever consumes owns pacing: etcd
waits while a batch is being worked on.

    first           Back  Relist Page... Synced  Update Update ...
    disconnected    Lost  Back  Update ...                    (resumed, nothing lost or doubled)
    history is gone Relist Page... Synced  Update ...

History is gone when etcd compacted it, when another cluster answers, or when a
backup was restored. The last shows by the revision, which fell; or, when the restored
cluster has overtaken us meanwhile, by the newest key that we saw (the anchor):
it is not in the new history as we saw it.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from typing import NoReturn

import msgspec

from meshfabric.model.errors import TemporaryError
from meshfabric.store import etcd_pb2 as pb
from meshfabric.store.client import ABSENT, LATEST, Entry, Etcd, Page, prefix_end
from meshfabric.store.connection import (
    PERMISSION_DENIED,
    TOKEN_REFUSALS,
    EndpointFault,
    RevisionGone,
    Stream,
    TokenRefused,
    refusal,
)

RELIST_SPREAD_S = 10.0  # a thousand nodes that lost the same history do not list at once
RETRY_FIRST_S = 0.25
RETRY_LONGEST_S = 5.0
# In units of `Settings.timeout_s`: a watch may be silent so long before it is asked for a
# sign of life, and is given up after so many questions without an answer.
SILENCE = 2
SILENCES = 3
WHOLE_STREAM = -1  # the watch id of answers to a progress request
NO_ANCHOR = b""

ASK_PROGRESS = pb.WatchRequest(progress_request=pb.WatchProgressRequest())


class Position(msgspec.Struct, frozen=True):
    """Where a follower is: all of `revision` seen; can be stored, to go on from there after a restart.

    `anchor` is the newest key seen to be written, at `anchor_revision`.
    """

    cluster_id: int
    revision: int
    anchor: bytes = NO_ANCHOR
    anchor_revision: int = 0


class Removal(msgspec.Struct, frozen=True, gc=False):
    """A key that was deleted, or whose lease ran out, at `mod_revision`."""

    key: bytes
    mod_revision: int


class Relist(msgspec.Struct, frozen=True):
    """A listing begins: pages, then Synced. One that Lost or Relist interrupts counts for nothing."""

    reason: str


class Synced(msgspec.Struct, frozen=True):
    """The listing is whole: keys that were in none of its pages do not exist."""

    position: Position


class Update(msgspec.Struct, frozen=True):
    """Changes in order, a transaction never split; none where only the revision moved on."""

    position: Position
    events: tuple[Entry | Removal, ...]


class Lost(msgspec.Struct, frozen=True):
    """etcd is away, what we know may be old; repeated when the reason changes."""

    reason: str


class Back(msgspec.Struct, frozen=True):
    """etcd answers: at first and after Lost."""


Batch = Relist | Page | Synced | Update | Lost | Back


async def follow(
    etcd: Etcd,
    prefix: bytes,
    since: Position | None = None,
    *,
    jitter: Callable[[float], float],
    ranges: Sequence[bytes] = (),
) -> AsyncGenerator[Batch, None]:
    """Batches without end, beginning after `since` if its history is still there, else with a listing.

    `ranges` are the prefixes to list, in this order, where not all below `prefix` is to be
    listed in the order of keys. `jitter(limit)` chooses each random wait, in seconds from 0
    to limit. Temporary faults are told (Lost) and overcome. Raises PermanentError (no
    permission, wrong password): follow again from the last position when that was corrected.
    """
    follower = _Follower(etcd, prefix, since, ranges or (prefix,))
    while True:
        try:
            async with aclosing(follower.run()) as batches:
                async for batch in batches:
                    yield batch
        except RevisionGone as gone:
            follower.start_over(gone.what)
            await asyncio.sleep(jitter(RELIST_SPREAD_S))
        except TokenRefused as refused:
            follower.renew_token(refused)
        except TemporaryError as fault:
            if lost := follower.lost(str(fault)):
                yield lost
            await asyncio.sleep(follower.pause(jitter))


class _Follower:
    """What outlives a connection: the position, and what the consumer was told of etcd's state."""

    def __init__(self, etcd: Etcd, prefix: bytes, since: Position | None, ranges: Sequence[bytes]) -> None:
        self._etcd, self._prefix, self._position, self._ranges = etcd, prefix, since, ranges
        self._relist_reason = "first listing"
        self._told: str | None = ""  # the last reason given in Lost, None after Back
        self._failures = 0
        self._token_refused = False

    async def run(self) -> AsyncGenerator[Batch, None]:
        """One connection's worth of batches; ends only by an error."""
        if self._position is None:
            async with aclosing(self._list()) as batches:
                async for batch in batches:
                    yield batch
        assert self._position is not None
        await self._verify(self._position)
        async with await self._etcd.open_watch() as stream:
            await self._begin(stream, self._position.revision + 1)
            for back in self._back():
                yield back
            tray = _Tray(self._position)
            while True:
                for update in tray.sort(await self._next(stream)):
                    self._position = update.position
                    yield update

    def start_over(self, reason: str) -> None:
        """The history of our position is gone."""
        self._position, self._relist_reason = None, reason

    def renew_token(self, refused: TokenRefused) -> None:
        """A token may have run out since the last call; one that is refused when new is an error."""
        if self._token_refused:
            raise refused
        self._token_refused = True
        self._etcd.forget_token()

    def lost(self, reason: str) -> Lost | None:
        """What to tell of a fault, None if it was told."""
        self._failures += 1
        if reason == self._told:
            return None
        self._told = reason
        return Lost(reason)

    def pause(self, jitter: Callable[[float], float]) -> float:
        """Seconds until the next try: doubling, half of it random."""
        half = min(RETRY_LONGEST_S, RETRY_FIRST_S * 2.0**self._failures) / 2
        return half + jitter(half)

    def _back(self) -> Iterable[Back]:
        self._failures, self._token_refused = 0, False
        if self._told is not None:
            self._told = None
            yield Back()

    async def _list(self) -> AsyncGenerator[Batch, None]:
        """Position stays None until the last page, so that an interrupted listing begins anew."""
        reason, newest = self._relist_reason, Entry(NO_ANCHOR, b"", 0)
        async for page in self._pages():
            for back in self._back():
                yield back
            if reason:
                yield Relist(reason)
                reason = ""
            newest = max((newest, *page.entries), key=lambda entry: entry.mod_revision)
            yield page
        self._position = Position(page.cluster_id, page.revision, newest.key, newest.mod_revision)
        yield Synced(self._position)

    async def _pages(self) -> AsyncGenerator[Page, None]:
        """Every page of every range, all at the revision of the first."""
        first: Page | None = None
        for prefix in self._ranges:
            async for page in self._etcd.scan(prefix, revision=first.revision if first else LATEST):
                first = first or page
                if page.cluster_id != first.cluster_id:
                    raise RevisionGone("another cluster answers")
                yield page

    async def _begin(self, stream: Stream[pb.WatchResponse], revision: int) -> None:
        """Ask for the watch and wait for the answer to that."""
        create = pb.WatchCreateRequest(
            key=self._prefix,
            range_end=prefix_end(self._prefix),
            start_revision=revision,
            progress_notify=True,
            fragment=True,
        )
        try:
            async with asyncio.timeout(self._etcd.settings.timeout_s):
                await stream.write(pb.WatchRequest(create_request=create))
                created = await stream.read()
        except TimeoutError as error:
            raise stream.fault("no answer to a watch in time") from error
        if created.canceled:
            _raise_cancelled(created, self._prefix)

    async def _next(self, stream: Stream[pb.WatchResponse]) -> pb.WatchResponse:
        """The next message; a silent server is asked for a sign of life, then given up.

        gRPC's keepalive notices dead hosts and stopped processes sooner; this
        is for a server whose transport still answers.
        """
        reading = asyncio.ensure_future(stream.read())
        try:
            for _ in range(SILENCES):
                if (await asyncio.wait({reading}, timeout=SILENCE * self._etcd.settings.timeout_s))[0]:
                    break
                await self._ask_progress(stream)
            else:
                raise stream.fault("the watch gives no sign of life")
            message = reading.result()
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
        if message.canceled:
            _raise_cancelled(message, self._prefix)
        return message

    async def _ask_progress(self, stream: Stream[pb.WatchResponse]) -> None:
        try:
            async with asyncio.timeout(self._etcd.settings.timeout_s):
                await stream.write(ASK_PROGRESS)
        except TimeoutError as error:
            raise stream.fault("takes no message in time") from error

    async def _verify(self, position: Position) -> None:
        """Raise RevisionGone unless etcd still has the history that we know; any endpoint may tell."""
        now = await self._etcd.read(position.anchor or self._prefix)
        if now.cluster_id != position.cluster_id:
            raise RevisionGone("another cluster answers")
        if now.revision < position.revision:
            raise RevisionGone(f"the revision fell from {position.revision} to {now.revision}")
        if position.anchor and _revision_of(now.entry) != position.anchor_revision:
            then = await self._etcd.read(position.anchor, position.anchor_revision)
            if _revision_of(then.entry) != position.anchor_revision:
                raise RevisionGone("history is not as we saw it")


class _Tray:
    """Makes whole revisions of messages: etcd cuts what is long into fragments anywhere."""

    def __init__(self, position: Position) -> None:
        self._position = position
        self._held: tuple[Entry | Removal, ...] = ()

    def sort(self, message: pb.WatchResponse) -> Iterable[Update]:
        """What a message completes: one update or none."""
        if message.header.cluster_id != self._position.cluster_id:
            raise RevisionGone("another cluster answers")
        if message.watch_id == WHOLE_STREAM:
            return  # only a sign of life: etcd 3.4.23 may send it before events of its revision
        events = self._held + tuple(_event(event) for event in message.events)
        cut = _last_revision_at(events) if message.fragment else len(events)
        events, self._held = events[:cut], events[cut:]
        if events or not message.events:
            self._position = _advanced(self._position, events, message.header.revision)
            yield Update(self._position, events)


def _advanced(position: Position, events: tuple[Entry | Removal, ...], revision: int) -> Position:
    """The position after events; after none (a progress notice) `revision` is what we have reached."""
    reached = events[-1].mod_revision if events else max(position.revision, revision)
    for event in reversed(events):
        if isinstance(event, Entry):
            return Position(position.cluster_id, reached, event.key, event.mod_revision)
    return Position(position.cluster_id, reached, position.anchor, position.anchor_revision)


def _last_revision_at(events: tuple[Entry | Removal, ...]) -> int:
    """Index of the first event of the last revision."""
    index = len(events)
    while index and events[index - 1].mod_revision == events[-1].mod_revision:
        index -= 1
    return index


def _event(event: pb.Event) -> Entry | Removal:
    if event.type == pb.Event.DELETE:
        return Removal(event.kv.key, event.kv.mod_revision)
    return Entry(event.kv.key, event.kv.value, event.kv.mod_revision)


def _revision_of(entry: Entry | None) -> int:
    return entry.mod_revision if entry else ABSENT


def _raise_cancelled(message: pb.WatchResponse, prefix: bytes) -> NoReturn:
    """Why etcd ended a watch: compacted, refused, or something that passes."""
    if message.compact_revision:
        raise RevisionGone(f"etcd was compacted at revision {message.compact_revision}")
    reason = message.cancel_reason.rpartition("desc = ")[2]
    if reason in (PERMISSION_DENIED, *TOKEN_REFUSALS):
        # etcd 3.4 says "permission denied" of a token that ran out, too.
        said = refusal(reason, f"etcd prefix {prefix.decode(errors='backslashreplace')}")
        raise TokenRefused(said.what, place=said.place, remedy=said.remedy)
    raise EndpointFault(f"ended the watch: {reason or 'no reason given'}", place="etcd")
