"""What needs a kernel that this machine may not have: measured in one boot of a VM.

    .venv/bin/python -m bench.vm [--kernel 6.12] [--bench NAME]... [ROUNDS]

QEMU emulates the CPU, so figures mean nothing here and ratios do: both sides of each
run in the same VM, one after the other. Leaves `build/bench/vm-NAME.json`.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.rows import RESULTS
from meshfabric.model.errors import MeshfabricError
from tests.vm import kernels, machine
from tests.vm.qemu import Size

BENCHES = {"links": "{}", "throughput": "{}", "reroute": "--runs {}"}
"""How each is told the number of rounds."""
USUAL = ("links", "throughput")
TIMEOUT_S = 2400.0
NO_VM = 125  # as of tests.vm


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.vm", description=__doc__)
    parser.add_argument("--kernel", default=kernels.DEFAULT)
    parser.add_argument("--bench", action="append", choices=BENCHES, help=f"default: {', '.join(USUAL)}")
    parser.add_argument("rounds", nargs="?", type=int, default=5)
    given = parser.parse_args()
    try:
        print(f"Linux {kernels.find(given.kernel).release} in a VM: compare ratios only", flush=True)
        return _measure(given.kernel, given.bench or USUAL, given.rounds)
    except MeshfabricError as error:
        print(f"bench vm: {error}", file=sys.stderr)
        return NO_VM


def _measure(kernel: str, benches: Sequence[str], rounds: int) -> int:
    lines = [
        f'"{sys.executable}" -m bench.{name} {BENCHES[name].format(rounds)}'
        f" && cp build/bench/{name}.json /out/"
        for name in benches
    ]
    with tempfile.TemporaryDirectory(prefix="meshfabric-bench-") as out:
        command = [
            "sh",
            "-c",
            "rc=0; " + "; ".join(f"{{ {line}; }} || rc=1" for line in lines) + "; exit $rc",
        ]
        status = machine.run(command, kernel, size=Size(timeout_s=TIMEOUT_S), out=Path(out))
        RESULTS.mkdir(parents=True, exist_ok=True)
        for found in Path(out).glob("*.json"):
            (RESULTS / f"vm-{found.name}").write_bytes(found.read_bytes())
    return status


if __name__ == "__main__":
    sys.exit(main())
