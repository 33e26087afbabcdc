"""Many agents without a kernel in one process: run by `swarm`, told what to do by standard input.

    python -m bench.fleet ENDPOINT FIRST COUNT

Each is what `agent.main` composes between etcd and the kernel: client, watch, registry,
world, compiler, loop, lease and report. In the kernel's place are dictionaries. Answers, a
line of JSON each, with times of the machine's monotonic clock in seconds:

    start             begins it all
    connected         when each agent was last connected to etcd
    applied REVISION  when each had applied a revision; waits until all have
    memory            bytes of the process, proportional share
"""

import asyncio
import contextlib
import json
import resource
import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from ipaddress import ip_network
from pathlib import Path
from time import monotonic

from bench import crowd
from meshfabric.agent.presence import keep_reporting, stay_alive
from meshfabric.agent.sources import StoreSource
from meshfabric.compiler.workloads import HOST
from meshfabric.model.node import Link, NodeKind, Workload
from meshfabric.model.plan import Change, Key, Table, Value
from meshfabric.model.settings import EtcdSettings, Settings, UplinkSettings
from meshfabric.model.world import Event, Kind, World
from meshfabric.observe.events import Events
from meshfabric.reconcile.loop import Loop
from meshfabric.store.client import Etcd
from meshfabric.store.registry import Registry, endpoint_labels
from meshfabric.store.settings import Settings as StoreSettings

POLL_S = 0.05
TIMEOUT_S = 60.0  # an answer of etcd waits here until a hundred others have had their turn
LEASE_S = 600
"""A thousand agents with a quarter of a thousandth of a machine each would lose leases of the usual length
while they hear of each other, and each loss is a change for all, which would go on for ever."""
KIB = 1024


class Dictionaries:
    """A target that remembers what was written, and nothing else."""

    tables = tuple(Table)

    def __init__(self) -> None:
        self._entries: dict[Table, dict[Key, Value]] = {table: {} for table in Table}

    async def observe(self, table: Table) -> Iterable[tuple[Key, Value]]:
        """What was written."""
        return list(self._entries[table].items())

    async def apply(self, changes: Sequence[Change]) -> None:
        """Write and delete."""
        for change in changes:
            if change.value is None:
                self._entries[change.table].pop(change.key, None)
            else:
                self._entries[change.table][change.key] = change.value

    async def bump(self, places: set[int]) -> None:
        """There are no flows."""


class Journal(Events):
    """Keeps when the store was found again; says nothing on standard error."""

    def __init__(self) -> None:
        super().__init__()
        self.connected = 0.0

    def note(self, name: str, detail: str = "") -> None:
        """Only this one is of interest."""
        if name == "store connected":
            self.connected = monotonic()


class Agent:
    """One of them; `applied` are the revisions that it came to, with their times."""

    def __init__(self, endpoint: str, number: int) -> None:
        name = crowd.name_of(number)
        uplink = UplinkSettings("up0", "eth0", crowd.SEGMENT)
        world = World(Settings(crowd.FABRIC, name, NodeKind.METAL, EtcdSettings((endpoint,)), (uplink,)))
        kernel = Dictionaries()
        self.journal = Journal()
        self.applied: list[tuple[int, float]] = []
        self._loop = Loop(world, [kernel], kernel)
        self._loop.feed(_own_things(number))
        self._etcd = Etcd(StoreSettings((endpoint,), timeout_s=TIMEOUT_S))
        self._registry = Registry(crowd.FABRIC)
        self._source = StoreSource(self._etcd, crowd.FABRIC, self._registry, self._loop, self.journal)
        self._loop.on_applied = self._after_round
        self._listed = asyncio.Event()
        self._running: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Run in the background, as long as the process does."""
        parts = (
            self._loop.run(),
            self._source.run(),
            self._stay_alive(),
            keep_reporting(self._etcd, self._source, self._registry, self._loop),
        )
        self._running = [asyncio.create_task(part) for part in parts]

    async def _stay_alive(self) -> None:
        """Not before the first listing is done: here a hundred of them hold each other up."""
        await self._listed.wait()
        await stay_alive(self._etcd, crowd.FABRIC, self._loop.world.node, LEASE_S)

    def when(self, revision: int) -> float | None:
        """When it had applied this revision, if it has."""
        return next((time for reached, time in self.applied if reached >= revision), None)

    def _after_round(self) -> None:
        if self._source.listed:
            self._loop.sync()
            self._listed.set()
        position = self._source.position
        if position and (not self.applied or self.applied[-1][0] < position.revision):
            self.applied.append((position.revision, monotonic()))


def _own_things(number: int) -> list[Event]:
    """The devices and the host of a node, as the kernel's side would tell of them."""
    name, block = crowd.name_of(number), ip_network(crowd.block_of(number))
    links = [
        Link("eth0", 2, "", crowd.MTU, True, (f"{crowd.underlay_of(number)}/15",)),
        Link("mfwg00", 3, "", crowd.MTU, True),
        Link("mfhost1", 4, "", crowd.MTU, True),
    ]
    labels = endpoint_labels(HOST, name, {})
    host = Workload(name, HOST, labels, (crowd.address_in(block),), "mfhost1", "02:6d:66:01:00:01")
    return [
        *(Event(Kind.LINK, link.name, link) for link in links),
        Event(Kind.KEY, "mfwg00", crowd.public_key(number)),
        Event(Kind.WORKLOAD, name, host),
    ]


async def start(agents: list[Agent], _: str) -> list[float]:
    """See the module."""
    for agent in agents:
        agent.start()
    return []


async def connected(agents: list[Agent], _: str) -> list[float]:
    """See the module."""
    return [agent.journal.connected for agent in agents]


async def applied(agents: list[Agent], revision: str) -> list[float]:
    """See the module."""
    times: list[float] = []
    while len(times) < len(agents):
        await asyncio.sleep(POLL_S)
        times = [time for agent in agents if (time := agent.when(int(revision))) is not None]
    return times


async def memory(agents: list[Agent], _: str) -> list[float]:
    """See the module."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return [int(line.split()[1]) * KIB for line in lines if line.startswith("Pss:")]


ANSWERS: dict[str, Callable[[list[Agent], str], Awaitable[list[float]]]] = {
    "start": start,
    "connected": connected,
    "applied": applied,
    "memory": memory,
}


async def run(endpoint: str, first: int, count: int) -> None:
    """Start all, and answer until standard input ends."""
    [before] = await memory([], "")
    agents = [Agent(endpoint, number) for number in range(first, first + count)]
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    print(json.dumps([before]), flush=True)
    while line := await reader.readline():
        name, _, argument = line.decode().strip().partition(" ")
        print(json.dumps(await ANSWERS[name](agents, argument)), flush=True)


def main(arguments: list[str]) -> None:
    """See the module."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    endpoint, first, count = arguments
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(run(endpoint, int(first), int(count)))


if __name__ == "__main__":
    main(sys.argv[1:])
