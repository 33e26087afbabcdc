"""What other policies would change on this fabric, and which flows of this node: `policy diff`.

The world belongs to the loop, so the loop only copies what is asked about: three
dicts of frozen values, a millisecond for 50,000 endpoints. Everything else is done
in a thread, with the flows read a slice at a time: the interpreter takes turns already
(`agent.main.TURN_S`), and slices of our own would have to be cut in mid-pair.

What no other thread gets a turn in is the garbage collector, which looks through all that is
there again and again while much is made: 0.1 s each time with 1,000 label sets. A comparison
makes no cycles, all of it goes by itself, and so the collector rests meanwhile. For that, and
so that impatience costs no more than one CPU, it is one comparison at a time.
"""

import asyncio
import gc
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from meshfabric.agent.expiry import wall_clock
from meshfabric.api.messages import Simulate
from meshfabric.compiler.imagined import Policies, applied
from meshfabric.compiler.outside import Surroundings, compare_outside
from meshfabric.compiler.parties import Holders, People, holders_of
from meshfabric.compiler.simulation import compare
from meshfabric.kernel.bpf import Map
from meshfabric.model.errors import InputError
from meshfabric.model.node import Workload
from meshfabric.model.policy import Policy
from meshfabric.model.policytext import read_policy
from meshfabric.model.world import World
from meshfabric.observe.changes import Effects
from meshfabric.observe.flows import living


class Copied(NamedTuple):
    """What the world knew at a moment, for another thread."""

    node: str
    endpoints: Holders
    workloads: Iterable[Workload]
    policies: Policies
    around: Surroundings


class Simulation:
    """Reads the world and the flows; writes nothing."""

    def __init__(self, world: World, flow_tables: Iterable[Map]) -> None:
        self._world, self._flow_tables = world, tuple(flow_tables)
        self._turn = asyncio.Lock()

    async def compare(self, request: Simulate) -> dict[str, Any]:
        """What would be, as `observe.changes` shows it; raises `InputError` for a bad document."""
        documents = _documents(request)
        async with self._turn:
            world = self._world
            workloads = list(world.workloads.values())
            around = Surroundings(world.apiservers.get("", ()), world.prefixes.get("", ()))
            copied = Copied(world.node, world.endpoints.copy(), workloads, world.policies.copy(), around)
            after = applied(copied.policies, documents, request.delete, wall_clock())
            with _collector_at_rest():
                told = await asyncio.to_thread(self._compare, copied, after)
        absent = sorted(set(request.delete) - copied.policies.keys())
        return {**told, "absent": absent}

    def _compare(self, copied: Copied, after: Policies) -> dict[str, Any]:
        holders = holders_of(copied.node, copied.endpoints, copied.workloads)
        people = People(holders.values())
        changes = compare(people, copied.policies, after)
        outside = compare_outside(people, copied.policies, after, copied.around)
        effects = Effects(people, holders, changes, outside)
        if changes or outside.changes:
            effects.take(living(self._entries(), time.monotonic_ns()))
        return effects.rows(copied.policies, after)

    def _entries(self) -> Iterator[tuple[bytes, bytes]]:
        for table in self._flow_tables:
            yield from table.items()


@contextmanager
def _collector_at_rest() -> Iterator[None]:
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _documents(request: Simulate) -> list[Policy]:
    documents = [read_policy(text, f"policy {text.name}") for text in request.policies]
    names = [*(one.name for one in documents), *request.delete]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"policy {twice[0]!r} is named twice", remedy="write or delete each once")
    return documents
