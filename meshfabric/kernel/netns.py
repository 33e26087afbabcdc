"""Runs a function inside another network namespace.

A namespace belongs to a thread: the function gets a thread of its own that
enters the namespace and ends with the call, so that the caller stays where it
is. Sockets, devices and processes that the function makes belong to that
namespace. The other modules of the room take `netns=<path>` by `inside`.
"""

import ctypes
import functools
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar, cast

from meshfabric.kernel.fault import fault
from meshfabric.model.errors import TemporaryError

CLONE_NEWNET = 0x40000000

P = ParamSpec("P")
T = TypeVar("T")

_libc = ctypes.CDLL(None, use_errno=True)


def run(path: Path | None, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call `function` in the namespace at `path` (None: right here); gives its result or raises its error.

    Raises TemporaryError when there is no namespace at `path` (any more).
    """
    if path is None:
        return function(*args, **kwargs)

    def entered() -> T:
        enter(path)
        return function(*args, **kwargs)

    return in_thread(entered)


def enter(path: Path) -> None:
    """Move the calling thread, for good, to the namespace at `path`."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if _libc.setns(fd, CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
        finally:
            os.close(fd)
    except FileNotFoundError as cause:
        raise TemporaryError("the network namespace is gone", place=str(path)) from cause
    except OSError as cause:
        raise fault(cause, place=str(path), wanted="enter the network namespace") from cause


def leave_for(flags: int) -> None:
    """Move the calling thread, for good, to fresh namespaces (CLONE_NEW...) that end with it."""
    if _libc.unshare(flags):
        cause = OSError(ctypes.get_errno(), "unshare")
        raise fault(cause, place="this thread", wanted="make a namespace") from cause


def in_thread(function: Callable[[], T]) -> T:
    """Call `function` in a thread that ends with it; gives its result or raises its error."""
    results: list[T] = []
    errors: list[BaseException] = []

    def body() -> None:
        try:
            results.append(function())
        except BaseException as error:  # whatever it is, it is raised where it was called
            errors.append(error)

    thread = threading.Thread(target=body, name="netns", daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors.pop()
    return results.pop()


def inside(function: Callable[P, T]) -> Callable[P, T]:
    """Let callers of `function` say `netns=<path>` to have it run there; its body need not care."""

    @functools.wraps(function)
    def entered(*args: P.args, **kwargs: P.kwargs) -> T:
        path = cast(Path | None, kwargs.pop("netns", None))
        return run(path, function, *args, **kwargs)

    return entered
