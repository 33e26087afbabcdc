"""BPF maps: fixed-size keys to fixed-size values, singly or many to a system call.

Values of a per-CPU map travel as one string: for each possible CPU the value,
padded to 8 bytes (include/uapi/linux/bpf.h); `Map.percpu` takes it apart.
`loader` decides which maps to keep, the agent packs keys and values.
"""

import errno
import os
import struct
from collections.abc import Callable, Iterable, Iterator
from enum import IntEnum
from functools import cache
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Self, TypeVar

from meshfabric.kernel.bpfcall import (
    NAME_BYTES,
    BpfObject,
    Command,
    Outcome,
    address,
    attempt,
    call,
    filled,
    open_by_id,
    open_pinned,
    room,
    text,
)
from meshfabric.kernel.fault import ENOTSUPP, fault
from meshfabric.model.errors import PermanentError

CHUNK = 512  # entries to a system call: its cost is forgotten, the buffers stay small
PERCPU_ALIGN = 8
CURSOR_BYTES = 8  # hash maps keep a 4-byte bucket number there, the others a key
NO_PREALLOC = 1  # BPF_F_NO_PREALLOC, which LPM tries require
NOEXIST = 1  # BPF_NOEXIST
FULL = (errno.E2BIG, errno.ENOSPC)  # a hash map's word for it, and a trie's
CPUS = Path("/sys/devices/system/cpu/possible")

_BATCH = "QQQQIIQQ"  # in_batch out_batch keys values count map_fd elem_flags flags
_COUNT = 4
_INFO = "6I16s24x3I"  # type id key_size value_size max_entries map_flags name ... btf_id key_type value_type

_T = TypeVar("_T")
Entry = tuple[bytes, bytes]


class MapType(IntEnum):
    """enum bpf_map_type: those that the datapath uses."""

    HASH = 1
    ARRAY = 2
    PERCPU_HASH = 5
    PERCPU_ARRAY = 6
    LRU_HASH = 9
    LRU_PERCPU_HASH = 10
    LPM_TRIE = 11
    RINGBUF = 27


_KNOWN = frozenset(MapType)
_PERCPU = frozenset({MapType.PERCPU_HASH, MapType.PERCPU_ARRAY, MapType.LRU_PERCPU_HASH})


class _Slice(NamedTuple):
    """Some entries, and the cursor of those that follow (None at the end)."""

    entries: list[Entry]
    cursor: bytes | None


