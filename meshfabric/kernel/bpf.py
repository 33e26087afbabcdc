"""BPF programs and tcx links by the bpf(2) system call alone; maps are in `bpf_map`, and named here too.

`libbpf` makes programs from ELF files, `loader` keeps their maps, `attach`
decides which program runs where.
"""

import errno
import resource
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Self

from meshfabric.kernel.bpf_map import Map, MapType
from meshfabric.kernel.bpfcall import (
    BpfObject,
    Command,
    address,
    call,
    filled,
    open_by_id,
    open_pinned,
    room,
    text,
)
from meshfabric.kernel.fault import fault
from meshfabric.kernel.skb import SkbContext

__all__ = [
    "Direction",
    "Link",
    "LinkInfo",
    "Map",
    "MapType",
    "Program",
    "SkbContext",
    "TestRun",
    "raise_memlock",
]

TEST_RUN_HEADROOM = 1024  # bytes that a program may add to the packet it was given
CONTEXT_BYTES = len(SkbContext().pack())
SCHED_CLS = 3  # BPF_PROG_TYPE_SCHED_CLS

_RUN = "IIIIQQIIIIQQ"  # fd retval size_in size_out data_in data_out repeat duration ctx_in ctx_out *2
_RETVAL, _SIZE_OUT, _DURATION, _CTX_OUT = 1, 3, 7, 9
_PROGRAM_INFO = "II8s48x16s"  # type id tag ... name
_LINK_INFO = "III4xII"  # type id prog_id, then of tcx: ifindex attach_type


class Direction(IntEnum):
    """Where a tcx link hangs: enum bpf_attach_type (Linux 6.6)."""

    INGRESS = 46
    EGRESS = 47


class _Order(IntEnum):
    BEFORE = 1 << 3  # BPF_F_BEFORE without a relative: before all others
    AFTER = 1 << 4


_ORDER = {Direction.INGRESS: _Order.BEFORE, Direction.EGRESS: _Order.AFTER}


@dataclass(frozen=True)
class TestRun:
    """What BPF_PROG_TEST_RUN gave: the verdict, packet and context afterwards, mean ns of one run."""

    __test__ = False  # pytest would take the name for a test class

    retval: int
    data_out: bytes
    ctx_out: bytes
    duration_ns: int


@dataclass(frozen=True)
class LinkInfo:
    """What the kernel says of a tcx link; `ifindex` is 0 when its device is gone."""

    id: int
    type: int
    program_id: int
    ifindex: int
    attach_type: int


class Program(BpfObject):
    """A loaded program."""

    kind = "program"

    def __init__(self, fd: int, name: str = "") -> None:
        """Take over `fd`, which must be a program's; `name` when the kernel's 15 characters are too few."""
        super().__init__(fd)
        self.type, self.id, self.tag, label = self.describe(_PROGRAM_INFO)
        self.name = name or text(label)

    @classmethod
    def load(cls, instructions: bytes, kind: int = SCHED_CLS, license: str = "GPL") -> Self:
        """Load raw instructions, 8 bytes each: for probing, real programs come from `libbpf`."""
        code, terms = filled(instructions), filled(license.encode() + b"\0")
        count = len(instructions) // 8
        try:
            made = call(
                Command.PROG_LOAD, "IIQQIIQII", kind, count, address(code), address(terms), 0, 0, 0, 0, 0
            )
        except OSError as cause:
            raise fault(cause, place="program", wanted=f"load {count} instructions") from cause
        return cls(made.result)

    @classmethod
    def open(cls, path: Path) -> Self:
        """The program pinned at `path`."""
        return cls(open_pinned(path))

    @classmethod
    def from_id(cls, number: int) -> Self:
        """The program with this kernel-wide id."""
        return cls(open_by_id(Command.PROG_GET_FD_BY_ID, number))

    def test_run(self, packet: bytes, *, ctx: bytes | None = None, repeat: int = 1) -> TestRun:
        """Run the program `repeat` times on a copy of `packet` (14 bytes or more) and report the last run.

        `ctx` is what `SkbContext.pack` makes. Every run after the first starts
        from what the one before left. Raises PermanentError when the kernel
        refuses the packet or the context.
        """
        data, out = filled(packet), room(len(packet) + TEST_RUN_HEADROOM)
        context, context_out = filled(ctx or b""), room(CONTEXT_BYTES)
        lengths = (len(ctx), CONTEXT_BYTES) if ctx else (0, 0)
        places = (address(context), address(context_out)) if ctx else (0, 0)
        values = (len(packet), len(out), address(data), address(out), repeat, 0)
        try:
            done = call(Command.PROG_TEST_RUN, _RUN, self.fd, 0, *values, *lengths, *places)
        except OSError as cause:
            wanted = f"run it on a packet of {len(packet)} bytes"
            raise fault(cause, place=self.place, wanted=wanted) from cause
        fields = done.read(_RUN)
        return TestRun(
            fields[_RETVAL],
            out.raw[: fields[_SIZE_OUT]],
            context_out.raw[: fields[_CTX_OUT]],
            fields[_DURATION],
        )


class Link(BpfObject):
    """A program hung on a device: it stays as long as a handle or a pin of it does."""

    kind = "link"

    @classmethod
    def create(cls, program: Program, ifindex: int, direction: Direction) -> Self:
        """Hang the program on the device, seen from the calling thread's network namespace.

        First of all at ingress, so that nothing is handed on unseen; last of all
        at egress. Needs tcx (Linux 6.6, commit e420bed02507).
        """
        target = (program.fd, ifindex, direction, _ORDER[direction])
        try:
            return cls(call(Command.LINK_CREATE, "IIIIIIQ", *target, 0, 0, 0).result)
        except OSError as cause:
            wanted = f"attach {program.name} at {direction.name.lower()}"
            raise fault(cause, place=f"device {ifindex}", wanted=wanted) from cause

    @classmethod
    def open(cls, path: Path) -> Self:
        """The link pinned at `path`."""
        return cls(open_pinned(path))

    @property
    def info(self) -> LinkInfo:
        """What the kernel says of it now."""
        kind, number, program, ifindex, place = self.describe(_LINK_INFO)
        return LinkInfo(number, kind, program, ifindex, place)

    def update(self, program: Program) -> None:
        """Let the link run another program, from one packet to the next."""
        try:
            call(Command.LINK_UPDATE, "IIII", self.fd, program.fd, 0, 0)
        except OSError as cause:
            raise fault(cause, place=self.place, wanted=f"run {program.name} in it") from cause

    def detach(self) -> None:
        """Take the program off the device, whoever else holds the link; a gone device is no error."""
        try:
            call(Command.LINK_DETACH, "I", self.fd)
        except OSError as cause:
            if cause.errno != errno.ENOLINK:
                raise fault(cause, place=self.place, wanted="detach it") from cause


def raise_memlock() -> bool:
    """Lift the limit of locked memory as far as allowed; True when none is left.

    Only kernels before 5.11 count maps against it, so a refusal is no error.
    """
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    try:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, unlimited)
    except (OSError, ValueError):
        hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] == resource.RLIM_INFINITY
