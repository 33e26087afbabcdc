"""How long one event takes in the compiler, and what a world of endpoints weighs.

    .venv/bin/python -m bench.compiler [ENDPOINTS] [NODES]

Times are of `REPEATS` different events of a sort, in ms, with the places that each
makes stale. Memory is in bytes for an endpoint, by tracemalloc and by the resident
set. At the end the plan must be the one that is compiled from nothing.

The rows `many policies` are of another world: `MANY_POLICIES` of all tiers over
`MANY_LABEL_SETS`, of which `MANY_SUBJECTS` are those of local workloads.
"""

import gc
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from ipaddress import ip_network
from pathlib import Path

from bench.rows import Goal, Row, at_most, report, row
from meshfabric.compiler.step import compile_plan, stale_places, step
from meshfabric.model.addresses import MAPPED, Address
from meshfabric.model.labels import Labels, make_labels
from meshfabric.model.node import Allocation, Endpoint, Link, NodeKind, NodeRecord, Tunnel, Uplink, Workload
from meshfabric.model.peertext import PeerText
from meshfabric.model.plan import Plan, Table
from meshfabric.model.policy import Policy
from meshfabric.model.policytext import (
    EgressText,
    IngressText,
    PolicyText,
    read_policy,
)
from meshfabric.model.settings import EtcdSettings, Settings, UplinkSettings
from meshfabric.model.versions import LANGUAGE
from meshfabric.model.world import Event, Kind, World

ENDPOINTS = 10_000
NODES = 100
LABEL_SETS = 500
POLICIES = 50
LOCAL_WORKLOADS = 20
UPLINKS = 2
REPEATS = 21
MANY_POLICIES = 10_000
MANY_LABEL_SETS = 5_000
MANY_SUBJECTS = 100
APART = 49  # subjects in all tiers and teams
FROM_NOTHING_MS, CHANGE_MS = 3000, 50  # to be had with many policies
MS = 1000
PAGE = 4096

SETTINGS = Settings(
    fabric="bench",
    node="node0",
    kind=NodeKind.METAL,
    etcd=EtcdSettings(("http://192.0.2.1:2379",)),
    uplinks=tuple(UplinkSettings(f"up{slot}", f"eth{slot}", f"segment{slot}") for slot in range(UPLINKS)),
)


def label_set(number: int) -> Labels:
    """One of many: an app of its own in one of ten tiers and five teams."""
    return make_labels(
        {
            "app": f"app{number}",
            "tier": f"tier{number % 10}",
            "team": f"team{number % 5}",
            "env": "prod",
        }
    )


def address(number: int) -> Address:
    """10.0.0.0/8, counted."""
    return MAPPED + (0x0A000000 + number).to_bytes(4, "big")


def endpoint(number: int, nodes: int, labels: int | None = None) -> Event:
    """An address on one of the other nodes."""
    kind = number % LABEL_SETS if labels is None else labels
    name = NAMES[1 + number % (nodes - 1)]
    return Event(Kind.ENDPOINT, address(number), Endpoint(name, f"shop/web-{number}", "pod", label_set(kind)))


def node(number: int, mtu: int = 1500) -> Event:
    """A node with its uplinks and every tunnel's key."""
    uplinks = tuple(
        Uplink(slot, f"up{slot}", f"segment{slot}", (f"198.{18 + slot}.{number >> 8}.{number & 255}",), mtu)
        for slot in range(UPLINKS)
    )
    tunnels = tuple(
        Tunnel(near, far, f"key{number}-{near}{far}=", 51820 + 8 * near + far)
        for near in range(UPLINKS)
        for far in range(UPLINKS)
    )
    return Event(Kind.NODE, NAMES[number], NodeRecord(NAMES[number], NodeKind.VM, {}, uplinks, tunnels))


def policy(number: int, port: int = 443) -> Policy:
    """A tier that may be reached by two others, and may reach its own."""
    return read_policy(
        PolicyText(
            f"policy{number}",
            f"tier=tier{number % 10}, app!=app{number}",
            [IngressText([f"team=team{number % 5}", f"app=app{number}"], [f"tcp/{port}", "udp/8000-8100"])],
            [EgressText([f"tier=tier{number % 10}"]), EgressText([f"team in (team{number % 5}, none)"])],
        )
    )


def one_of_many(number: int, port: int = 443) -> Policy:
    """About one app of many and ten others; each hundredth about a tier and a team."""
    app, tier, team = number % MANY_LABEL_SETS, number // 100 % 10, number // 100 % 5
    wide, admin = number % 100 == 0, number % 10 == 0
    near: list[PeerText] = [f"app=app{(app + 1 + turn) % MANY_LABEL_SETS}" for turn in range(10)]
    return read_policy(
        PolicyText(
            f"many{number}",
            f"tier=tier{tier}, team!=team{(team + 1) % 5}" if wide else f"app=app{app}",
            [
                IngressText(near[:5], [f"tcp/{port}", "udp/53"]),
                IngressText(
                    [f"team=team{team}"] if wide else near[5:],
                    ["tcp/22"] if wide else ["udp/8000-8100"],
                    "deny",
                ),
                IngressText([{"entity": "host"}], None, "pass" if admin else "allow"),
            ],
            [EgressText([f"tier=tier{tier}"], ["tcp"])] if number % 20 == 7 else None,
            min_version=LANGUAGE,
            tier="admin" if admin else "normal",
            priority=number % 1000 if admin else None,
        )
    )


