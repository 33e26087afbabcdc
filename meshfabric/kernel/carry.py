"""Moves the entries of a map into its successor of another shape, while programs write both.

    copy          everything, over what is there: no program uses the new map yet
    add_missing   what the old map has got since, never over what the new programs wrote

Entries are read, converted and written `CHUNK` at a time, whatever the maps hold.
`migrate` says which byte goes where; `upgrade` knows when which of the two is due.
"""

import struct
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from meshfabric.kernel.addition import Amount, add
from meshfabric.kernel.bpf_map import CHUNK, FULL, Entry, Map, MapType
from meshfabric.kernel.layout import Leaf, Number
from meshfabric.kernel.migrate import ARRAYS, HASHES, Plan
from meshfabric.model.errors import MeshfabricError

_INDEX = struct.Struct("=I")
_COUNTERS_BYTES = (4, 8)


@dataclass
class Carried:
    """What became of a map's entries; in an array, of those that are not all zeros."""

    kept: int = 0
    unfit: int = 0
    no_room: int = 0
    took_s: float = 0.0

    def __str__(self) -> str:
        said = [f"{self.kept} entries kept in {self.took_s:.2f} s"]
        said += [f"{self.unfit} did not fit the new layout"] if self.unfit else []
        said += [f"{self.no_room} found no room"] if self.no_room else []
        return ", ".join(said)


class Carry:
    """From `old` to `new` by `plan`; `fields` are those of a new value."""

    def __init__(self, old: Map, new: Map, plan: Plan, fields: Sequence[Leaf]) -> None:
        self.old, self.new = old, new
        self._plan = plan
        self._counters = [
            leaf for leaf in fields if isinstance(leaf.layout, Number) and leaf.layout.size in _COUNTERS_BYTES
        ]
        self._copied: dict[bytes, bytes] = {}  # of a per-CPU array: from where it has to be counted on

    def copy(self) -> Carried:
        """Write all entries, as far as they fit; of a smaller map nobody can tell which find room."""
        begun, done, read = time.monotonic(), Carried(), 0
        for entries, unfit in self._converted():
            done.unfit += unfit
            read += sum(map(self._counts, entries))
            self._write([entry for entry in entries if self._is_within(entry)])
            if self.new.type is MapType.PERCPU_ARRAY:
                self._copied.update(entries)
        done.kept = sum(map(self._counts, self.new.items()))
        done.no_room = max(read - done.kept, 0)
        done.took_s = time.monotonic() - begun
        return done

    def add_missing(self) -> int:
        """Bring over the entries, and what was counted, that the new map has not got; how many.

        Arrays have every entry: nothing is brought over but counts since `copy`.
        """
        if self.new.type in HASHES:
            return sum(self.new.add_batch(entries) for entries, _ in self._converted())
        if self.new.type is MapType.PERCPU_ARRAY and self._copied:
            return self._add_counts()
        return 0

    def _converted(self) -> Iterator[tuple[list[Entry], int]]:
        """All entries in the new layout, some at a time, and how many of those do not fit."""
        walk = self.old.items()
        while batch := list(islice(walk, CHUNK)):
            keys, bad = self._plan.key.convert(b"".join(key for key, _ in batch))
            values, worse = self._plan.value.convert(b"".join(value for _, value in batch))
            copies = self.new.stored_size // self._plan.value.target_size  # one for each CPU
            unfit = bad | {index // copies for index in worse}
            found = zip(_cut(keys, self.new.key_size), _cut(values, self.new.stored_size), strict=True)
            yield [entry for index, entry in enumerate(found) if index not in unfit], len(unfit)

    def _write(self, entries: list[Entry]) -> None:
        try:
            self.new.update_batch(entries)
        except MeshfabricError as error:
            _demand_full(error)
            for entry in entries:
                self._write_one(entry)

    def _write_one(self, entry: Entry) -> None:
        try:
            self.new.update(*entry)
        except MeshfabricError as error:
            _demand_full(error)

    def _add_counts(self) -> int:
        amounts = {}
        for entries, _ in self._converted():
            for key, now in entries:
                before, self._copied[key] = self._copied[key], now
                if now != before and self._is_within((key, now)):
                    amounts[_INDEX.unpack(key)[0]] = self._grown(before, now)
        add(self.new, amounts)
        return len(amounts)

    def _grown(self, before: bytes, now: bytes) -> list[Amount]:
        """What all CPUs together have counted since, for each counter of the value."""
        return [
            Amount(leaf.offset, leaf.layout.size, self._sum(leaf, now) - self._sum(leaf, before))
            for leaf in self._counters
        ]

    def _sum(self, leaf: Leaf, stored: bytes) -> int:
        end = leaf.offset + leaf.layout.size
        return sum(
            int.from_bytes(value[leaf.offset : end], sys.byteorder) for value in self.new.split(stored)
        )

    def _counts(self, entry: Entry) -> bool:
        return self.new.type not in ARRAYS or any(entry[1])

    def _is_within(self, entry: Entry) -> bool:
        return self.new.type not in ARRAYS or _INDEX.unpack(entry[0])[0] < self.new.max_entries


def _cut(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


def _demand_full(error: MeshfabricError) -> None:
    """Raise it again unless the map is full."""
    if not isinstance(error.__cause__, OSError) or error.__cause__.errno not in FULL:
        raise error
