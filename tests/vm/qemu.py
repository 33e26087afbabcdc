"""The command line of QEMU: a machine emulated in software, which works wherever tests run.

It is the one that deploy/dev/vm.sh unpacked, else the machine's own.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from meshfabric.model.errors import PermanentError
from tests.vm.kernels import CHECKOUT, Kernel

UNPACKED = CHECKOUT / "build" / "qemu" / "usr"
NAME = "qemu-system-x86_64"
DATA = ("qemu", "seabios")
"""The folders of its firmware, beneath share/."""
STDOUT, STDERR, STATUS, CONSOLE = "stdout", "stderr", "status", "console"
PORTS = (STDOUT, STDERR, STATUS)
MEMORY_MIB, CPUS, TIMEOUT_S = 2048, 2, 1800.0

# QEMU 7.2 corrupts flags on cmpxchg16b; emulating AVX2, which "max" would bring, makes WireGuard
# 4 to 6 times slower.
CPU = "qemu64,-cx16"
# The emulated CPU leaks nothing, so mitigations would only cost time. Its clock does not drift, but on
# a busy machine the kernel believes so. Newer kernels do not wait for a panic to be read.
ARGUMENTS = "console=ttyS0 loglevel=5 panic=-1 mitigations=off tsc=reliable"


class Size(NamedTuple):
    """What a VM gets; `timeout_s` is from boot to end, None for as long as it takes."""

    memory_mib: int = MEMORY_MIB
    cpus: int = CPUS
    timeout_s: float | None = TIMEOUT_S


def command_line(
    kernel: Kernel, size: Size, initramfs: int, ports: Mapping[str, int], out: Path | None
) -> list[str]:
    """`initramfs` and `ports` are file descriptors; without a CONSOLE among these it is this terminal.

    QEMU ends when the thread ends that started it, whatever ended that (prctl(2), PR_SET_PDEATHSIG).
    """
    line = ["setpriv", "--pdeathsig=KILL", *program(), "-nodefaults", "-no-user-config", "-no-reboot"]
    line += ["-display", "none", "-nic", "none", "-machine", "pc", "-accel", "tcg,thread=multi", "-cpu", CPU]
    line += ["-smp", str(size.cpus), "-m", str(size.memory_mib)]
    line += ["-kernel", str(kernel.image), "-initrd", f"/proc/self/fd/{initramfs}", "-append", ARGUMENTS]
    line += _share("host", Path("/"), "on") + (_share("out", out, "off") if out else [])
    line += ["-device", "virtio-serial-pci", "-serial", f"chardev:{CONSOLE}"]
    if CONSOLE not in ports:
        line += ["-chardev", f"stdio,id={CONSOLE},signal=off"]
    for name, number in ports.items():
        line += ["-chardev", f"socket,id={name},fd={number}"]
        if name in PORTS:
            line += ["-device", f"virtserialport,chardev={name},name={name}"]
    return line


def program(unpacked: Path = UNPACKED) -> list[str]:
    """QEMU and where its firmware is; raises PermanentError."""
    if unpacked.exists():
        firmware = [option for folder in DATA for option in ("-L", str(unpacked / "share" / folder))]
        return [str(unpacked / "bin" / NAME), *firmware]
    if found := shutil.which(NAME):
        return [found]
    raise PermanentError(f"{NAME} is not installed", remedy="as root: deploy/dev/vm.sh")


def _share(tag: str, folder: Path, readonly: str) -> list[str]:
    told = f"local,path={folder},mount_tag={tag},security_model=none,multidevs=remap,readonly={readonly}"
    return ["-virtfs", told]
