"""What was not taken, why, and what of it may still be taken later (pure).

A key can be refused for three reasons at once, the first shown: its newest
value is `broken` in itself; a value `waits` for something that operators have
yet to allocate or grant; its claim is `contested` by an earlier one. Only
waiting values are kept, within bounds: beyond them `incomplete` tells that only
a new listing of the store brings them back.
"""

from collections import Counter
from collections.abc import Iterator

import msgspec

from meshfabric.store.keys import Located, path_of, printable

MAX_REFUSED = 8192
"""Keys; one node's full set of endpoints."""
MAX_WAITING_BYTES = 4 << 20

Key = Located | str  # text where the key itself was not understood


class Refused(msgspec.Struct):
    """One key's reasons (empty: not for this) and the value that waits."""

    broken: str = ""
    waiting: str = ""
    contested: str = ""
    value: bytes = b""
    revision: int = 0

    @property
    def why(self) -> str:
        """The reason to show; empty when nothing is left to say."""
        return self.broken or self.waiting or self.contested


class Refusals:
    """Every refused key. `total` counts refusals since the start, by folder of the store."""

    def __init__(self) -> None:
        self.incomplete = False
        self.total: Counter[str] = Counter()
        self._refused: dict[Key, Refused] = {}
        self._bytes = 0
        self._unseen: set[Key] = set()

    def broken(self, key: Key, why: str) -> None:
        """The newest value cannot ever be taken; what was before it stays."""
        if entry := self._entry(key):
            entry.broken = self._counted(key, entry.broken, why)

    def waits(self, key: Located, why: str, value: bytes = b"", revision: int = 0) -> None:
        """A value is good in itself, but may not be in force as things are."""
        entry = self._entry(key)
        if entry is None:
            return
        entry.waiting = self._counted(key, entry.waiting, why)
        self._bytes -= len(entry.value)
        if self._bytes + len(value) > MAX_WAITING_BYTES:
            self.incomplete, value = True, b""
        self._bytes += len(value)
        entry.value, entry.revision = value, revision

    def contested(self, key: Located, why: str) -> None:
        """An earlier claim stands before this one; an empty `why`: none does."""
        if not why and key not in self._refused:
            return
        if entry := self._entry(key):
            entry.contested = self._counted(key, entry.contested, why)
            self._tidy(key, entry)

    def parsed(self, key: Located) -> None:
        """A newer value came that is good in itself."""
        if entry := self._refused.get(key):
            entry.broken = ""
            self._tidy(key, entry)

    def admitted(self, key: Located) -> None:
        """Nothing of this key waits any more."""
        if entry := self._refused.get(key):
            self._bytes -= len(entry.value)
            entry.waiting, entry.value = "", b""
            self._tidy(key, entry)

    def forget(self, key: Key) -> None:
        """The key is gone from the store."""
        if entry := self._refused.pop(key, None):
            self._bytes -= len(entry.value)

    def has_waiting(self, key: Located) -> bool:
        """Whether a newer value than the one in force waits."""
        entry = self._refused.get(key)
        return entry is not None and bool(entry.waiting)

    def waiting_values(self) -> Iterator[tuple[Located, bytes, int]]:
        """What was kept to be looked at again: key, value, revision."""
        for key, entry in list(self._refused.items()):
            if entry.value and isinstance(key, Located):
                yield key, entry.value, entry.revision

    def begin_listing(self) -> None:
        """From here on `seen` marks what the store still has."""
        self._unseen = set(self._refused)
        self.incomplete = False

    def seen(self, key: Key) -> None:
        """The store still has it."""
        self._unseen.discard(key)

    def end_listing(self) -> None:
        """Forget what the store has no longer."""
        for key in self._unseen:
            self.forget(key)
        self._unseen = set()

    def shown(self) -> dict[str, str]:
        """Key below `state/` to reason, sorted."""
        keys = {path_of(key) if isinstance(key, Located) else key: key for key in self._refused}
        return {text: self._refused[keys[text]].why for text in sorted(keys)}

    def __len__(self) -> int:
        return len(self._refused)

    def _entry(self, key: Key) -> Refused | None:
        entry = self._refused.get(key)
        if entry is None and len(self._refused) < MAX_REFUSED:
            entry = self._refused[key] = Refused()
        if entry is None:
            self._count(key)
            self.incomplete = True
        return entry

    def _counted(self, key: Key, old: str, why: str) -> str:
        why = printable(why)
        if why and why != old:
            self._count(key)
        return why

    def _count(self, key: Key) -> None:
        self.total[key.kind.value if isinstance(key, Located) else "unknown"] += 1

    def _tidy(self, key: Key, entry: Refused) -> None:
        if not entry.why:
            self.forget(key)
