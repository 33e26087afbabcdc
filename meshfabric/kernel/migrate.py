"""Plans how a map's entries move into a map of another layout: which byte goes where. Pure.

    plan_map(shape of the old map, of the new one)  ->  Plan(key moves, value moves)  or  Rebuild(why)

Fields are the same when they go by the same name, structs by path, arrays by
index. New fields are zero, and so are holes; removed fields of a value are
dropped. Numbers of one size keep their bytes; one that was widened or narrowed
keeps its number, if it fits. Of a key nothing may get lost, or two entries could
become one: an entry with anything but zero in a removed field of its key does not
fit. What does not fit is left out, whole. An opaque field is kept if it is the
same in both, a pointer never.

Names are all that is compared: who changes what a field means, or how places or
indices are counted, gives the field or the map another name.

`carry` moves entries by these plans, `loader` decides for which maps.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from meshfabric.kernel.layout import Layout, Leaf, MapShape, Number, Opaque, leaves

ARRAYS = frozenset({2, 6})  # enum bpf_map_type: array, per-CPU array; their key is an index
TRIES = frozenset({11})
HASHES = frozenset({1, 5, 9, 10})  # hash, per-CPU hash, and both least-recently-used
PERCPU = frozenset({5, 6, 10})
ALIKE = (
    frozenset({1, 9}),
    frozenset({5, 10}),
)  # they differ in what becomes of entries for which there is no room
KEPT = ARRAYS | TRIES | HASHES
PERCPU_ALIGN = 8


class Move(NamedTuple):
    """`size` bytes from `source` to `target`, both counted from where a key or value begins."""

    source: int
    target: int
    size: int


class Conversion(NamedTuple):
    """A number that changes its size."""

    source: int
    old: Number
    target: int
    new: Number


class Converted(NamedTuple):
    """Keys or values in their new layout, one after the other; those at `unfit` are to be left out."""

    data: bytes
    unfit: set[int]


@dataclass(frozen=True)
class Moves:
    """How one key or value becomes another; the sizes are those between one and the next."""

    source_size: int
    target_size: int
    moves: tuple[Move, ...]
    conversions: tuple[Conversion, ...] = ()
    lost: tuple[int, ...] = ()  # places of bytes that have to be zero

    @property
    def whole(self) -> bool:
        """Whether nothing changes."""
        return self.source_size == self.target_size and self.moves == (Move(0, 0, self.source_size),)

    def convert(self, data: bytes) -> Converted:
        """All keys or values of a batch, which lie one after the other."""
        if self.whole:
            return Converted(data, set())
        count = len(data) // self.source_size
        made = bytearray(count * self.target_size)
        for source, target, size in self.moves:
            for step in range(size):  # one byte of every entry at a time: a few slices for a whole batch
                made[target + step :: self.target_size] = data[source + step :: self.source_size]
        unfit = set(self._losing(data, count))
        for conversion in self.conversions:
            unfit |= self._renumber(data, made, conversion)
        return Converted(bytes(made), unfit)

    def padded(self, align: int) -> "Moves":
        """The same for keys or values that are padded to a multiple of `align` bytes."""
        sizes = (-(-size // align) * align for size in (self.source_size, self.target_size))
        source_size, target_size = sizes
        return replace(self, source_size=source_size, target_size=target_size)

    def _losing(self, data: bytes, count: int) -> Iterator[int]:
        for place in self.lost:
            column = data[place :: self.source_size]
            if column.count(0) < count:
                yield from (index for index, byte in enumerate(column) if byte)

    def _renumber(self, data: bytes, made: bytearray, conversion: Conversion) -> set[int]:
        source, old, target, new = conversion
        unfit = set()
        for index in range(len(data) // self.source_size):
            at = index * self.source_size + source
            number = int.from_bytes(data[at : at + old.size], old.order, signed=old.signed)
            into = index * self.target_size + target
            try:
                made[into : into + new.size] = number.to_bytes(new.size, new.order, signed=new.signed)
            except OverflowError:
                unfit.add(index)
        return unfit


class Plan(NamedTuple):
    """How the entries of a map move."""

    key: Moves
    value: Moves


class Rebuild(NamedTuple):
    """No entry can be kept, and why."""

    why: str


def plan_map(old: MapShape, new: MapShape) -> Plan | Rebuild:
    """How the entries of a map of the shape `old` move into one of the shape `new`."""
    if old.type != new.type and {old.type, new.type} not in ALIKE:
        return Rebuild(f"its type changed from {old.type} to {new.type}")
    if new.type not in KEPT:
        return Rebuild(f"a map of type {new.type} has no entries that can be moved")
    key = _plan_key(old, new)
    if isinstance(key, Rebuild):
        return key
    value = plan_moves(old.value, new.value, old.value_size, new.value_size)
    if value is None:
        return Rebuild("nothing of its value is left")
    return Plan(key, value.padded(PERCPU_ALIGN) if new.type in PERCPU else value)


def plan_moves(
    old: Layout | None, new: Layout | None, old_size: int, new_size: int, *, all_of_it: bool = False
) -> Moves | None:
    """The moves of all fields that are in both; None when there are none.

    With `all_of_it` what cannot be moved has to be zero. Where a layout is unknown, bytes of
    one size are taken to be the same.
    """
    if old_size == new_size and (old is None or new is None or str(old) == str(new)):
        return Moves(old_size, new_size, (Move(0, 0, old_size),))
    if old is None or new is None:
        return None
    targets = {leaf.path: leaf for leaf in leaves(new)}
    steps = {leaf.path: _step(leaf, targets.get(leaf.path)) for leaf in leaves(old)}
    moves = tuple(_joined(step for step in steps.values() if isinstance(step, Move)))
    conversions = tuple(step for step in steps.values() if isinstance(step, Conversion))
    if not moves and not conversions:
        return None
    lost = [leaf for leaf in leaves(old) if all_of_it and steps[leaf.path] is None]
    places = (leaf.offset + byte for leaf in lost for byte in range(leaf.layout.size))
    return Moves(old_size, new_size, moves, conversions, tuple(places))


def _plan_key(old: MapShape, new: MapShape) -> Moves | Rebuild:
    if new.type in TRIES and (old.key_size != new.key_size or str(old.key) != str(new.key)):
        return Rebuild("its key changed, which a trie takes for a string of bits")
    moves = plan_moves(old.key, new.key, old.key_size, new.key_size, all_of_it=True)
    return moves or Rebuild(f"its key changed from {old.key or '?'} to {new.key or '?'}")


def _step(old: Leaf, new: Leaf | None) -> Move | Conversion | None:
    """How a field gets to its new place, None when it does not."""
    if new is None:
        return None
    before, after = old.layout, new.layout
    if isinstance(before, Number) and isinstance(after, Number) and before.size != after.size:
        return Conversion(old.offset, before, new.offset, after)
    if isinstance(before, Opaque) and (before.address or before != after):
        return None
    return Move(old.offset, new.offset, before.size) if type(before) is type(after) else None


def _joined(moves: Iterable[Move]) -> Iterator[Move]:
    """Neighbours that stay neighbours become one."""
    last: Move | None = None
    for move in moves:
        if last and (last.source + last.size, last.target + last.size) == (move.source, move.target):
            last = Move(last.source, last.target, last.size + move.size)
        else:
            if last:
                yield last
            last = move
    if last:
        yield last
