"""The first root of a VM: what mounts this machine's files, and the command that comes then."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from meshfabric.model.errors import PermanentError
from tests.vm import cpio, modules
from tests.vm.kernels import Kernel

HERE = Path(__file__).parent
BUSYBOX = Path("/bin/busybox")
NEEDED = ("virtio_pci", "virtio_console", "9p", "9pnet_virtio", "overlay")
"""Whatever else is wanted is loaded by the kernel itself, from the root."""


def build(kernel: Kernel, argv: Sequence[str], env: Mapping[str, str], settings: Mapping[str, str]) -> bytes:
    """The archive, uncompressed. `settings` are the variables that `init` and `main` read."""
    if not BUSYBOX.exists():
        raise PermanentError(f"no {BUSYBOX}", remedy="as root: deploy/dev/vm.sh")
    told = {"MODULES": str(kernel.modules), **settings}
    exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in sorted(env.items()))
    return cpio.archive(
        {
            "init": (HERE / "init").read_bytes(),
            "main": (HERE / "main").read_bytes(),
            "settings": "".join(f"{name}={shlex.quote(value)}\n" for name, value in told.items()).encode(),
            "command": f"{exports}exec {shlex.join(argv)}\n".encode(),
            "bin/busybox": BUSYBOX.read_bytes(),
            **_modules(kernel),
            **{f"{folder}/.keep": b"" for folder in ("dev", "proc", "sys")},
        }
    )


def _modules(kernel: Kernel) -> dict[str, bytes]:
    """Files whose names sort in the order of loading."""
    texts = [(kernel.modules / name).read_text() for name in (modules.DEPENDENCIES, modules.BUILT_IN)]
    paths = modules.in_order(NEEDED, *texts)
    return {
        f"modules/{number:02}-{Path(path).name.removesuffix('.xz')}": modules.read(kernel.modules / path)
        for number, path in enumerate(paths)
    }
