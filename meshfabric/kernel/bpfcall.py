"""The bpf(2) system call, bare: commands, argument blocks, and what objects of all kinds share.

`bpf` and `bpf_map` give the objects their methods; nobody else comes here.
Layouts are those of `union bpf_attr` in include/uapi/linux/bpf.h, written as
`struct` formats in native byte order.
"""

import ctypes
import errno
import os
import platform
import struct
from enum import IntEnum
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from meshfabric.kernel.fault import fault
from meshfabric.model.errors import UnsupportedError

ATTR_BYTES = 168  # more than any command here needs; the kernel wants the unused rest to be zero
NAME_BYTES = 16  # BPF_OBJ_NAME_LEN, with the closing zero
_SYSCALL = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "ppc64le": 361, "s390x": 351}

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long

Buffer = ctypes.Array[ctypes.c_char]


class Command(IntEnum):
    """enum bpf_cmd."""

    MAP_CREATE = 0
    MAP_LOOKUP_ELEM = 1
    MAP_UPDATE_ELEM = 2
    MAP_DELETE_ELEM = 3
    MAP_GET_NEXT_KEY = 4
    PROG_LOAD = 5
    OBJ_PIN = 6
    OBJ_GET = 7
    PROG_TEST_RUN = 10
    PROG_GET_FD_BY_ID = 13
    MAP_GET_FD_BY_ID = 14
    OBJ_GET_INFO_BY_FD = 15
    PROG_QUERY = 16
    MAP_LOOKUP_BATCH = 24
    MAP_UPDATE_BATCH = 26
    MAP_DELETE_BATCH = 27
    LINK_CREATE = 28
    LINK_UPDATE = 29
    LINK_DETACH = 34


class Outcome(NamedTuple):
    """What a call left: its result (-1 on error), the errno, and the argument block as it came back."""

    result: int
    errno: int
    attributes: bytes

    def read(self, layout: str) -> tuple[Any, ...]:
        """The argument block's fields, as the kernel may have changed them."""
        return struct.unpack_from("=" + layout, self.attributes)


def attempt(command: Command, layout: str, *values: int | bytes) -> Outcome:
    """Make the call and report; what the addresses in `values` point to must live until it returns."""
    block = ctypes.create_string_buffer(ATTR_BYTES)
    struct.pack_into("=" + layout, block, 0, *values)
    ctypes.set_errno(0)
    result = _libc.syscall(_number(), int(command), block, ATTR_BYTES)
    return Outcome(result, ctypes.get_errno() if result < 0 else 0, block.raw)


def call(command: Command, layout: str, *values: int | bytes) -> Outcome:
    """Make the call; raises OSError when the kernel refuses."""
    outcome = attempt(command, layout, *values)
    if outcome.result < 0:
        raise OSError(outcome.errno, os.strerror(outcome.errno))
    return outcome


def room(size: int) -> Buffer:
    """`size` zero bytes for the kernel to write to."""
    return ctypes.create_string_buffer(max(size, 1))


def filled(data: bytes) -> Buffer:
    """A copy of `data` for the kernel to read."""
    return ctypes.create_string_buffer(data, max(len(data), 1))


def address(buffer: Buffer) -> int:
    """Where a buffer lies; it moves no more."""
    return ctypes.addressof(buffer)


def text(name: bytes) -> str:
    """A name as the kernel keeps it: up to the first zero."""
    return name.split(b"\0", 1)[0].decode(errors="replace")


def open_pinned(path: Path) -> int:
    """A new file descriptor of the object pinned at `path`."""
    target = filled(os.fsencode(path) + b"\0")
    try:
        return call(Command.OBJ_GET, "QII", address(target), 0, 0).result
    except OSError as cause:
        raise fault(cause, place=str(path), wanted="open the pinned object") from cause


def open_by_id(command: Command, number: int) -> int:
    """A new file descriptor of the object with this kernel-wide id."""
    try:
        return call(command, "III", number, 0, 0).result
    except OSError as cause:
        raise fault(cause, place=f"id {number}", wanted="open the object") from cause


class BpfObject:
    """A file descriptor that can be pinned and closed; use it in `with` or close it."""

    kind = "object"

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.name = ""

    @property
    def place(self) -> str:
        """What errors call it."""
        return f"{self.kind} {self.name or self.fd}"

    def pin(self, path: Path) -> None:
        """Name the object in a bpffs, which keeps it alive; folders are made, a taken name is an error.

        The kernel allows no dot in any name there.
        """
        target = filled(os.fsencode(path) + b"\0")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            call(Command.OBJ_PIN, "QII", address(target), self.fd, 0)
        except OSError as cause:
            remedy = "is a bpffs mounted there?" if cause.errno == errno.EINVAL else ""
            raise fault(cause, place=self.place, wanted=f"pin it at {path}", remedy=remedy) from cause

    def close(self) -> None:
        """Let go of the object; closing twice is no error."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def describe(self, layout: str) -> tuple[Any, ...]:
        """The head of the kernel's `bpf_*_info`, read as `layout`."""
        size = struct.calcsize("=" + layout)
        into = room(size)
        try:
            call(Command.OBJ_GET_INFO_BY_FD, "IIQ", self.fd, size, address(into))
        except OSError as cause:
            self.close()
            raise fault(cause, place=self.place, wanted="read what it is") from cause
        return struct.unpack_from("=" + layout, into.raw)


def _number() -> int:
    try:
        return _SYSCALL[platform.machine()]
    except KeyError as cause:
        known = ", ".join(sorted(_SYSCALL))
        raise UnsupportedError(
            f"no bpf system call number known for {platform.machine()}", remedy=f"use one of {known}"
        ) from cause
