"""A cell: a function runs, as root, in network, mount and pid namespaces of its own.

    pytest -> keeper (dies with pytest) -> inmate, process 1 of its namespaces -> whatever it starts

The inmate sees an empty /run, its own /proc and a bpffs at `BPFFS`. When it ends,
or pytest is killed, the kernel ends all its processes and with them devices,
mounts and pins: nothing is left to clean up.
"""

import contextlib
import ctypes
import gc
import os
import pickle
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from meshfabric.kernel import netns

BPFFS = Path("/sys/fs/bpf")

_CLONE_NEWNS, _CLONE_NEWPID = 0x00020000, 0x20000000
_MS_PRIVATE_ALL = 1 << 18 | 1 << 14
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class Result(NamedTuple):
    """How it went: "passed", "failed" or "skipped", and what to say of it."""

    outcome: str
    text: str


def run(function: Callable[[], Result]) -> Result:
    """Call the function in a cell; gives what it returns, or a failure when the cell breaks down."""
    reading, writing = os.pipe()
    keeper = os.fork()
    if keeper == 0:
        os.close(reading)
        _keep(function, writing)
    os.close(writing)
    try:
        with os.fdopen(reading, "rb") as answer:
            data = answer.read()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(keeper, signal.SIGKILL)
        os.waitpid(keeper, 0)
    return pickle.loads(data) if data else Result("failed", "the cell ended without an answer")


def leaks(function: Callable[[], None]) -> str:
    """Call the function and say what it left open in this process, "" when nothing."""
    unraisable: list[str] = []
    sys.unraisablehook = lambda event: unraisable.append(
        f"{event.err_msg or event.object}: {event.exc_value}"
    )
    before = _open_files()
    function()
    gc.collect()
    left = [f"left open: {name}" for name in _open_files() - before]
    return "\n".join(unraisable + left)


@contextlib.contextmanager
def namespace() -> Iterator[Path]:
    """A fresh network namespace, by a path that is good in this process."""

    def made() -> int:
        netns.leave_for(netns.CLONE_NEWNET)
        return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    fd = netns.in_thread(made)
    try:
        yield Path(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


def _keep(function: Callable[[], Result], writing: int) -> None:
    """Never returns: what pytest set up for its own end must not run here."""
    try:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        netns.leave_for(netns.CLONE_NEWNET | _CLONE_NEWNS | _CLONE_NEWPID)
        inmate = os.fork()
        if inmate == 0:
            _serve(function, writing)
        os.close(writing)
        os.waitpid(inmate, 0)
    except BaseException:  # nothing of the child may go on as pytest
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(0)


def _serve(function: Callable[[], Result], writing: int) -> None:
    try:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        _mount(b"none", "/", None, _MS_PRIVATE_ALL)
        for kind, place in ((b"proc", "/proc"), (b"tmpfs", "/run"), (b"bpf", str(BPFFS))):
            _mount(kind, place, kind, 0)
        os.write(writing, pickle.dumps(function()))
    except BaseException:  # nothing of the child may go on as pytest
        os.write(writing, pickle.dumps(Result("failed", traceback.format_exc())))
    finally:
        sys.stdout.flush()
        os._exit(0)


def _mount(source: bytes, place: str, kind: bytes | None, flags: int) -> None:
    if _libc.mount(source, place.encode(), kind, flags, None):
        raise OSError(ctypes.get_errno(), f"mount {place}")


def _open_files() -> set[str]:
    names = set()
    for entry in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            names.add(f"{entry} {os.readlink(f'/proc/self/fd/{entry}')}")
    return names
