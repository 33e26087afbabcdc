"""What an agent weighs with many endpoints, and what one more event costs it.

    .venv/bin/python -m bench.memory [ENDPOINTS...]

A fresh agent for each size, with real maps (`stand`). Memory is read once it has
written its snapshot of the world, and again after the events. An event is an endpoint
whose labels change; they come one by one, each seen in the map before the next.
Its cost is CPU time of all of the agent's threads, net of what they use when nothing
happens; the snapshots of a changed world are in it, spread over the events.
"""

import asyncio
import time
from collections.abc import Awaitable
from pathlib import Path
from statistics import median

from bench import records
from bench.rows import Row, at_most, row
from bench.stand import Stand, run
from meshfabric.kernel.bpf import Map
from meshfabric.model.addresses import host_prefix
from meshfabric.model.tables import address_key
from meshfabric.store.client import Etcd

SIZES = (10, 1000, 10_000, 50_000)
RSS_GOALS_MB = {10_000: at_most(80), 50_000: at_most(120)}
EVENT_GOALS_MS = {50_000: at_most(5)}
ROUNDS = 6
EVENTS = 40
PAUSE_S = 0.05  # between events: the agent is to take each alone
IDLE_S = 2.0
POLL_S = 0.001
KIB, MB = 1024, 1e6
NS_PER_MS = 1e6


def memory_mb(pid: int) -> tuple[float, float]:
    """Resident and proportional set of a process (proc(5), smaps_rollup)."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    fields = {line.split()[0]: int(line.split()[1]) for line in lines}
    return fields["Rss:"] * KIB / MB, fields["Pss:"] * KIB / MB


def cpu_ms(pid: int) -> float:
    """CPU time of all threads that a process has (Documentation/scheduler/sched-stats.rst)."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / NS_PER_MS


async def change(etcd: Etcd, table: Map, number: int, labels: int) -> None:
    """Give an endpoint other labels, and return once the map says so."""
    key = address_key(host_prefix(records.address_of(number)))
    before = table.lookup(key)
    await etcd.put(*records.endpoint(number, labels))
    while table.lookup(key) == before:  # noqa: ASYNC110  # nobody tells us of a map
        await asyncio.sleep(POLL_S)


async def used(pid: int, work: Awaitable[None]) -> tuple[float, float]:
    """CPU time in ms that an agent uses while something is done, and how many seconds that takes."""
    before, begun = cpu_ms(pid), time.monotonic()
    await work
    return cpu_ms(pid) - before, time.monotonic() - begun


async def some_events(etcd: Etcd, table: Map, turn: int, endpoints: int) -> None:
    """One by one, with pauses."""
    for step in range(turn * EVENTS, (turn + 1) * EVENTS):
        number = step % endpoints
        await change(etcd, table, number, number + step + 1)
        await asyncio.sleep(PAUSE_S)


async def event_costs_ms(pid: int, etcd: Etcd, table: Map, endpoints: int) -> list[float]:
    """CPU time of an event, a value a round. What the agent does anyway is taken off as it usually is."""
    idle, busy = [], []
    for turn in range(ROUNDS):
        idle.append(await used(pid, asyncio.sleep(IDLE_S)))
        busy.append(await used(pid, some_events(etcd, table, turn, endpoints)))
    usual = median(spent / seconds for spent, seconds in idle)
    return [(spent - usual * seconds) / EVENTS for spent, seconds in busy]


async def measure(place: Stand, etcd: Etcd, endpoints: int) -> list[Row]:
    """All rows of one size."""
    await etcd.put_many(records.fabric(endpoints))
    place.forget()
    place.start_agent()
    place.wait_for(endpoints)
    place.wait_for_snapshot()
    rss, pss = memory_mb(place.pid)
    with place.addresses() as table:
        costs = await event_costs_ms(place.pid, etcd, table, endpoints)
    later, _ = memory_mb(place.pid)
    place.end_agent()
    name = f"{endpoints} endpoints"
    return [
        row(f"resident, {name}", [rss], "MB", goal=RSS_GOALS_MB.get(endpoints)),
        row(f"resident after {ROUNDS * EVENTS} events, {name}", [later], "MB"),
        row(f"proportional share, {name}", [pss], "MB"),
        row(f"CPU time of an event, {name}", costs, "ms", goal=EVENT_GOALS_MS.get(endpoints)),
    ]


if __name__ == "__main__":
    run("memory", measure, SIZES)
