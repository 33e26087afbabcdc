"""Moving bytes from one layout to another, against an oracle that reads and writes field by field."""

import struct
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshfabric.kernel.layout import Array, Layout, MapShape, Member, Number, Opaque, Record, leaves
from meshfabric.kernel.migrate import Move, Moves, Plan, Rebuild, plan_map, plan_moves

HASH, ARRAY, PERCPU_ARRAY, LPM, RINGBUF = 1, 2, 6, 11, 27
U8, U16, U32, U64 = map(Number, (1, 2, 4, 8))
S8, S16, S32 = (Number(size, signed=True) for size in (1, 2, 4))
BE16, BE32, LE32 = Number(2, order="big"), Number(4, order="big"), Number(4, order="little")
ADDRESS = Opaque(16, "{byte@0:1[16] half@0:8[2]}")
POINTER = Opaque(8, "*", address=True)
LEAVES = [U8, U16, U32, U64, S8, S16, S32, BE16, BE32, ADDRESS, POINTER]
NAMES = ["", "a", "b", "c", "d"]


def record(**parts: Layout) -> Record:
    """A struct without holes; a part named `_` is anonymous."""
    members, at = [], 0
    for name, part in parts.items():
        members.append(Member(name.strip("_"), at, part))
        at += part.size
    return Record(at, tuple(members))


@st.composite
def records(draw: st.DrawFn, parts: st.SearchStrategy[Layout]) -> Record:
    """Fields of a few names in any order, with holes between and behind them."""
    names = draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=4))
    members, at = [], 0
    for name in names:
        at += draw(st.integers(0, 3))
        members.append(Member(name, at, draw(parts)))
        at += members[-1].layout.size
    return Record(at + draw(st.integers(0, 2)) + 1, tuple(members))


LAYOUTS: st.SearchStrategy[Layout] = st.recursive(
    st.sampled_from(LEAVES),
    lambda parts: records(parts) | st.builds(Array, parts, st.integers(0, 3)),
    max_leaves=8,
)


def distinct(layout: Layout) -> bool:
    """No two fields go by one name, which C forbids (an anonymous struct's belong to the one around it)."""
    paths = [leaf.path for leaf in leaves(layout)]
    return len(paths) == len(set(paths))


Fields = dict[str, tuple[Number | Opaque, bytes]]


def taken_apart(layout: Layout, data: bytes) -> Fields:
    return {path: (what, data[at : at + what.size]) for path, at, what in leaves(layout)}


def expected(old: Layout, new: Layout, data: bytes, *, all_of_it: bool) -> bytes | None:
    """What becomes of one entry, None if it does not fit."""
    fields = taken_apart(old, data)
    made = bytearray(new.size)
    for path, at, what in leaves(new):
        if path in fields and (kept := carried(*fields.pop(path), what)) is not None:
            made[at : at + what.size] = kept
    fields = {path: one for path, one in taken_apart(old, data).items() if not is_carried(path, old, new)}
    if all_of_it and any(any(part) for _, part in fields.values()):
        return None
    return None if any(overflows(*pair) for pair in numbers(old, new, data)) else bytes(made)


def carried(before: Number | Opaque, data: bytes, after: Number | Opaque) -> bytes | None:
    if isinstance(before, Opaque) or isinstance(after, Opaque):
        return data if before == after and before != POINTER else None
    if before.size == after.size:
        return data
    number = int.from_bytes(data, before.order, signed=before.signed)
    return (number % (1 << 8 * after.size)).to_bytes(after.size, after.order)


def is_carried(path: str, old: Layout, new: Layout) -> bool:
    before = {leaf.path: leaf.layout for leaf in leaves(old)}[path]
    after = {leaf.path: leaf.layout for leaf in leaves(new)}.get(path)
    return after is not None and carried(before, bytes(before.size), after) is not None


def numbers(old: Layout, new: Layout, data: bytes) -> Iterator[tuple[int, Number]]:
    """Those that change their size, with what they become."""
    fields = taken_apart(old, data)
    for path, _, after in leaves(new):
        before, part = fields.get(path, (None, b""))
        if isinstance(before, Number) and isinstance(after, Number) and before.size != after.size:
            yield int.from_bytes(part, before.order, signed=before.signed), after


def overflows(number: int, into: Number) -> bool:
    bits = 8 * into.size
    low, high = (-(1 << bits - 1), 1 << bits - 1) if into.signed else (0, 1 << bits)
    return not low <= number < high