class Map(BpfObject):
    """A handle to a map; `name` is the kernel's, cut to 15 characters, sizes are in bytes.

    `type` is a `MapType`, or the bare number of one that is not listed there.
    """

    kind = "map"

    def __init__(self, fd: int) -> None:
        """Take over `fd`, which must be a map's."""
        super().__init__(fd)
        shape = self.describe(_INFO)
        kind, self.id, self.key_size, self.value_size, self.max_entries, self.flags = shape[:6]
        self.type: MapType | int = MapType(kind) if kind in _KNOWN else kind
        self.name = text(shape[6])
        self.btf_id, self.btf_key_type, self.btf_value_type = shape[7:]

    @classmethod
    def create(
        cls,
        kind: MapType | int,
        key_size: int,
        value_size: int,
        max_entries: int,
        name: str = "",
        flags: int = 0,
    ) -> Self:
        """Make a map that lives as long as a handle, a pin or a program of it."""
        flags |= NO_PREALLOC if kind == MapType.LPM_TRIE else 0
        label = name.encode()[: NAME_BYTES - 1]
        shape = (kind, key_size, value_size, max_entries, flags, 0, 0, label)
        try:
            return cls(call(Command.MAP_CREATE, "7I16s", *shape).result)
        except OSError as cause:
            wanted = f"create it with {max_entries} entries"
            raise fault(cause, place=f"map {name or kind}", wanted=wanted) from cause

    @classmethod
    def open(cls, path: Path) -> Self:
        """The map pinned at `path`."""
        return cls(open_pinned(path))

    @classmethod
    def from_id(cls, number: int) -> Self:
        """The map with this kernel-wide id."""
        return cls(open_by_id(Command.MAP_GET_FD_BY_ID, number))

    @classmethod
    def from_fd(cls, fd: int) -> Self:
        """A second handle to the map behind `fd`, which stays the caller's."""
        return cls(os.dup(fd))

    def lookup(self, key: bytes) -> bytes | None:
        """The value at `key` or None; of a per-CPU map all values in one string."""
        name, into = filled(self._key(key)), room(self.stored_size)
        outcome = attempt(Command.MAP_LOOKUP_ELEM, "IIQQQ", self.fd, 0, address(name), address(into), 0)
        return into.raw if self._found(outcome, "look up an entry") else None

    def percpu(self, key: bytes) -> list[bytes]:
        """The value of each possible CPU at `key`, [] when there is none."""
        stored = self.lookup(key)
        return [] if stored is None else self.split(stored)

    def split(self, stored: bytes) -> list[bytes]:
        """Take what a per-CPU map stores at a key apart: one value for each possible CPU."""
        step = _padded(self.value_size)
        return [stored[at : at + self.value_size] for at in range(0, len(stored), step)]

    def update(self, key: bytes, value: bytes) -> None:
        """Write the value at `key`; a per-CPU map takes one value for all CPUs, or all in one string."""
        name, data = filled(self._key(key)), filled(self._value(value))
        outcome = attempt(Command.MAP_UPDATE_ELEM, "IIQQQ", self.fd, 0, address(name), address(data), 0)
        self._demand(outcome, "write an entry")

    def delete(self, key: bytes) -> bool:
        """Remove the entry at `key`; False when there was none."""
        name = filled(self._key(key))
        outcome = attempt(Command.MAP_DELETE_ELEM, "IIQQQ", self.fd, 0, address(name), 0, 0)
        return self._found(outcome, "delete an entry")

    def update_batch(self, entries: Iterable[Entry]) -> None:
        """Write all entries; raises at the first that is refused, when those before it are written."""
        for chunk in _chunks(entries):
            keys = self._join((key for key, _ in chunk), self.key_size, self._key)
            values = self._join((value for _, value in chunk), self.stored_size, self._value)
            if not self._batch(Command.MAP_UPDATE_BATCH, keys, values, len(chunk)):
                for key, value in chunk:  # writing twice does no harm, and tells why it failed
                    self.update(key, value)

    def add_batch(self, entries: Iterable[Entry]) -> int:
        """Write those whose keys are not there, one by one; how many. A full hash map or trie takes no more.

        It is looked first: a map that evicts the least recently used makes room before it refuses.
        """
        return sum(self.lookup(key) is None and self._add(key, value) for key, value in entries)

    def delete_batch(self, keys: Iterable[bytes]) -> None:
        """Remove all these entries; absent ones are no error."""
        for chunk in _chunks(keys):
            joined = self._join(chunk, self.key_size, self._key)
            if not self._batch(Command.MAP_DELETE_BATCH, joined, b"", len(chunk)):
                for key in chunk:  # the kernel's batch stops at the first absent key
                    self.delete(key)

    def items(self, chunk: int = CHUNK) -> Iterator[Entry]:
        """All entries, read `chunk` at a time. No snapshot: beside writers an entry may come twice or not."""
        part = self._slice(chunk, None)
        if part is None:
            yield from self._items_singly()
            return
        yield from part.entries
        while part is not None and part.cursor is not None:
            part = self._slice(chunk, part.cursor)
            yield from part.entries if part is not None else ()

    def keys(self) -> Iterator[bytes]:
        """All keys, one system call each (BPF_MAP_GET_NEXT_KEY)."""
        key, after = None, room(self.key_size)
        while True:
            before = filled(key or b"")
            outcome = attempt(
                Command.MAP_GET_NEXT_KEY,
                "IIQQ",
                self.fd,
                0,
                address(before) if key is not None else 0,
                address(after),
            )
            if not self._found(outcome, "read the next key"):
                return
            key = after.raw
            yield key

    def batches(self) -> bool:
        """Whether this kernel reads many entries of this type of map to a system call."""
        return self._slice(1, None) is not None

    @property
    def stored_size(self) -> int:
        """Bytes that one entry's value takes in a system call."""
        return _padded(self.value_size) * _cpus() if self.type in _PERCPU else self.value_size

    def _add(self, key: bytes, value: bytes) -> bool:
        name, data = filled(self._key(key)), filled(self._value(value))
        fields = (self.fd, 0, address(name), address(data), NOEXIST)
        outcome = attempt(Command.MAP_UPDATE_ELEM, "IIQQQ", *fields)
        if outcome.errno in (errno.EEXIST, *FULL):
            return False
        self._demand(outcome, "add an entry")
        return True

    def _items_singly(self) -> Iterator[Entry]:
        for key in self.keys():
            value = self.lookup(key)
            if value is not None:
                yield key, value

    def _slice(self, chunk: int, cursor: bytes | None) -> _Slice | None:
        """The entries at `cursor`; None where the map type has no batches."""
        before, after = filled(cursor or b""), room(max(self.key_size, CURSOR_BYTES))
        keys, values = room(chunk * self.key_size), room(chunk * self.stored_size)
        start = 0 if cursor is None else address(before)
        lists = (start, address(after), address(keys), address(values), chunk, self.fd, 0, 0)
        outcome = attempt(Command.MAP_LOOKUP_BATCH, _BATCH, *lists)
        if outcome.errno == errno.ENOSPC:  # a hash bucket fuller than the slice
            return self._slice(chunk * 2, cursor)
        if outcome.errno in (errno.EINVAL, ENOTSUPP) and cursor is None:
            return None
        last = not self._found(outcome, "read entries")
        count = outcome.read(_BATCH)[_COUNT]
        names = struct.iter_unpack(f"{self.key_size}s", keys.raw[: count * self.key_size])
        found = struct.iter_unpack(f"{self.stored_size}s", values.raw[: count * self.stored_size])
        pairs = [(key, value) for (key,), (value,) in zip(names, found, strict=True)]
        return _Slice(pairs, None if last else after.raw)

    def _join(self, parts: Iterable[bytes], size: int, fit: Callable[[bytes], bytes]) -> bytes:
        """All parts in one string; those that are not of this size are made to fit, or refused."""
        whole = list(parts)
        if set(map(len, whole)) != {size}:
            whole = [fit(part) for part in whole]
        return b"".join(whole)

    def _batch(self, command: Command, keys: bytes, values: bytes, count: int) -> bool:
        """True when the kernel did all of it; False asks for single calls, whatever the reason."""
        names, data = filled(keys), filled(values)
        lists = (0, 0, address(names), address(data) if values else 0, count, self.fd, 0, 0)
        return attempt(command, _BATCH, *lists).result == 0

    def _found(self, outcome: Outcome, wanted: str) -> bool:
        if outcome.errno == errno.ENOENT:
            return False
        self._demand(outcome, wanted)
        return True

    def _demand(self, outcome: Outcome, wanted: str) -> None:
        if outcome.result < 0:
            cause = OSError(outcome.errno, os.strerror(outcome.errno))
            raise fault(cause, place=self.place, wanted=wanted) from cause

    def _key(self, key: bytes) -> bytes:
        if len(key) != self.key_size:
            raise PermanentError(f"a key has {self.key_size} bytes, not {len(key)}", place=self.place)
        return key

    def _value(self, value: bytes) -> bytes:
        if len(value) == self.stored_size:
            return value
        if self.type in _PERCPU and len(value) == self.value_size:
            return value.ljust(_padded(self.value_size), b"\0") * _cpus()
        raise PermanentError(f"a value has {self.value_size} bytes, not {len(value)}", place=self.place)


def _padded(size: int) -> int:
    return -(-size // PERCPU_ALIGN) * PERCPU_ALIGN


@cache
def _cpus() -> int:
    """Possible CPUs, which may be more than are online: per-CPU maps hold a value for each."""
    last = CPUS.read_text().strip().replace(",", "-").rpartition("-")[2]
    return int(last) + 1


def _chunks(entries: Iterable[_T]) -> Iterator[list[_T]]:
    walk = iter(entries)
    while chunk := list(islice(walk, CHUNK)):
        yield chunk
