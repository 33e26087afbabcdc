"""Processes of a lab: started in namespaces, known by pid and start time, ended for certain.

Owns identity and life of processes; `spawn` is the script that is born into
namespaces, `state` remembers who is who. A pid alone may be reused by a
stranger, a pid with its start time is not (proc(5), stat, field 22).
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from meshfabric.lab import spawn as script
from meshfabric.model.errors import PermanentError, TemporaryError

ALL_KINDS = ("pid", "mnt", "net", "uts")
"""Kinds of namespaces, as in /proc/PID/ns."""
END_TIMEOUT_S = 10.0
"""Patience for a killed process to be gone; a lab of many processes takes a while."""
_SPAWN_TIMEOUT_S = 60.0
FRAME = " |+-"  # of tracebacks of exception groups
_START_FIELD = 22 - 3  # counted behind the command's name, which is field 2


class Process(msgspec.Struct, frozen=True):
    """A process of the caller's pid namespace; `start` is in clock ticks since boot."""

    pid: int
    start: int

    @property
    def alive(self) -> bool:
        """Whether this very process still runs (a zombie does not)."""
        return _start(self.pid) == self.start

    @property
    def inner_pid(self) -> int:
        """The pid by which the process knows itself, in the innermost pid namespace."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("NSpid:"):
                return int(line.split()[-1])
        return self.pid

    def signal(self, number: int) -> bool:
        """Send a signal; False if the process is gone already."""
        with self._handle() as handle:
            if handle is None:
                return False
            signal.pidfd_send_signal(handle, number)
            return True

    def kill(self, timeout_s: float = END_TIMEOUT_S) -> None:
        """End it and wait until it is gone, for an init with all of its namespace. Absent is fine."""
        with self._handle() as handle:
            if handle is None:
                return
            signal.pidfd_send_signal(handle, signal.SIGKILL)
            if not _gone(handle, timeout_s):
                raise TemporaryError(f"process {self.pid} does not end", remedy="try again")

    def wait(self, timeout_s: float) -> bool:
        """Wait for the end; False if it still runs after `timeout_s`."""
        with self._handle() as handle:
            return handle is None or _gone(handle, timeout_s)

    @contextlib.contextmanager
    def _handle(self) -> Iterator[int | None]:
        """A pidfd, checked after opening, so that nothing here reaches a stranger."""
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            yield None
            return
        try:
            yield handle if self.alive else None
        except ProcessLookupError:
            pass  # it ended between the check and the signal
        finally:
            os.close(handle)


def identify(pid: int) -> Process:
    """The process that has this pid now."""
    start = _start(pid)
    if start is None:
        raise TemporaryError(f"process {pid} ended at once")
    return Process(pid, start)


def spawn(
    argv: Sequence[str],
    log: Path,
    *,
    into: Process | None = None,
    join: Sequence[str] = ALL_KINDS,
    new: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    stdin: int | None = None,
) -> Process:
    """Start a process that stays: in the `join` namespaces of `into`, then in `new` ones of its own.

    Its output is appended to `log`, its input is /dev/null unless given.
    Raises `PermanentError` if it cannot be started.
    """
    order = {
        "into": into.pid if into else 0,
        "join": list(join),
        "new": list(new),
        "argv": list(argv),
        "log": str(log),
        "env": dict(os.environ if env is None else env),
        "keep_stdin": stdin is not None,
    }
    done = subprocess.run(
        [sys.executable, "-I", "-S", script.__file__, json.dumps(order)],
        stdin=subprocess.DEVNULL if stdin is None else stdin,
        capture_output=True,
        text=True,
        timeout=_SPAWN_TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        raise PermanentError(f"cannot start {argv[0]}: {last_line(done.stderr)}", place=str(log))
    return identify(int(done.stdout))


def enter(into: Process, argv: Sequence[str], kinds: Sequence[str] = ALL_KINDS) -> list[str]:
    """The command line that runs `argv` in namespaces of a process."""
    flags = [f"--{ {'mnt': 'mount'}.get(kind, kind) }" for kind in kinds]
    return ["nsenter", f"--target={into.pid}", *flags, "--", *argv]


def run(into: Process, argv: Sequence[str], kinds: Sequence[str] = ALL_KINDS, stdin: str = "") -> str:
    """Run a short command in namespaces of a process; its output, or `PermanentError` with its last line."""
    done = subprocess.run(enter(into, argv, kinds), input=stdin, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PermanentError(f"{argv[0]} failed: {last_line(done.stderr)}")
    return done.stdout


def last_line(text: str) -> str:
    """The last line that says something; of a traceback that is the error, also in the frame of a group's."""
    lines = [line.strip(FRAME) for line in text.splitlines()]
    return next((line for line in reversed(lines) if line), "no output")


def _start(pid: int) -> int | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[_START_FIELD])


def _gone(handle: int, timeout_s: float) -> bool:
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    return bool(poll.poll(timeout_s * 1000))
