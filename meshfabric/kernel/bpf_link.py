"""BPF links: a program hung on a device by tcx or netkit, for as long as a handle or a pin of the link lives.

                  node's side                          pod's side
    tcx       INGRESS <- what comes in          (any device)
              EGRESS  -> what goes out
    netkit    PRIMARY -> what the node sends  =====  PEER <- what the pod sends

Both netkit programs are hung through the primary, the node's side, which alone may.
"""

import ctypes
import errno
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Protocol, Self

from meshfabric.kernel.bpfcall import BpfObject, Command, attempt, call, open_pinned
from meshfabric.kernel.fault import fault

LINKS_OF_A_HOOK = 64  # BPF_MPROG_MAX: no device holds more programs at one hook
_LINK_INFO = "III4xII"  # type id prog_id, then of tcx and netkit: ifindex attach_type
_QUERY = "IIIIQIIQQQQ"  # ifindex hook flags *2, programs count pad, program flags, links, *2
_COUNT = 5


class Direction(IntEnum):
    """Into the node or out of it; the values are those of tcx: enum bpf_attach_type (Linux 6.6)."""

    INGRESS = 46
    EGRESS = 47


class Side(IntEnum):
    """Of a netkit pair: enum bpf_attach_type (Linux 6.7)."""

    PRIMARY = 54
    PEER = 55


Hook = Direction | Side


class _Order(IntEnum):
    BEFORE = 1 << 3  # BPF_F_BEFORE without a relative: before all others
    AFTER = 1 << 4


_ORDER: dict[Hook, _Order] = {
    Direction.INGRESS: _Order.BEFORE,
    Direction.EGRESS: _Order.AFTER,
    Side.PEER: _Order.BEFORE,
    Side.PRIMARY: _Order.AFTER,
}


class Runnable(Protocol):
    """A loaded program."""

    fd: int
    name: str


@dataclass(frozen=True)
class LinkInfo:
    """What hangs on a device. `ifindex` is 0 when that is gone, and of a netkit peer the one in the pod.

    A clsact filter has `id` and `type` 0.
    """

    id: int
    type: int
    program_id: int
    ifindex: int
    attach_type: int


class Link(BpfObject):
    """A program hung on a device: it stays as long as a handle or a pin of it does."""

    kind = "link"

    @classmethod
    def create(cls, program: Runnable, ifindex: int, hook: Hook) -> Self:
        """Hang the program on the device, seen from the calling thread's network namespace.

        First of all where packets come in, so that nothing is handed on unseen;
        last of all where they go out. Needs tcx (Linux 6.6, commit e420bed02507)
        or netkit (Linux 6.7, commit 35dfaad7188c).
        """
        target = (program.fd, ifindex, hook, _ORDER[hook])
        try:
            return cls(call(Command.LINK_CREATE, "IIIIIIQ", *target, 0, 0, 0).result)
        except OSError as cause:
            wanted = f"attach {program.name or 'a program'} at {hook.name.lower()}"
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

    def update(self, program: Runnable) -> None:
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


def is_netkit(ifindex: int) -> bool:
    """Whether the device is the node's side of a netkit pair; raises TemporaryError when it is gone.

    Asks for its programs, which a device of another kind (ENXIO), the pod's
    side (EACCES) and a kernel without netkit (EINVAL) refuse to tell.
    """
    code = attempt(Command.PROG_QUERY, _QUERY, ifindex, Side.PRIMARY, *[0] * 9).errno
    if code in (errno.ENXIO, errno.EACCES, errno.EINVAL):
        return False
    if code not in (0, errno.ENOENT):
        raise fault(OSError(code, "query"), place=f"device {ifindex}", wanted="see what kind it is")
    return True


def links_at(ifindex: int, hook: Hook) -> set[int]:
    """The ids of the links that hang there; none where there is no such device or hook."""
    found = (ctypes.c_uint32 * LINKS_OF_A_HOOK)()
    programs = (ctypes.c_uint32 * LINKS_OF_A_HOOK)()
    places = (ctypes.addressof(programs), LINKS_OF_A_HOOK, 0, 0, ctypes.addressof(found), 0, 0)
    outcome = attempt(Command.PROG_QUERY, _QUERY, ifindex, hook, 0, 0, *places)
    return set() if outcome.errno else set(found[: outcome.read(_QUERY)[_COUNT]])
