"""`python -m tests.vm [--kernel 6.12] -- COMMAND...`: a command, or without one a shell, on another kernel.

The command runs as root in this checkout; its output and its exit status are those of
this program. 124: its time was up. 125: the VM could not be had, or died.
"""

import argparse
import ctypes
import os
import signal
import sys
from pathlib import Path
from types import FrameType

from meshfabric.model.errors import MeshfabricError
from tests.vm import kernels, machine, qemu
from tests.vm.qemu import Size

TIME_IS_UP, NO_VM = 124, 125  # as timeout(1) and env(1) have them
PASSED_ON = ("CI", "COLUMNS", "TERM")
OWN_VARIABLES = "MESHFABRIC_"
SHELL = ["bash", "-i"]
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_STOPPED = 128  # as a shell tells of a signal


def main() -> int:
    """The exit status of this program."""
    end_with_parent()
    given = _arguments()
    limit = given.timeout or (qemu.TIMEOUT_S if given.command else None)
    size = Size(given.memory, given.cpus, limit)
    try:
        release = kernels.find(given.kernel).release
        print(f"vm: Linux {release}, {size.cpus} CPUs, {size.memory_mib} MiB", file=sys.stderr, flush=True)
        if given.command:
            return machine.run(given.command, given.kernel, size=size, out=given.out, env=passed_on())
        return machine.shell(SHELL, given.kernel, size=size, out=given.out, env=passed_on())
    except machine.TimeIsUpError as error:
        print(f"vm: {error}", file=sys.stderr)
        return TIME_IS_UP
    except MeshfabricError as error:
        print(f"vm: {error}", file=sys.stderr)
        return NO_VM


def passed_on() -> dict[str, str]:
    """What the command is told of this process's environment."""
    return {
        name: value
        for name, value in os.environ.items()
        if name in PASSED_ON or name.startswith(OWN_VARIABLES)
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.vm", description=__doc__)
    parser.add_argument("--kernel", default=kernels.DEFAULT, help=f"one of {', '.join(kernels.NAMES)}")
    parser.add_argument("--memory", type=int, default=qemu.MEMORY_MIB, metavar="MIB")
    parser.add_argument("--cpus", type=int, default=qemu.CPUS, metavar="N")
    parser.add_argument("--timeout", type=float, metavar="S", help="from boot to end")
    parser.add_argument("--out", type=_folder, metavar="DIR", help="what the guest sees as /out, writable")
    parser.add_argument("command", nargs="*", metavar="COMMAND")
    return parser.parse_args()


def _folder(text: str) -> Path:
    path = Path(text).resolve()
    path.mkdir(parents=True, exist_ok=True)
    return path


def end_with_parent() -> None:
    """A CI job or a make that is killed takes the VM with it; so does ^C, also where a shell ignores it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _ended)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _ended(number: int, frame: FrameType | None) -> None:
    sys.exit(_STOPPED + number)


if __name__ == "__main__":
    sys.exit(main())
