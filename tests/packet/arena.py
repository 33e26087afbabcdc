"""A private place to run the programs in: a thread in network and mount namespaces of its own.

The thread's namespaces hold the devices and the bpffs; when the thread ends,
or the process dies, the kernel removes all of it. Test-run resolves an ifindex
in the calling thread's namespace, so whatever runs a program goes through `run`.
"""

import ctypes
import os
import platform
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import ParamSpec, TypeVar

from meshfabric.kernel import links, loader, netns

BPF_SOURCES = Path(__file__).parents[2] / "bpf"
OBJECTS = Path(__file__).parents[2] / "build" / "bpf"
PROGRAMS = ("workload", "overlay", "plain", "uplink", "token")
CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000
MS_REC, MS_PRIVATE = 0x4000, 1 << 18

P = ParamSpec("P")
T = TypeVar("T")

_libc = ctypes.CDLL(None, use_errno=True)


def _mount(source: bytes, target: bytes, kind: bytes, flags: int) -> None:
    if _libc.mount(source, target, kind, flags, None):
        raise OSError(ctypes.get_errno(), f"mount {kind.decode()} at {target.decode()}")


class Namespace:
    """A network namespace with nothing but its loopback: a pod, say."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="namespace", initializer=self._enter)
        self.run(links.set_up, "lo")

    def _enter(self) -> None:
        netns.leave_for(CLONE_NEWNET)

    @property
    def netns(self) -> Path:
        """Where others find it."""
        return Path(f"/proc/{os.getpid()}/task/{self.run(threading.get_native_id)}/ns/net")

    def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `function` in the namespace's thread."""
        return self._thread.submit(function, *args, **kwargs).result()

    def close(self) -> None:
        """End the thread, and with it the namespace."""
        self._thread.shutdown()


class Arena(Namespace):
    """One with a bpffs, and the ways to load and to make devices; use it in `with arena() as place`."""

    pins = Path(
        "/sys/fs/bpf"
    )  # in the thread's own mount namespace: what is mounted there is seen here alone

    def _enter(self) -> None:
        netns.leave_for(CLONE_NEWNET | CLONE_NEWNS)
        _mount(b"none", b"/", b"", MS_REC | MS_PRIVATE)
        _mount(b"bpf", bytes(self.pins), b"bpf", 0)

    def load(
        self, sizes: dict[str, int] | None = None, settings: dict[str, bytes] | None = None
    ) -> loader.Datapath:
        """The datapath's objects with maps of their own."""
        objects = [OBJECTS / f"{name}.bpf.o" for name in PROGRAMS]
        return self.run(loader.load, objects, self.pins, sizes, settings)

    def devices(self, names: list[str]) -> dict[str, int]:
        """Make them (TUN for tunnels, one end of a pair for the rest), up; name -> ifindex."""
        return {name: self.run(_make, name) for name in names}


def _make(name: str) -> int:
    if "wg" in name:
        links.ensure_tun(name)
    else:
        links.ensure_veth(name, f"{name}x")
        links.set_up(f"{name}x")
    links.set_up(name)
    link = links.find(name)
    assert link is not None
    return link.index


@contextmanager
def arena() -> Iterator[Arena]:
    """A fresh one, gone at the end."""
    place = Arena()
    try:
        yield place
    finally:
        place.close()


def build() -> None:
    """Bring the datapath's objects up to date."""
    subprocess.run(["make", "--silent", "-C", str(BPF_SOURCES)], check=True)


def compile_extra(source: Path, folder: Path) -> Path:
    """The object of a BPF program that is none of the datapath's but may include its headers."""
    target = folder / source.with_suffix(".o").name
    headers = [f"-I{BPF_SOURCES}/include", f"-I{BPF_SOURCES}/lib"]
    system = ["-idirafter", f"/usr/include/{platform.machine()}-linux-gnu"]
    flags = ["-target", "bpf", "-mcpu=v3", "-O2", "-g", "-fno-strict-aliasing", *headers, *system]
    subprocess.run(["clang-19", *flags, "-c", str(source), "-o", str(target)], check=True)
    return target
