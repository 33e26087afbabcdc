"""The wireguard-go process behind a userspace device: started, adopted, restarted.

    TUN device (persistent, ours) <- wireguard-go -> UAPI socket /var/run/wireguard/<device>.sock

The device outlives the process, so that its ifindex, routes and programs stay
when it is restarted; the process outlives the agent, in a session of its own,
and is known again by its UAPI socket. Keys and peers are set by `wireguard`.
"""

import contextlib
import os
import select
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from meshfabric.kernel import links
from meshfabric.model.errors import TemporaryError

SOCKETS = Path("/var/run/wireguard")
START_TIMEOUT_S = 5.0
STOP_TIMEOUT_S = 2.0
UAPI_TIMEOUT_S = 2.0
POLL_MS = 2
PASSED_ON = ("GOMAXPROCS", "GOMEMLIMIT", "GOGC", "PATH")  # Go's own settings: an operator may limit it
_UCRED = struct.Struct("=iII")  # struct ucred: pid uid gid
# The shell ends at once, so that init becomes the parent: the agent may be gone when the process ends.
_LAUNCH = 'log=$1; shift; "$@" </dev/null >>"$log" 2>&1 & echo $!'


def ensure(binary: Path, name: str, logs: Path) -> bool:
    """A wireguard-go that answers for the device `name`; True when it had to be started.

    It logs errors to `<logs>/<name>.log`. Raises TemporaryError when it does
    not come up, or when the one that runs does not answer.
    """
    links.ensure_tun(name)
    if answers(name):
        return False
    log = logs / f"{name}.log"
    _await_answer(name, _start(binary, name, log), log)
    return True


def answers(name: str) -> bool:
    """Whether a process serves the device. Raises TemporaryError when one is there but hangs."""
    with _connect(name) as link:
        if link is None:
            return False
        try:
            link.sendall(b"set=1\n\n")  # sets nothing, and takes the lock that a hanging one never gives
            return link.recv(len(b"errno=0\n\n")) != b""
        except TimeoutError as cause:
            remedy = f"kill process {_process(link)}"
            raise TemporaryError("wireguard-go hangs", place=f"device {name}", remedy=remedy) from cause
        except ConnectionError:
            return False


def process(name: str) -> int:
    """The id of the process that serves the device, 0 when there is none."""
    with _connect(name) as link:
        return 0 if link is None else _process(link)


def stop(name: str) -> bool:
    """End the process that serves the device, whose TUN device stays; False when there was none."""
    number = process(name)
    with _watch(number) as exit_of:
        if exit_of is None:
            return False
        for order in (signal.SIGTERM, signal.SIGKILL):
            signal.pidfd_send_signal(exit_of, order)
            if _ended(exit_of, STOP_TIMEOUT_S):
                break
    (SOCKETS / f"{name}.sock").unlink(missing_ok=True)
    return True


def _start(binary: Path, name: str, log: Path) -> int:
    """Launch it; gives its process id."""
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {key: os.environ[key] for key in PASSED_ON if key in os.environ}
    environment |= {"LOG_LEVEL": "error", "WG_PROCESS_FOREGROUND": "1"}
    done = subprocess.run(
        ["/bin/sh", "-c", _LAUNCH, "sh", str(log), str(binary), name],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        start_new_session=True,
        check=True,
    )
    return int(done.stdout)


def _await_answer(name: str, number: int, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    with _watch(number) as exit_of:
        while not answers(name):
            ended = exit_of is None or _ended(exit_of, POLL_MS / 1000)
            if ended or time.monotonic() > deadline:
                said = log.read_text(errors="replace").splitlines()[-1:] or ["no message"]
                what = f"wireguard-go {'ended' if ended else 'is not ready'}: {said[0]}"
                raise TemporaryError(what, place=f"device {name}", remedy=f"see {log}")


@contextlib.contextmanager
def _connect(name: str) -> Iterator[socket.socket | None]:
    """Its UAPI socket; None when nobody listens."""
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(UAPI_TIMEOUT_S)
        try:
            link.connect(str(SOCKETS / f"{name}.sock"))
        except (FileNotFoundError, ConnectionRefusedError):
            yield None
            return
        yield link


def _process(link: socket.socket) -> int:
    credentials = link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return int(_UCRED.unpack(credentials)[0])


@contextlib.contextmanager
def _watch(number: int) -> Iterator[int | None]:
    """A pidfd, which never means another process later; None when the process is gone."""
    try:
        watched = os.pidfd_open(number) if number else None
    except ProcessLookupError:
        watched = None
    try:
        yield watched
    finally:
        if watched is not None:
            os.close(watched)


def _ended(watched: int, patience_s: float) -> bool:
    return bool(select.select([watched], [], [], patience_s)[0])
