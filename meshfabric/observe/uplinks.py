"""This node's uplinks as rows, whom only one of them leads to, and what passes beside the probes (pure)."""

from collections import Counter
from collections.abc import Container, Iterable, Mapping
from typing import NamedTuple

from meshfabric.compiler.probes import probe_ends
from meshfabric.model.addresses import is_ipv4
from meshfabric.model.world import World
from meshfabric.observe.rows import PathSeen, Row

PROBE_BYTES = {4: 112, 6: 128}
"""A probe in a tunnel: IP, UDP and 44 bytes (RFC 8762), filled up to 16 and in a message of 32 more."""


class Moved(NamedTuple):
    """Bytes over some tunnels between this node and another, those of probes taken off."""

    received: int
    sent: int


def uplink_rows(world: World, paths: list[PathSeen]) -> list[Row]:
    """One row an uplink, in the order of the agent's file, also one whose device is missing."""
    there = {uplink.slot: uplink for uplink in world.uplinks}
    up = Counter(path.pair.local for path in paths if path.answers)
    total = Counter(path.pair.local for path in paths)
    rows = []
    for slot, wanted in enumerate(world.settings.uplinks):
        found, link = there.get(slot), world.links.get(wanted.device)
        rows.append(
            {
                "uplink": wanted.name,
                "device": wanted.device,
                "segment": wanted.segment,
                "state": "missing" if link is None else "up" if link.up else "down",
                "relay": wanted.relay,
                "draining": found.draining if found else wanted.name in world.draining,
                "addresses": ", ".join(found.addresses) if found else "",
                "mtu": found.mtu if found else None,
                "cost": wanted.cost,
                "paths": f"{up[slot]}/{total[slot]} up",
                "carries": sorted({path.node for path in paths if path.active and path.pair.local == slot}),
            }
        )
    return rows


def only_by(paths: Iterable[PathSeen], slots: Container[int]) -> list[str]:
    """The nodes that these uplinks lead to, and no other that works and is to stay."""
    works = [path for path in paths if path.answers]
    by_it = {path.node for path in works if path.pair.local in slots}
    else_by = {path.node for path in works if path.pair.local not in slots and not path.pair.draining}
    return sorted(by_it - else_by)


def beside_probes(
    world: World, before: Iterable[PathSeen], after: Iterable[PathSeen], slots: Container[int]
) -> Mapping[str, Moved]:
    """By node, what moved over some uplinks' tunnels from one look to the other."""
    earlier = {(path.device, path.node): path for path in before}
    found: dict[str, Moved] = {}
    for path in after:
        then = earlier.get((path.device, path.node))
        if path.pair.local not in slots or then is None:
            continue
        moved, sum_ = _beside(world, then, path), found.get(path.node, Moved(0, 0))
        found[path.node] = Moved(sum_.received + moved.received, sum_.sent + moved.sent)
    return found


def _beside(world: World, then: PathSeen, now: PathSeen) -> Moved:
    ends = probe_ends(world, now.node)
    each = PROBE_BYTES[4 if ends and is_ipv4(ends[0]) else 6]
    reflected = now.state.reflected - then.state.reflected
    heard, asked = now.state.heard - then.state.heard, now.state.sent - then.state.sent
    received = now.rx_bytes - then.rx_bytes - each * (heard + reflected)
    sent = now.tx_bytes - then.tx_bytes - each * (asked + reflected)
    return Moved(max(received, 0), max(sent, 0))
