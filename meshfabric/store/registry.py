"""Between the store's watch and the world: every record is looked at before it counts (pure).

    take(batch) --keys, checks--> entries --rights--> endpoints --guard--> events
                     |               |                    |          |
                     +--- refusals --+--------------------+          +-- held

The registry owns the order of things: what a batch means as a whole, what a
listing leaves out, what is kept back. `entries` and `endpoints` own what is in
force, `refusals` what is not. What is in force follows from the records alone:
records may come in any order, and what waits comes in force when that which it
waited for does (the exceptions are told in docs/store.md).

Nothing is removed before the first listing has ended.
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator
from typing import Any, NamedTuple

import msgspec

from meshfabric.model.qos import BUILT_IN, MAX_OWN
from meshfabric.model.world import Event, Kind
from meshfabric.store.checks import Fact, read_apiservers, read_exposed, read_record
from meshfabric.store.endpoints import Endpoints
from meshfabric.store.entries import Entries
from meshfabric.store.guard import ALWAYS_ALLOWED, describe, too_many
from meshfabric.store.keys import Located, RecordKind, Refusal, parse_key, path_of, printable, state_prefix
from meshfabric.store.refusals import Refusals
from meshfabric.store.rights import endpoint_labels, given_labels

__all__ = ["Raw", "Registry", "endpoint_labels", "given_labels"]

EVENTS = {
    RecordKind.REVOKED: Kind.REVOKED,
    RecordKind.CONFIG: Kind.PREFIXES,  # and PARTS
    RecordKind.ALLOCATION: Kind.ALLOCATION,
    RecordKind.NODE: Kind.NODE,
    RecordKind.ALIVE: Kind.ALIVE,
    RecordKind.POLICY: Kind.POLICY,
    RecordKind.CLASS: Kind.CLASS,
    RecordKind.ROTATION: Kind.ROTATION,
    RecordKind.ENDPOINT: Kind.ENDPOINT,
}
"""What the world hears of (not of grants), in the order in which it does; removals go backwards."""
PARTS = {Kind.EXPOSED: read_exposed, Kind.APISERVERS: read_apiservers}
"""What else the world hears of a config record."""
RANK = {kind: rank for rank, kind in enumerate((*EVENTS.values(), *PARTS))}
COUNTED = (
    RecordKind.CONFIG,
    RecordKind.ALLOCATION,
    RecordKind.NODE,
    RecordKind.POLICY,
    RecordKind.CLASS,
)
"""Of which, beside endpoints, a great loss is held."""
MARKS = (RecordKind.REVOKED, RecordKind.ALIVE)
"""Their being there says all; a tombstone cuts whatever is written on it."""


class Raw(NamedTuple):
    """A key as the store has it. `value` None: deleted. `revision`: the last modification's."""

    key: bytes
    value: bytes | None
    revision: int = 0


class _Change(NamedTuple):
    kind: Kind
    key: Hashable
    old: Any
    new: Any


