"""A ring buffer, written by a program under test-run and read by us."""

import select
from collections.abc import Iterator

import pytest

from meshfabric.kernel.bpf import Map, MapType
from meshfabric.kernel.libbpf import Elf
from meshfabric.kernel.ring import MOST, Ring
from meshfabric.model.errors import MeshfabricError
from tests.kernel.conftest import Compile

SAYER = """
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 65536);
} said SEC(".maps");

SEC("tc") int say(struct __sk_buff *skb)
{
	__u64 word = skb->len;

	return bpf_ringbuf_output(&said, &word, sizeof(word), 0) ? 1 : 0;
}
"""
PACKET = 60
HEADER, WORD = 8, 8  # what a record takes in the ring
ROOM = 65536 // (HEADER + WORD)


class Sayer:
    """Writes the packet's length."""

    def __init__(self, elf: Elf) -> None:
        elf.load()
        self.said, self._say = elf.map("said"), elf.program("say")

    def __call__(self, length: int = PACKET) -> bool:
        return self._say.test_run(bytes(length)).retval == 0


@pytest.fixture
def say(compile_bpf: Compile) -> Iterator[Sayer]:
    with Elf(compile_bpf(SAYER)) as elf:
        yield Sayer(elf)


def words(records: list[bytes]) -> list[int]:
    return [int.from_bytes(record, "little") for record in records]


def readable(ring: Ring) -> bool:
    return bool(select.select([ring.fd], [], [], 0)[0])


def test_records_come_in_their_order_and_once(say: Sayer) -> None:
    ring = Ring(say.said)
    assert (ring.read(), readable(ring)) == ([], False)
    assert all(map(say, (60, 61, 62)))
    assert readable(ring)
    assert words(ring.read()) == [60, 61, 62]
    assert (ring.read(), readable(ring)) == ([], False)
    ring.close()


def test_what_is_unread_is_the_next_readers(say: Sayer) -> None:
    say(60)
    first = Ring(say.said)
    first.close()
    say(61)
    second = Ring(say.said)
    assert words(second.read()) == [60, 61]
    second.close()


def test_a_full_ring_takes_no_more_and_nobody_reads_for_ever(say: Sayer) -> None:
    wrote = sum(say() for _ in range(ROOM + 10))
    assert ROOM - 10 <= wrote <= ROOM
    ring, read = Ring(say.said), 0
    while records := ring.read():
        assert len(records) <= MOST
        read += len(records)
    assert (read, wrote > MOST) == (wrote, True)
    assert say(61)
    assert words(ring.read()) == [61]
    ring.close()


def test_what_is_no_ring_is_said() -> None:
    with (
        Map.create(MapType.HASH, 4, 4, 1, "no_ring") as table,
        pytest.raises(MeshfabricError, match="no_ring"),
    ):
        Ring(table)
