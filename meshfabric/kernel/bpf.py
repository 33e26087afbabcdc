"""BPF programs by the bpf(2) system call alone; maps and links are in files of their own, and named here too.

`libbpf` makes programs from ELF files, `loader` keeps their maps, `attach`
decides which program runs where.
"""

import resource
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from meshfabric.kernel.bpf_link import Direction, Hook, Link, LinkInfo, Side
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
    "Hook",
    "Link",
    "LinkInfo",
    "Map",
    "MapType",
    "Program",
    "Side",
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


@dataclass(frozen=True)
class TestRun:
    """What BPF_PROG_TEST_RUN gave: the verdict, packet and context afterwards, mean ns of one run."""

    __test__ = False  # pytest would take the name for a test class

    retval: int
    data_out: bytes
    ctx_out: bytes
    duration_ns: int


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