class Registry:
    """Takes raw records of one fabric, gives events; `held` tells of a loss that is kept back.

    `synced`: a listing has ended. `needs_listing`: something that could not be
    kept may now be allowed; only the store still has it.
    """

    def __init__(self, fabric: str) -> None:
        self.held = ""
        self.synced = False
        self.needs_listing = False
        self._fabric, self._state = fabric, state_prefix(fabric)
        self._listing = False
        self._refusals = Refusals()
        self._entries = Entries(self._refusals)
        self._endpoints = Endpoints(self._entries, self._refusals)
        self._alive: set[str] = set()
        self._marked: dict[Located, bool] = {}  # marks that changed, and whether they were there
        self._unseen: set[Located] = set()
        self._fresh: set[Located] = set()  # put in this batch, not judged yet
        self._pending: list[tuple[Located, Any, bytes, int]] = []
        self._gone: dict[tuple[Kind, Hashable], Any] = {}  # in the world, but no longer in force

    @property
    def refused(self) -> dict[str, str]:
        """Key below `state/` to the reason why it, or its newest version, is not in force."""
        return self._refusals.shown()

    @property
    def refusals(self) -> Counter[str]:
        """How often something was refused since the start, by folder of the store."""
        return self._refusals.total

    @property
    def settled(self) -> bool:
        """Whether the world is just what is in force: then a snapshot may be taken."""
        return self.synced and not self._listing and not self._gone

    @property
    def complete(self) -> bool:
        """Whether `records` is all that the store has, so that a restart may go on from its position."""
        return self.settled and not self._refusals

    def put(self, key: bytes | str, value: bytes, revision: int) -> list[Event]:
        """A batch of one record."""
        return self.take([Raw(_bytes(key), value, revision)])

    def delete(self, key: bytes | str) -> list[Event]:
        """A batch of one deletion."""
        return self.take([Raw(_bytes(key), None)])

    def take(self, batch: Iterable[Raw]) -> list[Event]:
        """One response of a watch or one page of a listing, as what it changes in the world."""
        events: list[Event] = []
        for raw in batch:
            key = parse_key(self._fabric, raw.key)
            if isinstance(key, Refusal):
                self._misnamed(raw, key.why)
                continue
            if key in self._fresh:  # each version of a key counts: it may be the last good one
                events += self._settle()
            if raw.value is None:
                self._remove(key)
            else:
                self._read(key, raw.value, raw.revision)
        return events + self._settle()

    def begin_listing(self) -> None:
        """What comes until `end_listing` is all that the store has; beginning again is allowed."""
        self._listing, self.needs_listing = True, False
        self._unseen = {Located(RecordKind.REVOKED, name) for name in self._entries.revoked}
        self._unseen |= {Located(RecordKind.ALIVE, name) for name in self._alive}
        for table in (self._entries, self._endpoints, self._refusals):
            table.begin_listing()

    def end_listing(self) -> list[Event]:
        """What was not listed is gone: one change, which may be held."""
        for key in self._unseen:
            self._remove(key)
        for table in (self._entries, self._endpoints, self._refusals):
            table.end_listing()
        self._listing, self.synced = False, True
        gone, self._gone = self._gone, {}
        changes = [*self._judged(), *(_Change(*thing, old, None) for thing, old in gone.items())]
        return self._emit(changes)

    def resume(self) -> list[Event]:
        """Instead of a first listing: what was taken is all that the store had (`complete`) at the
        position from which the watch goes on."""
        self.synced = True
        gone, self._gone = self._gone, {}
        return self._emit(_Change(*thing, old, None) for thing, old in gone.items())

    def release(self) -> list[Event]:
        """The removals that were held are meant; outside a listing only."""
        if self._listing or not self.synced:
            return []
        gone, self._gone, self.held = self._gone, {}, ""
        return _ordered(_Change(*thing, old, None) for thing, old in gone.items())

    def records(self) -> Iterator[Raw]:
        """Every record in force, to be taken again after a restart (`store.snapshot`)."""
        for key, fact in self._entries.records():
            yield self._raw(key, fact.record, fact.revision)
        for kind, names in ((RecordKind.REVOKED, self._entries.revoked), (RecordKind.ALIVE, self._alive)):
            for name in sorted(names):
                yield self._raw(Located(kind, name), {}, 0)
        for key, record, revision in self._endpoints.records():
            yield self._raw(key, record, revision)

    def _raw(self, key: Located, record: Any, revision: int) -> Raw:
        return Raw((self._state + path_of(key)).encode(), msgspec.json.encode(record), revision)

    def _misnamed(self, raw: Raw, why: str) -> None:
        text = printable(raw.key.decode(errors="backslashreplace"))
        self._refusals.seen(text)
        if raw.value is None:
            self._refusals.forget(text)
        else:
            self._refusals.broken(text, why)

    def _read(self, key: Located, value: bytes, revision: int) -> None:
        self._seen(key)
        if key.kind in MARKS:
            self._mark(key, True)
            return
        fact = read_record(key, value, revision)
        if isinstance(fact, Refusal):
            self._refusals.broken(key, fact.why)
            return
        self._refusals.parsed(key)
        self._fresh.add(key)
        if key.kind is RecordKind.ENDPOINT:
            self._pending.append((key, fact.record, value, revision))
        else:
            self._entries.put(key, fact)

    def _seen(self, key: Located) -> None:
        if self._listing:
            self._unseen.discard(key)
            self._refusals.seen(key)
            if key.kind is RecordKind.ENDPOINT:
                self._endpoints.seen(key)
            elif key.kind not in MARKS:
                self._entries.seen(key)

    def _remove(self, key: Located) -> None:
        if key.kind in MARKS:
            self._mark(key, False)
        elif key.kind is RecordKind.ENDPOINT:
            self._endpoints.delete(key)
        else:
            self._entries.delete(key)

    def _mark(self, key: Located, there: bool) -> None:
        names = self._entries.revoked if key.kind is RecordKind.REVOKED else self._alive
        self._marked.setdefault(key, key.name in names)
        if there:
            names.add(key.name)
        else:
            names.discard(key.name)

    def _settle(self) -> list[Event]:
        return self._emit(self._judged())

    def _judged(self) -> list[_Change]:
        """Decide on all that came in, dependencies first; returns what is different in force."""
        self._entries.judge()
        self._endpoints.dirty |= self._entries.rights_changed
        depends = bool(self._endpoints.dirty) or self._entries.blocks_changed
        self.needs_listing = self.needs_listing or (depends and self._refusals.incomplete)
        self._endpoints.recheck(self._entries.blocks_changed)
        self._entries.rights_changed, self._entries.blocks_changed = set(), False
        for key, record, value, revision in self._pending:
            self._endpoints.put(key, record, value, revision)
        self._pending, self._fresh = [], set()
        return [*self._marks_changed(), *self._entries_changed(), *self._endpoints_changed()]

    def _marks_changed(self) -> Iterator[_Change]:
        marked, self._marked = self._marked, {}
        for key, before in marked.items():
            names = self._entries.revoked if key.kind is RecordKind.REVOKED else self._alive
            there = key.name in names
            if before != there:
                if key.kind is RecordKind.REVOKED:
                    self._endpoints.recheck_revoked(key.name)
                yield _Change(EVENTS[key.kind], key.name, before or None, there or None)

    def _entries_changed(self) -> Iterator[_Change]:
        for key, old, new in self._entries.changes():
            if key.kind in EVENTS:
                yield _Change(EVENTS[key.kind], key.name, old and old.value, new and new.value)
            if key.kind is RecordKind.CONFIG:
                yield from _parts_changed(key.name, old, new)

    def _endpoints_changed(self) -> Iterator[_Change]:
        for address, old, new in self._endpoints.changes():
            yield _Change(Kind.ENDPOINT, address, old, new)

    def _emit(self, changes: Iterable[_Change]) -> list[Event]:
        """The events of one change; losses are kept back where that is due."""
        shown: list[_Change] = []
        lost: list[_Change] = []
        for change in changes:
            thing = (change.kind, change.key)
            if change.new is not None:
                old = self._gone.pop(thing, change.old)
                if old != change.new:
                    shown.append(change)
            elif change.old is not None:
                lost.append(change)
        if lost and self._keeps(lost):
            lost = self._keep(lost)
        if any(change.kind is Kind.CLASS for change in shown):
            lost += self._crowded_out()
        if not self._early:
            self.held = describe(_tally(self._gone), self._known(())) if self._gone else ""
        return _ordered([*shown, *lost])

    @property
    def _early(self) -> bool:
        """While it is not known yet what the store has, nothing is gone."""
        return self._listing or not self.synced

    def _keeps(self, lost: list[_Change]) -> bool:
        return self._early or too_many(Counter(change.kind for change in lost), self._known(lost))

    def _keep(self, lost: list[_Change]) -> list[_Change]:
        """Keep back what is due; returns what goes all the same."""
        kept = [change for change in lost if self._early or change.kind in ALWAYS_ALLOWED]
        self._gone |= {(change.kind, change.key): change.old for change in kept}
        return [] if self._early else [change for change in lost if change.kind not in ALWAYS_ALLOWED]

    def _crowded_out(self) -> list[_Change]:
        """Classes that are kept back yield to others in force: there are only so many numbers."""
        kept = sorted(str(key) for kind, key in self._gone if kind is Kind.CLASS and key not in BUILT_IN)
        beyond = len(kept) + len(self._entries.in_force(RecordKind.CLASS) - BUILT_IN.keys()) - MAX_OWN
        yielding = kept[: max(beyond, 0)]
        return [_Change(Kind.CLASS, name, self._gone.pop((Kind.CLASS, name)), None) for name in yielding]

    def _known(self, lost: Iterable[_Change]) -> Counter[Kind]:
        """How many of each kind the world had before these were lost."""
        known = Counter(change.kind for change in lost) + _tally(self._gone)
        known[Kind.ENDPOINT] += len(self._endpoints.in_force)
        for kind in COUNTED:
            known[EVENTS[kind]] += len(self._entries.in_force(kind))
        return known


def _parts_changed(name: str, old: Fact | None, new: Fact | None) -> Iterator[_Change]:
    """The rest of a config record, which has a value (be it empty) as long as there is the record."""
    for kind, read in PARTS.items():
        before, after = (read(one.record) if one else None for one in (old, new))
        if (before or ()) != (after or ()):
            yield _Change(kind, name, before, after)


def _tally(gone: Iterable[tuple[Kind, Hashable]]) -> Counter[Kind]:
    return Counter(kind for kind, _ in gone)


def _ordered(changes: Iterable[_Change]) -> list[Event]:
    """What is made, then what is removed; but classes make room for others, as they have few numbers."""
    events = [Event(kind, key, new) for kind, key, _, new in changes]
    made = sorted((event for event in events if event.value is not None), key=lambda one: RANK[one.kind])
    removed = sorted((event for event in events if event.value is None), key=lambda one: -RANK[one.kind])
    room = [event for event in removed if event.kind is Kind.CLASS]
    return room + made + [event for event in removed if event.kind is not Kind.CLASS]


def _bytes(key: bytes | str) -> bytes:
    return key.encode(errors="surrogateescape") if isinstance(key, str) else key