@given(LAYOUTS.filter(distinct), LAYOUTS.filter(distinct), st.booleans(), st.data())
def test_every_entry_becomes_what_the_oracle_makes_of_it(
    old: Layout, new: Layout, all_of_it: bool, data: st.DataObject
) -> None:
    plan = plan_moves(old, new, old.size, new.size, all_of_it=all_of_it)
    if (str(old), old.size) == (str(new), new.size):
        assert plan is not None
        assert plan.whole or not old.size
        return
    if plan is None:
        assert not any(is_carried(leaf.path, old, new) for leaf in leaves(old))
        return
    bytes_of_it = st.binary(min_size=old.size, max_size=old.size) | st.just(bytes(old.size))
    entries = data.draw(st.lists(bytes_of_it, min_size=1, max_size=5))
    made, unfit = plan.convert(b"".join(entries))
    for index, entry in enumerate(entries):
        wanted = expected(old, new, entry, all_of_it=all_of_it)
        assert (index in unfit) is (wanted is None)
        if wanted is not None:
            assert made[index * new.size : (index + 1) * new.size] == wanted


@given(LAYOUTS.filter(distinct), st.data())
def test_there_and_back_changes_nothing_where_nothing_was_lost(old: Layout, data: st.DataObject) -> None:
    """Into the same fields in the other order, behind a new one."""
    new = record(new=U32, old=old)
    plan = plan_moves(record(old=old), new, old.size, new.size)
    back = plan_moves(new, record(old=old), new.size, old.size)
    if plan is None or back is None:
        assert all(isinstance(leaf.layout, Opaque) and leaf.layout.address for leaf in leaves(old))
        return
    entry = data.draw(st.binary(min_size=old.size, max_size=old.size))
    kept = bytearray(old.size)
    for _, at, what in leaves(old):
        kept[at : at + what.size] = bytes(what.size) if what == POINTER else entry[at : at + what.size]
    assert back.convert(plan.convert(entry).data).data == kept


def test_a_wider_number_keeps_its_number_and_a_narrower_one_if_it_fits() -> None:
    wider = plan_moves(record(a=U16, b=S8), record(b=S32, a=U64), 3, 12)
    assert wider is not None
    assert wider.convert(struct.pack("=Hb", 513, -3)) == (struct.pack("=iQ", -3, 513), set())
    narrower = plan_moves(record(a=U64), record(a=U16), 8, 2)
    assert narrower is not None
    assert narrower.convert(struct.pack("=QQQ", 65535, 65536, 7)).unfit == {1}
    network = plan_moves(record(port=BE16), record(port=BE32), 2, 4)
    assert network is not None
    assert network.convert(struct.pack("!H", 80)).data == struct.pack("!I", 80)


def test_neighbours_move_together() -> None:
    plan = plan_moves(record(a=U32, b=U32, c=U64), record(new=U64, a=U32, b=U32, c=U64), 16, 24)
    assert plan == Moves(16, 24, (Move(0, 8, 16),))


def test_of_a_key_nothing_may_get_lost() -> None:
    plan = plan_moves(record(a=U32, zone=U32), record(a=U32), 8, 4, all_of_it=True)
    assert plan is not None
    assert plan.convert(struct.pack("=IIII", 1, 0, 1, 9)) == (struct.pack("=II", 1, 1), {1})


SHAPE = MapShape(HASH, 4, 8, 10, 0, U32, record(a=U32, b=U32))


def test_a_map_of_another_size_keeps_all_bytes() -> None:
    plan = plan_map(SHAPE, replace(SHAPE, max_entries=5))
    assert isinstance(plan, Plan)
    assert plan.key.whole
    assert plan.value.whole


def test_values_of_a_per_cpu_map_are_padded() -> None:
    old = replace(SHAPE, type=PERCPU_ARRAY, value=record(a=U32), value_size=4)
    plan = plan_map(old, replace(old, value=record(b=U64, a=U32), value_size=12))
    assert isinstance(plan, Plan)
    assert (plan.value.source_size, plan.value.target_size) == (8, 16)


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (SHAPE, replace(SHAPE, type=ARRAY), "its type changed from 1 to 2"),
        (replace(SHAPE, type=RINGBUF), replace(SHAPE, type=RINGBUF), "a map of type 27 has no entries"),
        (SHAPE, replace(SHAPE, key=record(a=U32)), "its key changed from 4 to {a@0:4}"),
        (replace(SHAPE, key=None), replace(SHAPE, key=U64, key_size=8), "its key changed from ? to 8"),
        (SHAPE, replace(SHAPE, value=record(c=U64)), "nothing of its value is left"),
        (
            replace(SHAPE, type=LPM, key=record(prefixlen=U32, a=U32), key_size=8),
            replace(SHAPE, type=LPM, key=record(prefixlen=U32, b=U16, a=U32), key_size=10),
            "its key changed, which a trie takes for a string of bits",
        ),
    ],
)
def test_what_cannot_be_kept_is_told(old: MapShape, new: MapShape, why: str) -> None:
    found = plan_map(old, new)
    assert isinstance(found, Rebuild)
    assert found.why.startswith(why)
