"""The kernels that deploy/dev/vm.sh unpacked: build/kernels/NAME holds vmlinuz, lib/modules and `version`."""

from pathlib import Path
from typing import NamedTuple

from meshfabric.model.errors import PermanentError

CHECKOUT = Path(__file__).parents[2]
UNPACKED = CHECKOUT / "build" / "kernels"
NAMES = ("6.1", "6.12", "newest")
DEFAULT = "6.12"


class Kernel(NamedTuple):
    """`release` is what `uname -r` says; `image` and the folder `modules` are on this machine."""

    name: str
    release: str
    image: Path
    modules: Path


def find(name: str, unpacked: Path = UNPACKED) -> Kernel:
    """A kernel by its name in the matrix; PermanentError when it is not there."""
    if name not in NAMES:
        raise PermanentError(f"no kernel {name}", remedy=f"choose of {', '.join(NAMES)}")
    stamp = unpacked / name / "version"
    if not stamp.exists():
        raise PermanentError(f"kernel {name} is not unpacked", remedy=f"as root: deploy/dev/vm.sh {name}")
    release = stamp.read_text().strip()
    return Kernel(name, release, stamp.with_name("vmlinuz"), stamp.parent / "lib/modules" / release)
