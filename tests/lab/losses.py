"""Where a lab's packets ended that did not arrive: every counter that there is, before and after.

Of each node the datapath's drops by reason, and of each namespace what its devices and its
protocols gave up. Counters are read from outside: no process of a lab is needed.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from meshfabric.kernel.bpf import Map
from meshfabric.lab.state import Lab
from meshfabric.model.errors import MeshfabricError
from meshfabric.model.tables import DROPS, number, read_counter
from tests.lab.kernel import pins
from tests.lab.whole import names

Counts = Counter[tuple[str, str]]
"""By node, or `cpu N` of the machine, and what counts there."""

DEVICE = {"in dropped": 3, "out dropped": 11, "in error": 2, "out error": 10}
"""Fields of a line of /proc/net/dev, behind the name."""
TROUBLE = ("Error", "Drop", "Discard", "Overflow", "NoRoute", "Fail", "Prune", "Lost", "Timeout")
SOFTNET_DROPPED = 1


def counted(lab: Lab) -> Counts:
    """All counters that tell of trouble, as they are now."""
    found: Counts = Counter()
    for node in names(lab):
        found.update({(node, what): count for what, count in _of_node(lab, node)})
    for cpu, line in enumerate(Path("/proc/net/softnet_stat").read_text().splitlines()):
        fields = [int(field, 16) for field in line.split()]
        found[f"cpu {cpu}", "backlog dropped"] = fields[SOFTNET_DROPPED]
    return found


def _of_node(lab: Lab, node: str) -> Iterator[tuple[str, int]]:
    yield from _datapath(pins(lab, node) / "maps" / "reasons")
    net = Path(f"/proc/{lab.node(node).pid}/net")
    yield from _devices(net / "dev")
    yield from _protocols(
        (net / "netstat").read_text().splitlines() + (net / "snmp").read_text().splitlines()
    )
    for line in (net / "snmp6").read_text().splitlines():
        name, count = line.split()
        if any(word in name for word in TROUBLE):
            yield name, int(count)


def _datapath(path: Path) -> Iterator[tuple[str, int]]:
    """Nothing where the agent has not begun yet."""
    try:
        with Map.open(path) as reasons:
            for reason in DROPS:
                yield reason.name.lower(), read_counter(reasons.percpu(number(reason)))[0]
    except MeshfabricError:
        return


def _devices(path: Path) -> Iterator[tuple[str, int]]:
    for line in path.read_text().splitlines()[2:]:
        name, _, rest = line.partition(":")
        fields = list(map(int, rest.split()))
        for what, at in DEVICE.items():
            yield f"{name.strip()} {what}", fields[at]


def _protocols(lines: list[str]) -> Iterator[tuple[str, int]]:
    """Pairs of lines: names, and below them numbers."""
    for heads, counts in zip(lines[::2], lines[1::2], strict=True):
        for name, count in zip(heads.split()[1:], counts.split()[1:], strict=True):
            if any(word in name for word in TROUBLE):
                yield f"{heads.split()[0]}{name}", int(count)
