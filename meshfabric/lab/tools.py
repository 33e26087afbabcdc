"""Programs that a lab runs, and what a machine must have to raise one.

Owns where programs are looked for and the check before anything is made;
`kernel.features` owns what the agent needs of the kernel.
"""

import os
import shutil
import sys
from pathlib import Path

import meshfabric
from meshfabric.kernel import features
from meshfabric.model.errors import PermanentError, UnsupportedError

PACKAGES = {
    "sh": "dash",
    "sleep": "coreutils",
    "mount": "mount",
    "nsenter": "util-linux",
    "ip": "iproute2",
    "bridge": "iproute2",
    "tc": "iproute2",
    "etcd": "etcd-server",
}
"""The Debian package of every program that a lab calls."""
ETCD_VARIABLE = "MESHFABRIC_ETCD_BINARY"
"""Environment variable with the path of an etcd that is not in PATH."""
_OWN_VARIABLES = "MESHFABRIC_"
_CHECKOUT_TOOLS = ("build", "deb", "usr", "bin")
"""In a source checkout: where programs newer than the distribution's are unpacked."""
_ADMIN_FOLDERS = ("/usr/sbin", "/sbin")
_NAMESPACES = ("pid", "mnt", "net", "uts")


def search_path() -> str:
    """PATH for everything in a lab: our interpreter's folder, a checkout's tools, then the caller's."""
    checkout = Path(meshfabric.__file__).parents[1].joinpath(*_CHECKOUT_TOOLS)
    folders = [str(Path(sys.executable).parent), str(checkout) if checkout.is_dir() else ""]
    folders += os.environ.get("PATH", os.defpath).split(os.pathsep)
    return os.pathsep.join(dict.fromkeys(filter(None, [*folders, *_ADMIN_FOLDERS])))


def environment() -> dict[str, str]:
    """What long-lived processes of a lab see: little, so that two users' labs are alike."""
    own = {key: value for key, value in os.environ.items() if key.startswith(_OWN_VARIABLES)}
    return {**own, "PATH": search_path(), "LANG": "C.UTF-8", "HOME": "/root"}


def find(program: str) -> str:
    """The path of a program; `PermanentError` with the package that has it."""
    wanted = os.environ.get(ETCD_VARIABLE, program) if program == "etcd" else program
    found = shutil.which(wanted, path=search_path())
    if not found:
        package = PACKAGES.get(program)
        remedy = f"apt install {package}" if package else "is it in PATH?"
        raise PermanentError(f"{wanted} is not installed", remedy=remedy)
    return found


def check() -> None:
    """Raise the first reason why no lab can be raised here; nothing has been made by then."""
    if os.geteuid() != 0:
        raise PermanentError("a lab makes namespaces and devices", remedy="run it as root")
    for program in PACKAGES:
        find(program)
    for kind in _NAMESPACES:
        if not Path(f"/proc/self/ns/{kind}").exists():
            remedy = "use a kernel with CONFIG_NAMESPACES and all of its kinds"
            raise UnsupportedError(f"this kernel has no {kind} namespaces", remedy=remedy)
    wireguard = shutil.which("wireguard-go", path=search_path())
    features.require(features.probe(Path(wireguard) if wireguard else None))
