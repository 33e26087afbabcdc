"""What many policies cost outside of the compiler: entries into the map, and `policy diff`.

    .venv/bin/python -m bench.policies [LABEL_SETS]

Entries are those of the world `many policies` of `compiler`, written as the agent writes them
(`MapTables`), in changes to the map of the datapath: from nothing, all of them changed, and
taken out. A diff is of so many label sets with as many policies and a full table of flows, in
the agent's way: in a thread, while a loop beside it notes how late its timer is (and how late with
nothing beside it). `narrow` is a policy about one of them, `wide` one about all and everyone,
the dearest there is.
"""

import asyncio
import sys
import time
from collections.abc import Coroutine, Iterator
from statistics import median
from typing import Any

from bench import compiler
from bench.rows import Goal, Row, report, row
from meshfabric.agent.simulation import Simulation
from meshfabric.api.messages import Simulate
from meshfabric.compiler.step import compile_plan
from meshfabric.kernel.bpf import Map, MapType
from meshfabric.kernel.lane import Lane
from meshfabric.kernel.maps import MapTables
from meshfabric.model.plan import MAPS, Change, Table
from meshfabric.model.policytext import IngressText, PolicyText
from meshfabric.model.tables import FLOW, FLOW_KEY, POLICY_KEY, POLICY_VALUE
from meshfabric.model.versions import LANGUAGE

MAP_ENTRIES = 262_144
ROUNDS = 11
LABEL_SETS = 1000
NODES = 100
FLOWS = 131_072
TCP, PORT_BE = 6, (443).to_bytes(2, "big")
TICK_S = 0.001
WRITTEN_A_S = 200_000
ALONE_S = 2.0
MS = 1000
NOT_SWAPPED, REPLIED = 0, 1
AT_ONCE: list[PolicyText] = [
    PolicyText("narrow", "app=app7", [IngressText(["tier=tier3"], ["tcp/443"])]),
    PolicyText(
        "wide", "*", [IngressText(None, None, "deny")], min_version=LANGUAGE, tier="admin", priority=0
    ),
]


def entries() -> list[tuple[bytes, bytes]]:
    """Of the policy table in a world of many policies."""
    many = map(compiler.one_of_many, range(compiler.MANY_POLICIES))
    world = compiler.crowded(many, compiler.MANY_LABEL_SETS, NODES)
    return list(compile_plan(world).entries(Table.POLICY))


async def written(found: list[tuple[bytes, bytes]]) -> list[Row]:
    """Entries a second: into an empty map, over what is there, and out of it."""
    lane = Lane("bench")
    key, value = POLICY_KEY.size, POLICY_VALUE.size
    with Map.create(MapType.LPM_TRIE, key, value, MAP_ENTRIES, "bench_policy") as policy:
        tables = MapTables(dict.fromkeys((*(table.value for table in MAPS), "paths"), policy), lane)
        turned = [(name, bytes(reversed(kept))) for name, kept in found]
        stories = {
            "new": [Change(Table.POLICY, name, kept) for name, kept in found],
            "changed": [Change(Table.POLICY, name, kept) for name, kept in turned],
            "removed": [Change(Table.POLICY, name, None, kept) for name, kept in turned],
        }
        speeds: dict[str, list[float]] = {what: [] for what in stories}
        for _ in range(ROUNDS):
            for what, changes in stories.items():
                begun = time.perf_counter()
                await tables.apply(changes)
                speeds[what].append(len(changes) / (time.perf_counter() - begun))
        assert not list(policy.keys())
    lane.close()
    goal = Goal(WRITTEN_A_S, at_least=True)
    return [row(f"{len(found)} map entries, {what}", speeds[what], "1/s", goal=goal) for what in stories]


async def simulated(label_sets: int) -> list[Row]:
    """Seconds of a diff, and how late a timer is beside it."""
    world = compiler.crowded(map(compiler.one_of_many, range(label_sets)), label_sets, NODES)
    with Map.create(MapType.LRU_HASH, FLOW_KEY.size, FLOW.size, FLOWS, "bench_flows") as flows:
        flows.update_batch(conversations(label_sets))
        return await diffs(Simulation(world, [flows]), label_sets)


def conversations(label_sets: int) -> Iterator[tuple[bytes, bytes]]:
    """As many flows as the table takes, from everyone to the next."""
    value = FLOW.pack(time.monotonic_ns(), *[0] * 6, NOT_SWAPPED, REPLIED, *[0] * 4, bytes(2), bytes(16))
    for number in range(FLOWS):
        ends = compiler.address(number % label_sets), compiler.address((number + 1) % label_sets)
        low, high = sorted(ends)
        yield FLOW_KEY.pack(low, high, number.to_bytes(4, "big")[2:], PORT_BE, TCP), value


async def diffs(simulation: Simulation, label_sets: int) -> list[Row]:
    """Each of `AT_ONCE`."""
    _, alone, _ = await beside(asyncio.sleep(ALONE_S, {"changes_total": 0}))
    found = []
    for text in AT_ONCE:
        took, late, changes = await beside(simulation.compare(Simulate([text])))
        name = f"diff, {text.name}: {changes} changes among {label_sets} label sets and {FLOWS} flows"
        found += [
            row(name, [took], "s"),
            row(f"diff, {text.name}: a timer beside it is late", late, "ms", beside=[median(alone)]),
            row(f"diff, {text.name}: at worst", [max(late)], "ms", beside=[max(alone)]),
        ]
    return found


async def beside(work: Coroutine[Any, Any, dict[str, Any]]) -> tuple[float, list[float], int]:
    """Seconds that it took, how many ms each tick of a timer came late meanwhile, and how much was found."""
    late, begun = list[float](), time.perf_counter()
    task = asyncio.create_task(work)
    while not task.done():
        due = time.perf_counter() + TICK_S
        await asyncio.sleep(TICK_S)
        late.append((time.perf_counter() - due) * MS)
    return time.perf_counter() - begun, late, task.result()["changes_total"]


async def run(label_sets: int) -> None:
    """All rows."""
    report("policies", [*await written(entries()), *await simulated(label_sets)])


if __name__ == "__main__":
    compiler.NAMES.extend(f"node{number}" for number in range(NODES))
    from meshfabric.agent.main import TURN_S

    sys.setswitchinterval(TURN_S)
    asyncio.run(run(int(sys.argv[1]) if sys.argv[1:] else LABEL_SETS))
