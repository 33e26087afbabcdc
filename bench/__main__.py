"""Runs benches, one after the other, each as a program of its own.

    python -m bench            all of them, but those that take long
    python -m bench NAME...    these

Each prints a table and leaves `build/bench/NAME.json`; see `rows`. A bench that
breaks down is told, the others go on, and the exit status is 1.
"""

import subprocess
import sys
import time

BENCHES = {
    "datapath": "nanoseconds of each eBPF program for a packet",
    "throughput": "TCP through the fabric, over bare WireGuard, and in clear",
    "compiler": "milliseconds of an event in the compiler",
    "policies": "entries into the policy map, and policy diff",
    "propagation": "from a put in etcd to another node's maps",
    "memory": "what an agent weighs, and what an event costs it",
    "peers": "what many peers cost an idle agent",
    "swarm": "a thousand agents on one etcd",
    "soak": "false switches while TCP fills a tunnel and every CPU is wanted",
    "reroute": "outages when a segment fails, beside BIRD, FRR and babeld",
}
LONG = {"soak", "reroute"}
"""Only when they are named."""


def main(names: list[str]) -> int:
    """Run those named, or all; the exit status."""
    unknown = sorted(set(names) - BENCHES.keys())
    if unknown:
        print(f"no bench {', '.join(unknown)}: there is {', '.join(BENCHES)}", file=sys.stderr)
        return 2
    chosen = names or BENCHES.keys() - LONG
    failed = [name for name in BENCHES if name in chosen and not _succeeds(name)]
    for name in failed:
        print(f"bench {name} broke down", file=sys.stderr)
    return bool(failed)


def _succeeds(name: str) -> bool:
    print(f"\n{name}: {BENCHES[name]}", flush=True)
    begun = time.monotonic()
    done = subprocess.run([sys.executable, "-m", f"bench.{name}"], check=False)
    print(f"({time.monotonic() - begun:.0f} s)", flush=True)
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
