"""The archive that a kernel unpacks into its first root: cpio in the form "newc".

Linux, Documentation/driver-api/early-userspace/buffer-format.rst.
"""

import stat
from collections.abc import Mapping

MAGIC = b"070701"
LAST = "TRAILER!!!"
ALIGNMENT = 4
PROGRAM, FOLDER = stat.S_IFREG | 0o755, stat.S_IFDIR | 0o755


def archive(files: Mapping[str, bytes]) -> bytes:
    """Files by their path from the root, all of them executable, and the folders that they are in."""
    parts: list[bytes] = []
    folders: set[str] = set()
    for path, data in files.items():
        for folder in _above(path):
            if folder not in folders:
                folders.add(folder)
                parts.append(_entry(folder, FOLDER, b"", len(parts) + 1))
        parts.append(_entry(path, PROGRAM, data, len(parts) + 1))
    return b"".join([*parts, _entry(LAST, 0, b"", 0)])


def _above(path: str) -> list[str]:
    names = path.split("/")[:-1]
    return ["/".join(names[: count + 1]) for count in range(len(names))]


def _entry(path: str, mode: int, data: bytes, inode: int) -> bytes:
    """Header of 13 numbers in eight hexadecimal digits each, then name and data, both padded."""
    name = path.encode() + b"\0"
    links = 1
    numbers = (inode, mode, 0, 0, links, 0, len(data), 0, 0, 0, 0, len(name), 0)
    head = MAGIC + b"".join(b"%08X" % number for number in numbers)
    return _padded(head + name) + _padded(data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % ALIGNMENT)
