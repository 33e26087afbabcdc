"""Exit codes, and the one line that says what went wrong."""

import os
import sys
import traceback
from enum import IntEnum

from meshfabric.model.errors import MeshfabricError, PermanentError, TemporaryError, UnsupportedError

DEBUG_VARIABLE = "MESHFABRIC_DEBUG"


class Code(IntEnum):
    """What the exit code of every command means."""

    OK = 0
    FOUND = 1
    USAGE = 2
    INPUT = 3
    UNAVAILABLE = 4
    PERMISSION = 5
    INTERRUPTED = 130  # 128 + SIGINT, as shells have it


MEANINGS = {
    Code.OK: "done",
    Code.FOUND: "something was found: wrong by `doctor`, `policy check` or `class check`, a kernel without a "
    "feature, a change by `policy diff`",
    Code.USAGE: "no such command, option or argument",
    Code.INPUT: "a file, a name or a value is wrong or was refused; trying again changes nothing",
    Code.UNAVAILABLE: "the agent or etcd is away, or did not do it in time; trying again may help",
    Code.PERMISSION: "not allowed: the agent's socket, a file or an etcd key",
    Code.INTERRUPTED: "stopped by Ctrl-C",
}


class DeniedError(PermanentError):
    """Somebody else may do it, we may not."""


class FoundError(PermanentError):
    """What was to be checked was checked, and is wrong."""


def code_of(error: MeshfabricError) -> Code:
    """The exit code for an error."""
    if isinstance(error, DeniedError) or isinstance(error.__cause__, PermissionError):
        return Code.PERMISSION
    if isinstance(error, TemporaryError):
        return Code.UNAVAILABLE
    return Code.FOUND if isinstance(error, FoundError | UnsupportedError) else Code.INPUT


def report(error: MeshfabricError) -> Code:
    """Say on stderr what went wrong, in one line, and return the exit code."""
    if os.environ.get(DEBUG_VARIABLE) == "1":
        traceback.print_exception(error)
    line = "".join(letter if letter.isprintable() else " " for letter in str(error))
    print("meshfabric:", " ".join(line.split()), file=sys.stderr)
    return code_of(error)
