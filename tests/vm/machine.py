"""One VM, from boot to the exit status of the command that it is made for.

    command --stdout, stderr, status--> virtio ports --socket pairs--> run() --> the caller
    kernel  --console-----------------> serial port  --socket pair---^   (shown when it goes wrong)

Nothing of it has a name in the file system: the initramfs is a memory file, the
ports are socket pairs, and QEMU ends with the thread that started it. So nothing
is left, however that ends.
"""

import contextlib
import os
import selectors
import shutil
import socket
import subprocess
import sys
import termios
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from meshfabric.model.errors import PermanentError, TemporaryError
from tests.vm import initramfs, kernels, qemu
from tests.vm.kernels import CHECKOUT
from tests.vm.qemu import CONSOLE, STATUS, STDERR, STDOUT, Size

CHUNK = 65536
COMPLAINTS = b"BUG:", b"WARNING:", b"Oops:", b"Call Trace:"
BEGUN = b"begun"
"""What `main` tells before the command's exit status."""
BOOTS = 3
"""A kernel changes its own code at boot, and an older QEMU may run what that was before."""
LAST_WORDS = 60
"""How many lines of the kernel's console are kept, warnings and worse: shown when it dies or complains."""

Write = Callable[[bytes], object]


class TimeIsUpError(TemporaryError):
    """The VM was ended because its command took too long."""


def run(
    argv: Sequence[str],
    kernel: str = kernels.DEFAULT,
    *,
    size: Size = Size(),  # noqa: B008 - a value, never changed
    out: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdout: Write | None = None,
    stderr: Write | None = None,
) -> int:
    """Run a command as root in the checkout, on a kernel; its exit status.

    `out` is a folder that the guest sees as /out, the only one where what it writes stays. `stdout` and
    `stderr` are called with what the command says as it says it; by default it goes where this process's own
    goes. A VM that ends before it begins with the command is tried again, with `BOOTS` boots in all. Raises
    TimeIsUpError, and TemporaryError with the kernel's last words when the VM ends too early.
    """
    writes = {STDOUT: stdout or flushed(sys.stdout.buffer), STDERR: stderr or flushed(sys.stderr.buffer)}
    for _ in range(BOOTS):
        told, words = _run_once(argv, kernel, size, out, env or {}, writes)
        if told:
            break
    if not told or told[-1] == BEGUN:
        said = words.decode(errors="replace")
        raise TemporaryError(f"the VM ended before its command did; its kernel's last words:\n{said}")
    if any(word in words for word in COMPLAINTS):
        writes[STDERR](b"vm: the kernel complained, its last words:\n" + words + b"\n")
    return int(told[-1])


def _run_once(
    argv: Sequence[str],
    kernel: str,
    size: Size,
    out: Path | None,
    env: Mapping[str, str],
    writes: Mapping[str, Write],
) -> tuple[list[bytes], bytes]:
    """What one VM told of its command, `BEGUN` and its exit status as far as it came, and its last words."""
    console: deque[bytes] = deque(maxlen=LAST_WORDS)
    told = bytearray()
    all_writes = {**writes, STATUS: told.extend, CONSOLE: _lines_into(console)}
    with _booted(argv, kernel, size, out, env, tuple(all_writes)) as links:
        _copy({links[name]: write for name, write in all_writes.items()}, size.timeout_s)
    return bytes(told).split(), b"\n".join(console)


def shell(argv: Sequence[str], kernel: str, *, size: Size, out: Path | None, env: Mapping[str, str]) -> int:
    """Run a command on this terminal, which becomes the VM's serial console; its exit status."""
    told = bytearray()
    if not sys.stdin.isatty():
        raise PermanentError("a shell wants a terminal", remedy="give a command, behind --")
    before = termios.tcgetattr(sys.stdin)
    try:
        with _booted(argv, kernel, size, out, env, (STATUS,)) as links:
            _copy({links[STATUS]: told.extend}, size.timeout_s)
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
    return int(told.strip().removeprefix(BEGUN) or 0)


def flushed(stream: BinaryIO) -> Write:
    """Writes through at once."""

    def write(data: bytes) -> None:
        stream.write(data)
        stream.flush()

    return write


@contextlib.contextmanager
def _booted(
    argv: Sequence[str],
    kernel: str,
    size: Size,
    out: Path | None,
    env: Mapping[str, str],
    ports: Sequence[str],
) -> Iterator[dict[str, socket.socket]]:
    """A VM that runs the command; our ends of its ports, which end with it. Killed at the end."""
    check()
    found = kernels.find(kernel)
    screen = shutil.get_terminal_size()
    settings = {
        "CHECKOUT": str(CHECKOUT),
        "OUT": "yes" if out else "",
        "TERMINAL": "" if CONSOLE in ports else f"rows {screen.lines} cols {screen.columns}",
    }
    with contextlib.ExitStack() as stack:
        ours, theirs = {}, {}
        for name in ports:
            ours[name], theirs[name] = map(stack.enter_context, socket.socketpair())
        archive = stack.enter_context(_in_memory(initramfs.build(found, argv, env, settings)))
        numbers = {name: link.fileno() for name, link in theirs.items()}
        line = qemu.command_line(found, size, archive, numbers, out)
        with subprocess.Popen(
            line,
            stdin=subprocess.DEVNULL if CONSOLE in ports else None,
            pass_fds=(archive, *numbers.values()),
            start_new_session=CONSOLE in ports,  # ^C is for us, we end it
        ) as process:
            try:
                for link in theirs.values():
                    link.close()
                yield ours
            finally:
                process.kill()


def check() -> None:
    """Raise what is missing for a VM on this machine."""
    if os.geteuid() != 0:
        raise PermanentError("a VM that sees the machine's files wants root", remedy="run it as root")
    qemu.program()


@contextlib.contextmanager
def _in_memory(data: bytes) -> Iterator[int]:
    number = os.memfd_create("initramfs")
    try:
        with os.fdopen(os.dup(number), "wb") as file:
            file.write(data)
        yield number
    finally:
        os.close(number)


def _copy(sources: Mapping[socket.socket, Write], timeout_s: float | None) -> None:
    """Hand on what comes until every source has ended."""
    begun = time.monotonic()
    with selectors.DefaultSelector() as selector:
        for source, write in sources.items():
            selector.register(source, selectors.EVENT_READ, write)
        while selector.get_map():
            left = None if timeout_s is None else begun + timeout_s - time.monotonic()
            if left is not None and left <= 0:
                raise TimeIsUpError(f"not done within {timeout_s:.0f} s: the VM was ended")
            for key, _ in selector.select(left):
                link = key.fileobj
                assert isinstance(link, socket.socket)
                if data := _received(link):
                    key.data(data)
                else:
                    selector.unregister(link)


def _received(link: socket.socket) -> bytes:
    """What came, nothing when QEMU has ended, in whatever way."""
    try:
        return link.recv(CHUNK)
    except ConnectionResetError:
        return b""


def _lines_into(kept: deque[bytes]) -> Write:
    rest = bytearray()

    def write(data: bytes) -> None:
        rest.extend(data)
        *whole, last = rest.split(b"\n")
        kept.extend(bytes(line.rstrip()) for line in whole)
        rest[:] = last

    return write
