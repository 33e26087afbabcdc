"""What the agent knows, as the rows that people and programs are shown.

Pure: world and readings in, JSON values out.
The names of the columns are public; see docs/cli.md.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from meshfabric.compiler.cells import BASELINE
from meshfabric.compiler.paths import Pair, joined, path_mtu, tunnel_devices
from meshfabric.compiler.plain import clear_nodes
from meshfabric.compiler.policies import concerned
from meshfabric.model.addresses import format_address
from meshfabric.model.dscp import format_dscp
from meshfabric.model.labels import format_labels, format_selector
from meshfabric.model.node import NodeRecord, Uplink
from meshfabric.model.policy import Action, Policy, Rule, format_expiry, format_rule, format_tier
from meshfabric.model.ports import format_ports
from meshfabric.model.qos import Match, TrafficClass, all_classes, base_class, in_order, selects
from meshfabric.model.tables import DROPS, PathState, Reason
from meshfabric.model.world import World
from meshfabric.observe.reasons import MEANING

Row = dict[str, Any]
US_PER_MS = 1000
NS_PER_MS = 1_000_000


class PathSeen(NamedTuple):
    """One tunnel to one node, at a moment: the datapath's state and WireGuard's, None where unknown."""

    node: str
    pair: Pair
    device: str
    generation: int | None  # of its keys; None: it does not encrypt
    state: PathState
    health: str
    active: bool
    handshake_s: int | None
    rx_bytes: int
    tx_bytes: int
    held_s: float = 0.0
    loss_percent: float = 0.0

    @property
    def answers(self) -> bool:
        """Whether packets get through, well or not."""
        return self.health not in ("new", "down")


def node_rows(world: World, paths: list[PathSeen]) -> list[Row]:
    """One row a node, this one too."""
    up = Counter(path.node for path in paths if path.answers)
    total = Counter(path.node for path in paths)
    return [
        _node_row(world, name, record, up[name], total[name]) for name, record in sorted(world.nodes.items())
    ]


def _node_row(world: World, name: str, record: NodeRecord, up: int, total: int) -> Row:
    allocation = world.allocations.get(name)
    own = name == world.node
    return {
        "node": name,
        "kind": record.kind.value,
        "alive": name in world.alive,
        "addresses": ", ".join(map(format_address, allocation.addresses)) if allocation else "",
        "blocks": ", ".join(map(str, allocation.blocks)) if allocation else "",
        "uplinks": ", ".join(map(_uplink, record.uplinks)),
        "paths": "this node" if own else "revoked" if name in world.revoked else f"{up}/{total} up",
        "wireguard": record.wireguard,
        "version": record.agent,
    }


def _uplink(uplink: Uplink) -> str:
    relay = f" by {uplink.relay}" if uplink.relay else ""
    draining = " (draining)" if uplink.draining else ""
    return f"{uplink.name}@{uplink.segment} {' '.join(uplink.addresses)}{relay}{draining}"


def endpoint_rows(world: World) -> list[Row]:
    """One row an address in force, by node and workload."""
    rows = [
        {
            "address": format_address(address),
            "workload": endpoint.workload,
            "kind": endpoint.kind,
            "node": endpoint.node,
            "labels": format_labels(endpoint.labels),
            "identity": world.identity(endpoint.labels),
            "local": endpoint.node == world.node,
        }
        for address, endpoint in world.endpoints.items()
        if endpoint.node not in world.revoked
    ]
    return sorted(rows, key=lambda row: (row["node"], row["workload"], row["address"]))


def path_rows(world: World, paths: list[PathSeen], reasons: list[str]) -> list[Row]:
    """One row a tunnel, by node, the preferred one first; `reasons` why each is taken or not."""
    return [_path_row(world, path, why) for path, why in zip(paths, reasons, strict=True)]


def _path_row(world: World, path: PathSeen, why: str) -> Row:
    uplink = world.settings.uplinks[path.pair.local]
    remote = next(far for far in world.nodes[path.node].uplinks if far.slot == path.pair.remote)
    return {
        "node": path.node,
        "device": path.device,
        "local": uplink.name,
        "remote": remote.name,
        "segment": uplink.segment,
        "relay": path.pair.relay,
        "endpoint": path.pair.destination,
        "encryption": "off" if path.generation is None else "on",
        "generation": path.generation,
        "state": path.health,
        "active": path.active,
        "held_s": path.held_s,
        "why": why,
        "mtu": path_mtu(world, path.device, path.node),
        "rtt_ms": path.state.rtt_us / US_PER_MS if path.state.heard else None,
        "jitter_out_ms": path.state.jitter_out_ns / NS_PER_MS if path.state.heard else None,
        "jitter_back_ms": path.state.jitter_back_ns / NS_PER_MS if path.state.heard else None,
        "loss_percent": path.loss_percent if path.state.heard else None,
        "sent": path.state.sent,
        "heard": path.state.heard,
        "lost_out": path.state.lost_out,
        "lost_back": path.state.lost_back,
        "flaps": path.state.flaps,
        "handshake_s": path.handshake_s,
        "rx_bytes": path.rx_bytes,
        "tx_bytes": path.tx_bytes,
    }


def encryption(world: World) -> dict[str, Any]:
    """Where packets to other nodes may go in clear: `off` has a row an uplink; the number of such nodes."""
    rows = []
    for slot, nodes in clear_nodes(world).items():
        uplink = world.settings.uplinks[slot]
        rows.append({"segment": uplink.segment, "uplink": uplink.name, "nodes": len(nodes)})
    return {"off": rows}


def key_rows(world: World, made_s: Mapping[str, float], now_s: float) -> list[Row]:
    """One row a key of this node's tunnels; `made_s` by device, in Unix time."""
    return [
        _key_row(world, generation, local, remote, device, peers.get(device, []), now_s - made_s[device])
        for generation in world.own_keys.generations
        for peers in (_peers_by_device(world, generation),)
        for local, remote, device in tunnel_devices(world, generation)
        if device in world.keys and device in made_s
    ]


