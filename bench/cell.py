"""A place of a bench's own: namespaces for network, mounts and processes, gone with all in them at its end.

A bench that makes devices, maps or processes begins with `enclose()`. That runs
the same command again, as a child of process 1 of a new pid namespace:

    python -m bench.x -> unshare -> python -m bench.x (pid 1) -> etcd, agents, wireguard-go ...

Whoever is killed, the kernel ends what is below, and with it devices, mounts and
pins. `/run` and the bpffs are the cell's own; other folders are the machine's.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

BPFFS = Path("/sys/fs/bpf")
_INSIDE = "MESHFABRIC_BENCH_CELL"
_UNSHARE = ("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--")
_SETUP = """
mount -n -t tmpfs -o mode=0755 run /run
mkdir /run/wireguard
mount -n -t sysfs sysfs /sys
mount -n -t bpf bpf /sys/fs/bpf
ip link set lo up
"""


def enclose(bench: str) -> None:
    """Go on in a cell; `bench` names the module. Outside of it this does not return."""
    if os.environ.get(_INSIDE):
        subprocess.run(["sh", "-euc", _SETUP], check=True)
        del os.environ[_INSIDE]
        # Process 1 has no default action for it (pid_namespaces(7)): it ends us in order, as Ctrl-C does.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        return
    if os.geteuid() != 0:
        sys.exit(f"bench {bench}: it makes namespaces and devices: run it as root")
    argv = [*_UNSHARE, sys.executable, "-m", f"bench.{bench}", *sys.argv[1:]]
    os.execvpe(argv[0], argv, {**os.environ, _INSIDE: "1"})