def outside(number: int) -> Policy:
    """About one app that may speak with two prefixes, of which nobody else knows."""
    peers: list[PeerText] = [
        f"198.18.{number}.0/24",
        {"cidr": "192.0.2.0/24", "except": [f"192.0.2.{number}/32"]},
    ]
    rules = [EgressText(peers, ["tcp/443"])]
    return read_policy(
        PolicyText(f"outside{number}", f"app=app{number * APART}", None, rules, min_version=LANGUAGE)
    )


def local(number: int) -> Event:
    """A workload of this node."""
    name = f"shop/local-{number}" if number else SETTINGS.node
    kind = "pod" if number else "host"
    one = Workload(
        name, kind, label_set(number), (address((1 << 20) + number),), f"mfp{number}", "02:6d:66:01:00:01"
    )
    return Event(Kind.WORKLOAD, name, one)


def links() -> Iterator[Event]:
    """The devices of the uplinks, the tunnels and the workloads."""
    devices = [f"eth{slot}" for slot in range(UPLINKS)] + [
        f"mfp{number}" for number in range(LOCAL_WORKLOADS)
    ]
    devices += [f"mfwg{near}{far}" for near in range(UPLINKS) for far in range(UPLINKS)]
    for index, device in enumerate(devices, 1):
        yield link(device, index)


def link(device: str, index: int, mtu: int = 1500, host: int = 0) -> Event:
    """A device; uplinks have an address."""
    addresses = (f"198.{18 + int(device[-1])}.255.{host}/16",) if device.startswith("eth") else ()
    return Event(Kind.LINK, device, Link(device, index, "", mtu, True, addresses))


def events(endpoints: int, nodes: int) -> Iterator[Event]:
    """The whole world."""
    yield Event(Kind.PREFIXES, "", (ip_network("10.0.0.0/8"),))
    yield from links()
    yield from (node(number) for number in range(1, nodes))
    for number in range(1, len(NAMES)):
        block = ip_network(f"10.{64 + (number >> 8)}.{number & 255}.0/24")
        yield Event(Kind.ALLOCATION, NAMES[number], Allocation((block,), (MAPPED + block[1].packed,)))
    yield from (Event(Kind.POLICY, f"policy{number}", policy(number)) for number in range(POLICIES))
    yield from (local(number) for number in range(LOCAL_WORKLOADS))
    yield from (endpoint(number, nodes) for number in range(endpoints))


