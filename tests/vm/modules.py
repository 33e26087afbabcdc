"""Which kernel modules have to be loaded, and in which order (modules.dep(5), depmod(8))."""

import lzma
from collections.abc import Iterable
from pathlib import Path

from meshfabric.model.errors import PermanentError

DEPENDENCIES, BUILT_IN = "modules.dep", "modules.builtin"


def in_order(names: Iterable[str], dependencies: str, built_in: str) -> list[str]:
    """Paths of the modules with these names and of all they need, each after what it needs.

    `dependencies` and `built_in` are the texts that depmod and the kernel's build wrote. What is built in
    needs no file; raises PermanentError for what is neither.
    """
    needs = dict(_line(line) for line in dependencies.splitlines())
    paths = {_name(path): path for path in needs}
    inside = {_name(path) for path in built_in.split()}
    ordered: dict[str, None] = {}
    for name in names:
        if name in inside:
            continue
        if name not in paths:
            raise PermanentError(
                f"this kernel has no module {name}", remedy="take Debian's kernel, not cloud"
            )
        # modules.dep names all that a module needs, itself before what it needs in turn.
        ordered.update(dict.fromkeys([*reversed(needs[paths[name]]), paths[name]]))
    return list(ordered)


def read(path: Path) -> bytes:
    """A module as the kernel takes it, unpacked where it is compressed."""
    data = path.read_bytes()
    return lzma.decompress(data) if path.suffix == ".xz" else data


def _line(line: str) -> tuple[str, list[str]]:
    path, _, needed = line.partition(":")
    return path, needed.split()


def _name(path: str) -> str:
    """As modprobe knows it: no folder, no ending, underscores."""
    return path.rpartition("/")[2].partition(".ko")[0].replace("-", "_")
