"""Turns an errno of the kernel into an error that decides: try again, or change something first.

Every other module of the room raises through `fault`, so that one table says
what is temporary and one place words the remedy. `model.errors` owns the classes.
"""

import errno
import os

from meshfabric.model.errors import MeshfabricError, PermanentError, TemporaryError

ENOTSUPP = 524  # the kernel's own number, unknown to libc: "this operation is not implemented"

_TEMPORARY = frozenset(
    {
        errno.E2BIG,  # a full hash map
        errno.ENOSPC,  # a full LPM trie
        errno.EADDRINUSE,
        errno.EAGAIN,
        errno.EBUSY,
        errno.EINTR,
        errno.EMFILE,
        errno.ENETDOWN,
        errno.ENFILE,
        errno.ENODEV,
        errno.ENOLINK,
        errno.ENOMEM,
        errno.ENXIO,
        errno.ETIMEDOUT,
    }
)
_REMEDY = {
    errno.EPERM: "run as root, with CAP_BPF and CAP_NET_ADMIN",
    errno.EACCES: "run as root, with CAP_BPF and CAP_NET_ADMIN",
    errno.E2BIG: "the map is full: raise its max_entries",
    errno.ENOSPC: "the map is full: raise its max_entries",
    errno.ENODEV: "the device is gone",
    errno.ENOLINK: "the device is gone",
    errno.ENXIO: "the device is gone",
    errno.EMFILE: "raise the limit of open files",
    ENOTSUPP: "meshfabric doctor lists what this kernel lacks",
    errno.EOPNOTSUPP: "meshfabric doctor lists what this kernel lacks",
}


def fault(cause: OSError, *, place: str, wanted: str, remedy: str = "") -> MeshfabricError:
    """The error to raise (`from cause`) when `wanted` failed at the object `place`."""
    code = cause.errno or 0
    kind: type[MeshfabricError] = TemporaryError if code in _TEMPORARY else PermanentError
    reason = "operation not supported" if code == ENOTSUPP else os.strerror(code)
    return kind(f"cannot {wanted}: {reason}", place=place, remedy=remedy or _REMEDY.get(code, ""))