def _peers_by_device(world: World, generation: int) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in sorted(world.nodes):
        for end in joined(world, name, generation):
            found.setdefault(end.device, []).append(name)
    return found


def _key_row(
    world: World, generation: int, local: int, remote: int, device: str, peers: list[str], age_s: float
) -> Row:
    return {
        "device": device,
        "local": world.settings.uplinks[local].name,
        "remote": remote,
        "generation": generation,
        "epoch": world.own_keys.epochs[generation],
        "taken": generation == world.own_keys.taken,
        "age_s": max(int(age_s), 0),
        "peers": peers,
        "moved": [name for name in peers if world.nodes[name].keyring.taken == generation],
        "public_key": world.keys[device],
    }


def policy_rows(world: World) -> list[Row]:
    """One row a rule, and what is allowed without any."""
    policies = [policy for _, policy in sorted(world.policies.items())]
    return [_baseline_row(world), *(row for policy in policies for row in _policy_rows(world, policy))]


def _baseline_row(world: World) -> Row:
    return {
        "policy": f"baseline:{BASELINE}",
        "tier": "built in",
        "select": "*",
        "direction": "ingress",
        "action": Action.ALLOW.value,
        "allows": "the workload's own node on anything",
        "expires": "",
        "selected": len(world.workloads),
    }


def _policy_rows(world: World, policy: Policy) -> Iterator[Row]:
    identities = concerned(world, policy)
    selected = sum(world.identity(workload.labels) in identities for workload in world.workloads.values())
    for direction in ("ingress", "egress"):
        for action, text, expires in _rule_texts(policy, direction):
            yield {
                "policy": policy.name,
                "tier": format_tier(policy),
                "select": format_selector(policy.select),
                "direction": direction,
                "action": action.value,
                "allows": text,
                "expires": format_expiry(expires),
                "selected": selected,
            }


def _rule_texts(policy: Policy, direction: str) -> list[tuple[Action, str, datetime | None]]:
    """Each rule of a direction, and what becomes of the rest where that is not to deny it."""
    rules: tuple[Rule, ...] | None = getattr(policy, direction)
    if rules is None:
        return []
    texts = [
        (rule.action, format_rule(rule), min(filter(None, (policy.expires, rule.expires)), default=None))
        for rule in rules
    ]
    if getattr(policy, f"{direction}_default") is Action.ALLOW:
        texts.append((Action.ALLOW, "anything else", policy.expires))
    return texts or [(Action.ALLOW, "nothing", policy.expires)]


def class_rows(world: World) -> list[Row]:
    """One row a class, built in or of a document, as they are asked about a packet; rates in bit/s.

    `selected` are the workloads of this node all or some of whose packets are in it.
    """
    classes = all_classes(world.classes)
    selected = Counter[str]()
    for labels, workloads in Counter(one.labels for one in world.workloads.values()).items():
        base = base_class(classes.values(), labels)
        partly = (one.name for one in classes.values() if one.matches and selects(one, labels))
        selected.update(dict.fromkeys((base, *partly), workloads))
    return [_class_row(world, one, selected[one.name]) for one in in_order(classes.values())]


def _class_row(world: World, one: TrafficClass, selected: int) -> Row:
    return {
        "class": one.name,
        "number": world.class_number(one.name),
        "origin": "document" if one.name in world.classes else "built in",
        "select": "" if one.select is None else format_selector(one.select),
        "match": [_format_match(match) for match in one.matches],
        "priority": one.priority,
        "dscp": one.dscp,
        "guaranteed": one.guaranteed or None,
        "max": one.most or None,
        "egress": one.egress or None,
        "ingress": one.ingress or None,
        "prefer": one.prefer.value,
        "rtt_ms": one.rtt_ms or None,
        "loss_percent": one.loss_percent or None,
        "congestion_control": one.tcp.congestion_control,
        "initial_window": one.tcp.initial_window or None,
        "window_clamp": one.tcp.window_clamp or None,
        "selected": selected,
    }


def _format_match(match: Match) -> str:
    """`tcp/443, udp/53`, `dscp ef`, or both."""
    ports = ", ".join(map(format_ports, match.ports or ()))
    dscp = ", ".join(map(format_dscp, match.dscp or ()))
    return " with ".join(filter(None, (ports, f"dscp {dscp}" if dscp else "")))


def drop_rows(counters: Mapping[Reason, tuple[int, int]]) -> list[Row]:
    """One row a reason to drop, those never met too."""
    return [
        {
            "reason": reason.name.lower(),
            "packets": counters.get(reason, (0, 0))[0],
            "bytes": counters.get(reason, (0, 0))[1],
            "meaning": MEANING[reason],
        }
        for reason in DROPS
    ]
