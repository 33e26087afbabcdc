"""Files of the state folder: written whole or not at all, for root alone, read with suspicion.

What is in them is the business of `snapshot` and `pins`.
"""

import logging
import os
from collections.abc import Iterable
from pathlib import Path

from meshfabric.model.errors import TemporaryError

FILE_MODE = 0o600
UNFINISHED = ".new"

log = logging.getLogger(__name__)


def write_whole(path: Path, chunks: Iterable[bytes]) -> None:
    """Replace the file; after a crash or power loss it is the old one or the new one.

    Raises `TemporaryError` if the disk does not take it; then the old one stays.
    """
    fresh = path.with_name(path.name + UNFINISHED)
    try:
        _write(fresh, chunks)
        os.replace(fresh, path)
        _sync(path.parent)
    except OSError as cause:
        fresh.unlink(missing_ok=True)
        remedy = "it is tried again at the next change"
        raise TemporaryError(
            f"cannot be written: {cause.strerror}", place=str(path), remedy=remedy
        ) from cause


def warn(path: Path, why: str, then: str) -> None:
    """Say once that a file is not what it should be, and what is done about it."""
    log.warning("%s: %s; %s", path, why, then)


def _write(path: Path, chunks: Iterable[bytes]) -> None:
    # A link that somebody left at this name must not lead our writing elsewhere.
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE)
    with os.fdopen(handle, "wb") as file:
        os.fchmod(handle, FILE_MODE)
        for chunk in chunks:
            file.write(chunk)
        file.flush()
        os.fsync(handle)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
