"""Starts a process in namespaces of others or of its own, and says its pid: a script on its own.

    python -I -S spawn.py '{"into": 4711, "join": ["pid", "mnt"], "new": ["net"], "argv": [...], ...}'

A process enters a pid namespace only by being born in it, and a new one cannot
be made from outside of the parent's: hence two births. The pid that is printed
is the one in the caller's namespace, told by the kernel (SCM_CREDENTIALS, unix(7)).

    this script ──fork──> middle ──fork──> process ──exec──> argv
     setns(into)           setsid           says hello
                           unshare(new)

The process outlives the script; a failed exec is an error here, not a silence.
Run as a script, because namespaces belong to threads and fork dislikes threads.
"""

import contextlib
import ctypes
import json
import os
import signal
import socket
import struct
import sys
from typing import Any, NoReturn

FLAGS = {  # linux/sched.h
    "mnt": 0x00020000,
    "uts": 0x04000000,
    "pid": 0x20000000,
    "net": 0x40000000,
}
JOIN_ORDER = ("net", "uts", "pid", "mnt")
"""The mount namespace last: /proc is the old one until then."""
_LOG_MODE = 0o600
_CREDENTIALS = struct.Struct("iII")  # struct ucred: pid, uid, gid

_libc = ctypes.CDLL(None, use_errno=True)


def join(pid: int, kinds: list[str]) -> None:
    """Enter namespaces of a process, the pid namespace for children only (setns(2))."""
    fds = [os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY) for kind in JOIN_ORDER if kind in kinds]
    for fd in fds:
        _check(_libc.setns(fd, 0), "setns")
        os.close(fd)


def leave(kinds: list[str]) -> None:
    """Move into new namespaces, the pid namespace for children only (unshare(2))."""
    flags = 0
    for kind in kinds:
        flags |= FLAGS[kind]
    _check(_libc.unshare(flags), "unshare")


def main(order: dict[str, Any]) -> int:
    """Do what `order` says; the pid of the new process in this script's pid namespace."""
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, _LOG_MODE)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    if order["into"]:
        join(order["into"], order["join"])
    middle = os.fork()
    if middle == 0:
        ours.close()
        _middle(order, theirs, log)
    theirs.close()
    os.waitpid(middle, 0)
    return _hello(ours)


def _middle(order: dict[str, Any], theirs: socket.socket, log: int) -> NoReturn:
    try:
        os.setsid()
        leave(order["new"])
        if os.fork() == 0:
            _process(order, theirs, log)
    except BaseException as cause:  # a child must not go on as its parent
        _say(theirs, f"!{cause}")
    os._exit(0)


def _process(order: dict[str, Any], theirs: socket.socket, log: int) -> NoReturn:
    try:
        _say(theirs, "hello")
        _redirect(log, keep_stdin=order["keep_stdin"])
        os.chdir("/")
        # Python ignores this one, and what is ignored stays so across exec.
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        os.execvpe(order["argv"][0], order["argv"], order["env"])
    except BaseException as cause:  # likewise
        _say(theirs, f"!{order['argv'][0]}: {cause}")
    os._exit(127)


def _redirect(log: int, *, keep_stdin: bool) -> None:
    if not keep_stdin:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(log, 1)
    os.dup2(log, 2)


def _say(theirs: socket.socket, text: str) -> None:
    with contextlib.suppress(OSError):
        theirs.send(text.encode())


def _hello(ours: socket.socket) -> int:
    """Wait for hello and then for the exec, which closes the other end."""
    pid = 0
    while True:
        text, ancillary, _, _ = ours.recvmsg(4096, socket.CMSG_SPACE(_CREDENTIALS.size))
        if not text:
            break
        if text.startswith(b"!"):
            raise OSError(text[1:].decode())
        pid = _CREDENTIALS.unpack(ancillary[0][2])[0]
    if not pid:
        raise OSError("it ended before it said hello")
    return pid


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


if __name__ == "__main__":
    try:
        print(main(json.loads(sys.argv[1])))
    except OSError as wrong:
        sys.exit(str(wrong))
