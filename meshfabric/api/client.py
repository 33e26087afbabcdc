"""The asking end of the agent's unix socket: blocking, small, quick to import."""

import contextlib
import socket
from pathlib import Path
from typing import Any

import msgspec

from meshfabric.api.messages import LINE_LIMIT, Reply, Request
from meshfabric.model.errors import InputError, MeshfabricError, PermanentError, TemporaryError

TIMEOUT_S = 30.0


def call(path: Path, request: Request, timeout_s: float = TIMEOUT_S) -> Any:
    """Send one request and return the reply's result as plain JSON values.

    Raises `TemporaryError` when no agent listens or it does not answer in
    time, and the agent's own error with its kind kept.
    """
    asked = msgspec.json.encode(request) + b"\n"
    if len(asked) > LINE_LIMIT:
        what = f"a request of {len(asked)} bytes is too long (at most {LINE_LIMIT})"
        raise InputError(what, remedy="ask for less at once")
    try:
        line = _exchange(path, asked, timeout_s)
    except FileNotFoundError as cause:
        raise _unreachable(path, "no such socket") from cause
    except PermissionError as cause:
        remedy = "run as root or as a member of the socket's group"
        raise PermanentError("permission denied", place=str(path), remedy=remedy) from cause
    except OSError as cause:
        raise _unreachable(path, str(cause)) from cause
    reply = msgspec.json.decode(line, type=Reply)
    if reply.error:
        kind: type[MeshfabricError] = PermanentError if reply.permanent else TemporaryError
        raise kind(reply.error)
    return reply.result


def _exchange(path: Path, line: bytes, timeout_s: float) -> bytes:
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as link:
        link.settimeout(timeout_s)
        link.connect(str(path))
        link.sendall(line)
        with link.makefile("rb") as answer:
            got = answer.readline()
    if not got.endswith(b"\n"):
        raise ConnectionResetError("the agent closed the connection without an answer")
    return got


def _unreachable(path: Path, cause: str) -> TemporaryError:
    return TemporaryError(
        f"the agent does not answer: {cause}", place=str(path), remedy="is meshfabric agent running?"
    )
