"""What a node has in its kernel, seen from outside: pinned maps and links, devices, WireGuard's processes."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from meshfabric.kernel import netns
from meshfabric.kernel.attach import attached, pinned_at
from meshfabric.kernel.bpf import Link, LinkInfo
from meshfabric.kernel.bpf_map import Map
from meshfabric.lab.process import run
from meshfabric.lab.state import Lab
from meshfabric.lab.underlay import shown_by
from tests.lab.places import namespace

OURS = "mf"


class Kept(NamedTuple):
    """Everything that outlives an agent, by name: ids of the kernel, indexes, process ids."""

    maps: dict[str, int]
    links: dict[str, tuple[int, int]]
    devices: dict[str, int]
    tunnels: str


def kept(lab: Lab, node: str) -> Kept:
    """What a node has now; two that are equal mean that nothing was made anew."""
    maps = pins(lab, node) / "maps"
    return Kept(
        {path.name: _map_id(path) for path in sorted(maps.iterdir())},
        {name: (info.id, info.ifindex) for name, info in hanging(lab, node).items()},
        devices(lab, node),
        run(lab.node(node), ["sh", "-c", "pidof wireguard-go; wg show all public-key"]),
    )


def pins(lab: Lab, node: str) -> Path:
    """The folder of a node's pins, in its own bpffs."""
    return Path(f"/proc/{lab.node(node).pid}/root/sys/fs/bpf") / lab.topology.fabric


def hanging(lab: Lab, node: str) -> dict[str, LinkInfo]:
    """What hangs on a node's devices, by the name of its pin."""
    return netns.run(namespace(lab, node), attached, pins(lab, node) / "links")


def take_off(lab: Lab, node: str, name: str) -> None:
    """End what hangs there as somebody else may who knows nothing of pins."""
    path = pins(lab, node) / "links" / name
    if hanging(lab, node)[name].id:
        with Link.open(path) as link:
            link.detach()
    else:
        device, direction = pinned_at(name)
        run(lab.node(node), ["tc", "filter", "del", "dev", device, direction.name.lower()])


def opened_map(lab: Lab, node: str, name: str) -> Map:
    """A handle to a map of a node's datapath."""
    return Map.open(pins(lab, node) / "maps" / name)


def devices(lab: Lab, node: str) -> dict[str, int]:
    """Our devices on a node, with their indexes."""
    rows = shown_by(lab.node(node), ["ip", "-j", "link", "show"])
    return {
        str(row["ifname"]): int(str(row["ifindex"])) for row in rows if str(row["ifname"]).startswith(OURS)
    }


def numbers(lab: Lab, node: str) -> dict[str, Any]:
    """The numbers that a node has given out, as it wrote them down."""
    text = (lab.node_folder(node) / "state" / "numbers.json").read_text()
    found: dict[str, Any] = json.loads(text)
    return found


def _map_id(path: Path) -> int:
    with Map.open(path) as one:
        return int(one.id)