def resident() -> int:
    """Bytes of this process in memory (proc(5), statm)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def weigh(endpoints: int, nodes: int) -> tuple[World, Plan, list[Row]]:
    """A world and its plan, with the time and the memory that the endpoints in them take."""
    world, plan = World(SETTINGS), Plan()
    for event in events(LABEL_SETS, nodes):
        step(world, plan, event)
    more = [(number, nodes) for number in range(LABEL_SETS, endpoints)]
    gc.collect()
    before, start = resident(), time.perf_counter()
    for arguments in more:
        step(world, plan, endpoint(*arguments))
    took = (time.perf_counter() - start) * MS
    gc.collect()
    rows = [
        row("first sync by steps, an endpoint", [took / len(more)], "ms"),
        row("resident, an endpoint", [(resident() - before) / len(more)], "B"),
    ]
    return world, plan, rows


def traced(endpoints: int, nodes: int) -> Row:
    """World and plan, everything in them, by tracemalloc."""
    tracemalloc.start()
    world, plan = World(SETTINGS), Plan()
    for event in events(endpoints, nodes):
        step(world, plan, event)
    gc.collect()
    total = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return row("world and plan, traced, an endpoint", [total / endpoints], "B")


def measure(
    what: str, world: World, plan: Plan, make: Callable[[int], Event], goal: Goal | None = None
) -> Row:
    """`REPEATS` different events of a sort."""
    times = []
    for turn in range(REPEATS):
        event = make(turn)
        start = time.perf_counter()
        changes = step(world, plan, event)
        stale_places(world, changes)
        times.append((time.perf_counter() - start) * MS)
    return row(what, times, "ms", goal=goal)


def sorts(endpoints: int, nodes: int) -> Iterator[tuple[str, Callable[[int], Event]]]:
    """Every sort of event, in an order in which each finds what it needs."""
    yield "endpoint moves", lambda turn: endpoint(turn, nodes, labels=turn + 1)
    yield "endpoint comes", lambda turn: endpoint(endpoints + turn, nodes)
    yield "endpoint goes", lambda turn: Event(Kind.ENDPOINT, address(endpoints + turn))
    yield "new label set", lambda turn: endpoint(turn, nodes, LABEL_SETS + turn)
    yield "node, same uplinks", lambda turn: node(1 + turn)
    yield "node, tighter", lambda turn: node(1 + turn, 1400 - turn)
    yield "node comes", lambda turn: node(nodes + turn)
    yield "node goes", lambda turn: Event(Kind.NODE, NAMES[nodes + turn])
    yield "node revoked", lambda turn: Event(Kind.REVOKED, NAMES[1 + turn], True)
    yield "policy changes", policy_event
    yield "policy goes", lambda turn: Event(Kind.POLICY, f"policy{turn}")
    yield "workload goes", lambda turn: Event(Kind.WORKLOAD, f"shop/local-{1 + turn % 10}")
    yield "workload comes", lambda turn: local(1 + turn % 10)
    yield "tunnel device", lambda turn: link("mfwg11", 900 + turn)
    yield "uplink, other MTU", lambda turn: link("eth1", 2, 1300 + turn)
    yield "uplink, other address", lambda turn: link("eth1", 2, 1300, 1 + turn)


def run(endpoints: int, nodes: int) -> None:
    """All figures of one size."""
    world, plan, rows = weigh(endpoints, nodes)
    start = time.perf_counter()
    whole = compile_plan(world)
    rows.append(row("everything from nothing", [(time.perf_counter() - start) * MS], "ms"))
    assert whole == plan
    rows += [measure(what, world, plan, make) for what, make in sorts(endpoints, nodes)]
    assert compile_plan(world) == plan
    del world, plan, whole
    report("compiler", [*rows, *many_policies(nodes), traced(endpoints, nodes)])


def crowded(policies: Iterable[Policy], label_sets: int, nodes: int) -> World:
    """Policies over many label sets; some of those are of local workloads, the host's among them."""
    world = World(SETTINGS)
    for number in range(label_sets):
        world.apply(endpoint(number, nodes, number))
    for one in policies:
        world.apply(Event(Kind.POLICY, one.name, one))
    for number in range(0, min(MANY_SUBJECTS * APART, label_sets), APART):
        world.apply(local(number))
    return world


def many_policies(nodes: int) -> list[Row]:
    """Everything from nothing, and one change of several sorts."""
    policies = list(map(one_of_many, range(MANY_POLICIES)))
    start = time.perf_counter()
    world = crowded(policies, MANY_LABEL_SETS, nodes)
    plan = compile_plan(world)
    took = (time.perf_counter() - start) * MS
    entries = sum(1 for _ in plan.entries(Table.POLICY))
    name = f"many policies: from nothing to {entries} entries"
    rows = [row(name, [took], "ms", goal=at_most(FROM_NOTHING_MS))]
    rows += [
        measure(f"many policies: {what}", world, plan, make, at_most(CHANGE_MS))
        for what, make in many_sorts(nodes)
    ]
    assert compile_plan(world) == plan
    return rows


def many_sorts(nodes: int) -> Iterator[tuple[str, Callable[[int], Event]]]:
    """Changes in a world of many policies."""

    def changed(number: int, port: int) -> Event:
        return Event(Kind.POLICY, f"many{number}", one_of_many(number, port))

    yield "a narrow one changes", lambda turn: changed((1 + turn) * APART, 1000 + turn)
    yield "a wide one changes", lambda turn: changed(100 * turn, 1000 + turn)
    yield "a wide one goes", lambda turn: Event(Kind.POLICY, f"many{100 * turn}")
    yield "a wide one comes", lambda turn: changed(100 * turn, 443)
    yield "a network comes", lambda turn: Event(Kind.POLICY, f"outside{turn}", outside(turn))
    yield "a network goes", lambda turn: Event(Kind.POLICY, f"outside{turn}")
    yield "new label set", lambda turn: endpoint(turn, nodes, MANY_LABEL_SETS + turn)
    yield "subject goes", lambda turn: Event(Kind.WORKLOAD, f"shop/local-{(1 + turn) * APART}")
    yield "subject comes", lambda turn: local((1 + turn) * APART)


def policy_event(turn: int) -> Event:
    """One more port in a policy that was there."""
    return Event(Kind.POLICY, f"policy{turn % POLICIES}", policy(turn % POLICIES, 1000 + turn))


NAMES: list[str] = []


def main(arguments: list[str]) -> None:
    """Sizes from the command line, or the usual ones."""
    given = [int(argument) for argument in arguments]
    endpoints, nodes = (*given, *(ENDPOINTS, NODES)[len(given) :])[:2]
    NAMES.extend(f"node{number}" for number in range(nodes + REPEATS + 1))
    run(endpoints, nodes)


if __name__ == "__main__":
    main(sys.argv[1:])
