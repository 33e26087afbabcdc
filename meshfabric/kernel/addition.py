"""Adds to counters of a per-CPU array while programs count in them, and loses nothing of either.

User space can only write whole values, over what a program counted meanwhile. So
a program is made that holds the amounts as constants, and runs once: it adds to
the values of whichever CPU it is on, by one atomic instruction each, which no
program on that CPU can be in the midst of. The sum over the CPUs is what counts.
"""

import struct
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from meshfabric.kernel.bpf import Map, Program

_INSTRUCTION = struct.Struct("=BBhI")  # opcode, registers (source in the high half), offset, immediate
_R0, _R1, _R2, _FRAME = 0, 1, 2, 10
_MAP_FD = 1  # BPF_PSEUDO_MAP_FD
_LOAD_64, _STORE_WORD, _MOVE, _ADD, _SET = 0x18, 0x62, 0xBF, 0x07, 0xB7
_JUMP_IF_EQUAL, _CALL, _EXIT = 0x15, 0x85, 0x95
_LOOKUP = 1  # BPF_FUNC_map_lookup_elem
_KEY_AT = -4  # on the stack
_ATOMIC_ADD = {4: 0xC3, 8: 0xDB}  # BPF_STX | BPF_ATOMIC, by the number's bytes
_BATCH = 64  # entries to a program, far below the kernel's limit of instructions
_PACKET = bytes(64)


class Amount(NamedTuple):
    """What to add to the number of 4 or 8 bytes at an offset of a value; it may wrap around."""

    offset: int
    size: int
    amount: int


def add(counters: Map, amounts: Mapping[int, Iterable[Amount]]) -> None:
    """Add to the entries of a per-CPU array, by index. Raises what a refused program means."""
    entries = list(amounts.items())
    for first in range(0, len(entries), _BATCH):
        parts = (_entry(counters.fd, index, each) for index, each in entries[first : first + _BATCH])
        with Program.load(b"".join(parts) + _one(_SET, _R0) + _one(_EXIT)) as program:
            program.test_run(_PACKET)


def _entry(fd: int, index: int, amounts: Iterable[Amount]) -> bytes:
    body = b"".join(_addition(one) for one in amounts)
    return (
        _wide(_R1, fd, _MAP_FD)
        + _one(_STORE_WORD, _FRAME, offset=_KEY_AT, immediate=index)
        + _one(_MOVE, _R2, _FRAME)
        + _one(_ADD, _R2, immediate=_KEY_AT)
        + _one(_CALL, immediate=_LOOKUP)
        + _one(_JUMP_IF_EQUAL, _R0, offset=len(body) // _INSTRUCTION.size)
        + body
    )


def _addition(one: Amount) -> bytes:
    return _wide(_R1, one.amount) + _one(_ATOMIC_ADD[one.size], _R0, _R1, one.offset)


def _wide(register: int, number: int, source: int = 0) -> bytes:
    """Load 64 bits, which takes the room of two instructions."""
    low, high = (number >> shift & 0xFFFFFFFF for shift in (0, 32))
    return _one(_LOAD_64, register, source, 0, low) + _one(0, immediate=high)


def _one(opcode: int, target: int = 0, source: int = 0, offset: int = 0, immediate: int = 0) -> bytes:
    return _INSTRUCTION.pack(opcode, source << 4 | target, offset, immediate & 0xFFFFFFFF)
