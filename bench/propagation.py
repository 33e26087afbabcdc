"""How soon a change in etcd is in another node's datapath.

    .venv/bin/python -m bench.propagation [ENDPOINTS...]

A change is an endpoint that comes or goes; its time runs from before the `put` until the
agent's pinned map `addresses` says so, at random moments, so that whatever the agent
does now and then is met in its share. The map is read by a system call each
`POLL_S`, which is how exact the times are. The p99 is of each of some runs, so that one bad second of the
machine's does not make it. A relist is a first listing into empty
maps: from the agent's word that etcd's first page came until the last entry is there.
"""

import asyncio
import random
import time
from datetime import datetime

from bench import records
from bench.rows import Row, at_most, percentile, row
from bench.stand import Stand, has, run
from meshfabric.kernel.bpf import Map
from meshfabric.model.addresses import Address
from meshfabric.store.client import Etcd

SIZES = (10, 1000, 10_000, 50_000)
RUNS, CHANGES = 5, 150
MOST_PAUSE_S = 0.03
POLL_S = 0.0002
P99_GOALS_MS = {1000: at_most(20)}
RELISTS = 3
RELIST_GOALS_S = {10_000: at_most(1.5)}
LISTING = "store listing"
MS = 1000


async def change_ms(etcd: Etcd, table: Map, number: int, *, comes: bool) -> float:
    """Let an endpoint come or go; the time until the map says so."""
    key, value = records.endpoint(number)
    address = records.address_of(number)
    begun = time.perf_counter()
    writing = asyncio.ensure_future(etcd.put(key, value) if comes else etcd.delete(key))
    await _until(table, address, there=comes)
    took = time.perf_counter() - begun
    await writing
    return took * MS


async def some_changes_ms(etcd: Etcd, table: Map, endpoints: int) -> list[float]:
    """The times of `CHANGES`; in the end all is as it was."""
    times = []
    for turn in range(CHANGES):
        times.append(await change_ms(etcd, table, endpoints + turn // 2, comes=turn % 2 == 0))
        await asyncio.sleep(random.uniform(0, MOST_PAUSE_S))
    return times


async def relist_s(place: Stand, endpoints: int) -> float:
    """The time from the first page to the last entry of a new agent."""
    place.end_agent()
    place.forget()
    place.start_agent()
    last = max(range(endpoints), key=lambda number: records.endpoint(number)[0])  # etcd lists by key
    with place.addresses() as table:
        await _until(table, records.address_of(last), there=True)
        now = time.time()
        while sum(1 for _ in table.items()) < endpoints:  # should the order ever be another
            now = time.time()
    begun = next(line["time"] for line in place.events() if line.get("event") == LISTING)
    return now - datetime.fromisoformat(begun).timestamp()


async def _until(table: Map, address: Address, *, there: bool) -> None:
    while has(table, address) is not there:  # noqa: ASYNC110  # nobody tells us of a map
        await asyncio.sleep(POLL_S)


async def measure(place: Stand, etcd: Etcd, endpoints: int) -> list[Row]:
    """All rows of one size."""
    await etcd.put_many(records.fabric(endpoints))
    relists = [await relist_s(place, endpoints) for _ in range(RELISTS)]
    place.wait_for(endpoints)
    with place.addresses() as table:
        runs = [await some_changes_ms(etcd, table, endpoints) for _ in range(RUNS)]
    name, slowest = f"{endpoints} endpoints", [percentile(run, 99) for run in runs]
    return [
        row(f"put to map, {name}", [time for run in runs for time in run], "ms"),
        row(f"put to map, p99, {name}", slowest, "ms", goal=P99_GOALS_MS.get(endpoints)),
        row(f"relist into the maps, {name}", relists, "s", goal=RELIST_GOALS_S.get(endpoints)),
    ]


if __name__ == "__main__":
    run("propagation", measure, SIZES)
