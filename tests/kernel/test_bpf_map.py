"""Maps of every type against a plain dict, one entry at a time and in batches."""

import random
import struct
from itertools import islice

import pytest

from meshfabric.kernel.bpf import Map, MapType
from meshfabric.kernel.bpf_map import CHUNK
from meshfabric.model.errors import PermanentError, TemporaryError
from tests.kernel.cell import BPFFS

DEVMAP = 14  # a type for which the kernel has no batch calls
SIZE = 2 * CHUNK + 100
VALUE_SIZE = 12

HASHED = [MapType.HASH, MapType.LRU_HASH, MapType.LPM_TRIE]
ARRAYS = [MapType.ARRAY]


def _key(kind: int, number: int) -> bytes:
    if kind == MapType.LPM_TRIE:
        return struct.pack("=I", 32) + struct.pack(">I", number)
    return struct.pack("=I", number)


def _value(number: int) -> bytes:
    return struct.pack("=III", number, number + 1, ~number & 0xFFFFFFFF)


def _create(kind: MapType, entries: int = SIZE) -> Map:
    room = entries * 2 if kind == MapType.LRU_HASH else entries  # an LRU map evicts before it is full
    return Map.create(kind, len(_key(kind, 0)), VALUE_SIZE, room, "trial")


@pytest.mark.parametrize("kind", HASHED + ARRAYS)
def test_a_batch_writes_what_single_calls_read(kind: MapType) -> None:
    wanted = {_key(kind, n): _value(n) for n in range(SIZE)}
    with _create(kind) as map:
        map.update_batch(wanted.items())
        read = {key: map.lookup(key) for key in wanted}
        listed = {key: value for key, value in map.items() if any(value)}
    assert read == wanted
    assert listed == wanted


@pytest.mark.parametrize("kind", HASHED + ARRAYS)
@pytest.mark.parametrize("chunk", [1, 7, CHUNK, 10 * SIZE])
def test_slices_of_any_size_list_the_same(kind: MapType, chunk: int) -> None:
    wanted = {_key(kind, n): _value(n) for n in range(300)}
    with _create(kind, 300) as map:
        map.update_batch(wanted.items())
        found = list(map.items(chunk))
    assert len(found) == len(dict(found))
    assert {key: value for key, value in found if any(value)} == wanted


@pytest.mark.parametrize("kind", HASHED)
def test_deleting_in_batches_passes_over_the_absent(kind: MapType) -> None:
    chance = random.Random(5)
    wanted = {_key(kind, n): _value(n) for n in range(SIZE)}
    gone = chance.sample([_key(kind, n) for n in range(2 * SIZE)], SIZE)  # half of them are not there
    with _create(kind) as map:
        map.update_batch(wanted.items())
        map.delete_batch(gone)
        map.delete_batch(gone)
        assert dict(map.items()) == {key: value for key, value in wanted.items() if key not in set(gone)}


@pytest.mark.parametrize("kind", HASHED)
def test_deleting_tells_whether_there_was_something(kind: MapType) -> None:
    with _create(kind) as map:
        map.update(_key(kind, 1), _value(1))
        assert [map.delete(_key(kind, n)) for n in (1, 1, 2)] == [True, False, False]
        assert map.lookup(_key(kind, 1)) is None


def test_an_empty_map_lists_nothing() -> None:
    for kind in HASHED:
        with _create(kind) as map:
            assert list(map.items()) == []
            assert list(map.keys()) == []


def test_a_trie_answers_with_the_longest_prefix() -> None:
    with Map.create(MapType.LPM_TRIE, 8, 4, 16, "prefixes") as map:
        map.update_batch(
            [(struct.pack("=I4B", length, 10, 1, 0, 0), struct.pack("=I", length)) for length in (8, 16, 24)]
        )
        found = [map.lookup(struct.pack("=I4B", 32, 10, *rest)) for rest in ((1, 0, 9), (1, 9, 9), (9, 9, 9))]
        assert found == [struct.pack("=I", length) for length in (24, 16, 8)]
        assert map.lookup(struct.pack("=I4B", 32, 11, 0, 0, 1)) is None


@pytest.mark.parametrize("kind", [MapType.PERCPU_ARRAY, MapType.PERCPU_HASH, MapType.LRU_PERCPU_HASH])
def test_a_percpu_map_has_a_value_for_each_cpu(kind: MapType) -> None:
    with _create(kind, 64) as map:
        map.update(_key(kind, 3), _value(3))
        first = map.percpu(_key(kind, 3))
        assert set(first) == {_value(3)}
        each = [_value(100 + cpu) for cpu in range(len(first))]
        map.update(_key(kind, 4), b"".join(value.ljust(16, b"\0") for value in each))
        assert map.percpu(_key(kind, 4)) == each
        listed = {key: map.split(stored) for key, stored in map.items()}
        assert listed[_key(kind, 4)] == each
        assert map.percpu(_key(kind, 5)) == ([bytes(VALUE_SIZE)] * len(first) if "ARRAY" in kind.name else [])


def test_types_without_batches_are_served_one_by_one() -> None:
    loopback = struct.pack("=I", 1)
    entries = [(struct.pack("=I", n), loopback) for n in range(5)]
    with Map.create(DEVMAP, 4, 4, 8, "devices") as map:
        assert not map.batches()
        map.update_batch(entries)
        assert list(map.items()) == entries
        map.delete_batch(key for key, _ in entries[1:])
        assert list(islice(map.items(), 9)) == entries[:1]


def test_a_full_map_is_worth_another_try() -> None:
    for kind in (MapType.HASH, MapType.LPM_TRIE):
        with _create(kind, 10) as map:
            with pytest.raises(TemporaryError, match=r"write an entry.*raise its max_entries"):
                map.update_batch((_key(kind, n), _value(n)) for n in range(20))
            assert len(list(map.items())) == 10


def test_sizes_are_checked_before_the_kernel_reads_too_far() -> None:
    with _create(MapType.HASH) as map:
        with pytest.raises(PermanentError, match="a key has 4 bytes, not 3"):
            map.lookup(b"abc")
        with pytest.raises(PermanentError, match="a value has 12 bytes, not 4"):
            map.update_batch([(bytes(4), bytes(4))])


def test_an_impossible_map_is_refused() -> None:
    with pytest.raises(PermanentError, match="map none: cannot create it with 0 entries"):
        Map.create(MapType.HASH, 4, 4, 0, "none")


def test_a_pinned_map_is_found_again() -> None:
    pin = BPFFS / "folder" / "deeper" / "trial"
    with _create(MapType.HASH) as map:
        map.update(bytes(4), _value(9))
        map.pin(pin)
        with pytest.raises(PermanentError, match="cannot pin it at"):
            map.pin(pin)
        number = map.id
    with Map.open(pin) as again, Map.from_id(number) as same:
        assert again.lookup(bytes(4)) == same.lookup(bytes(4)) == _value(9)
        shape = (again.name, again.type, again.key_size, again.value_size, again.max_entries)
    assert shape == ("trial", MapType.HASH, 4, VALUE_SIZE, SIZE)


def test_an_absent_pin_says_which() -> None:
    with pytest.raises(PermanentError, match="nowhere: cannot open the pinned object: No such file"):
        Map.open(BPFFS / "nowhere")
