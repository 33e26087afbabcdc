"""The last good world on disk, for a start while etcd is away.

A line for each record, between a head and an end that counts and sums them up:

    {"format": "meshfabric-snapshot", "version": 1, "position": {...}}
    {"key": "/meshfabric/v1/lab/state/nodes/a", "revision": 7, "value": {...}}
    {"records": 1, "sha256": "..."}

What is read goes through the registry like records of the store. When to write
is the caller's business: not while the registry is not `settled`, or what was
held back would be forgotten at the next start.
"""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar

import msgspec

from meshfabric.store.files import warn, write_whole
from meshfabric.store.registry import Raw
from meshfabric.store.watch import Position

FORMAT = "meshfabric-snapshot"
VERSION = 1
PAGE_RECORDS = 1000
CHUNK_BYTES = 64 * 1024
MAX_LINE_BYTES = 128 * 1024  # twice the largest record
IGNORED = "it is ignored, and what the fabric is will be known when etcd answers"


class _Head(msgspec.Struct, forbid_unknown_fields=True):
    format: str
    version: int
    position: Position | None = None


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    key: str
    revision: int
    value: msgspec.Raw


class _End(msgspec.Struct, forbid_unknown_fields=True):
    records: int
    sha256: str


class Snapshot(NamedTuple):
    """What was saved. `pages` yields up to a thousand records at a time, for `Registry.take`."""

    position: Position | None
    pages: Iterator[list[Raw]]


_Shape = TypeVar("_Shape", _Head, _Line, _End)


class _Broken(Exception):
    """The file is not what `save` writes."""


def save(path: Path, records: Iterable[Raw], position: Position | None = None) -> None:
    """Replace the snapshot. `position`: where a watch may go on, only if the records are all there is.

    May run in another thread than the registry. Raises `TemporaryError`.
    """
    write_whole(path, _chunks(_lines(records, position)))


def load(path: Path) -> Snapshot:
    """What was saved last; nothing if nothing was, and with a warning if the file is broken."""
    try:
        with path.open("rb") as file:
            head = _verify(file)
    except FileNotFoundError:
        return _NOTHING
    except OSError as cause:
        warn(path, f"cannot be read ({cause.strerror})", IGNORED)
        return _NOTHING
    except _Broken as cause:
        warn(path, str(cause), IGNORED)
        return _NOTHING
    return Snapshot(head.position, _pages(path))


_NOTHING = Snapshot(None, iter(()))


def _lines(records: Iterable[Raw], position: Position | None) -> Iterator[bytes]:
    """The text, line by line; the end has the sum over all before it."""
    total, summed = 0, hashlib.sha256()
    line = msgspec.json.encode(_Head(FORMAT, VERSION, position)) + b"\n"
    summed.update(line)
    yield line
    for raw in records:
        total += 1
        assert raw.value is not None  # what is in force has a value
        record = _Line(raw.key.decode(), raw.revision, msgspec.Raw(raw.value))
        line = msgspec.json.encode(record) + b"\n"
        summed.update(line)
        yield line
    yield msgspec.json.encode(_End(total, summed.hexdigest())) + b"\n"


def _chunks(lines: Iterable[bytes]) -> Iterator[bytes]:
    chunk = bytearray()
    for line in lines:
        chunk += line
        if len(chunk) >= CHUNK_BYTES:
            yield bytes(chunk)
            chunk.clear()
    yield bytes(chunk)


def _verify(file: BinaryIO) -> _Head:
    """Read all of it once, keeping nothing; raises `_Broken`."""
    summed, records = hashlib.sha256(), -1
    line = file.readline(MAX_LINE_BYTES)
    head = _head(line)
    while following := file.readline(MAX_LINE_BYTES):
        summed.update(line)
        records += 1
        if records:
            _decode(line, _Line)
        line = following
    end = _decode(line, _End)
    if (end.records, end.sha256) != (records, summed.hexdigest()):
        raise _Broken("does not add up")
    return head


def _head(line: bytes) -> _Head:
    head = _decode(line, _Head)
    if head.format != FORMAT or head.version != VERSION:
        raise _Broken(f"is of version {head.version}, not {VERSION}")
    return head


def _decode(line: bytes, type: type[_Shape]) -> _Shape:
    if not line.endswith(b"\n"):
        raise _Broken("ends in the middle" if len(line) < MAX_LINE_BYTES else "has a line that is too long")
    try:
        return msgspec.json.decode(line, type=type)
    except (msgspec.DecodeError, RecursionError, ValueError):
        raise _Broken("is no snapshot, or was damaged") from None


def _pages(path: Path) -> Iterator[list[Raw]]:
    """The records of a file that `_verify` found whole; nothing reads it meanwhile but us."""
    page: list[Raw] = []
    with path.open("rb") as file:
        file.readline()
        for line in file:
            if line.startswith(b'{"records":'):
                break
            record = msgspec.json.decode(line, type=_Line)
            page.append(Raw(record.key.encode(), bytes(record.value), record.revision))
            if len(page) == PAGE_RECORDS:
                yield page
                page = []
    if page:
        yield page
