"""A thousand agents on one etcd: how soon all have a change, and how soon all are back after an outage.

    .venv/bin/python -m bench.swarm [AGENTS]

The agents have everything but a kernel (`fleet`), and run some to a process; each
knows all the nodes of the fabric (`crowd`). The first start of all at once is timed too.
etcd is killed and started again after some seconds; a change is written as soon as it
answers. Times are seconds until half of the agents, and the last one, had applied it.
"""

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

from bench import cell, crowd
from bench.rows import Row, report, row
from meshfabric.lab.tools import find
from meshfabric.model.errors import TemporaryError
from meshfabric.store.client import Etcd
from meshfabric.store.settings import Settings
from tests.etcd import CALM, Server

AGENTS = 1000
FLEETS = 8
TURNS = 5
OUTAGES = 2
OUTAGE_S = 4.0
SETTLE_POLL_S = 1.0
MB = 1e6


class Fleet:
    """A process of agents, asked by lines."""

    def __init__(self, endpoint: str, first: int, count: int, log: Path) -> None:
        argv = ["setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "bench.fleet"]
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                [*argv, endpoint, str(first), str(count)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self._log, self.count = log, count

    def ask(self, question: str) -> None:
        """Have something answered; many may be asked before the first answer is awaited."""
        assert self._process.stdin
        self._process.stdin.write(f"{question}\n")
        self._process.stdin.flush()

    def answer(self) -> list[float]:
        """To the question asked first."""
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a fleet ended: {self._log.read_text()[-2000:]}")
        found: list[float] = json.loads(line)
        return found

    def end(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.communicate()


@contextmanager
def fleets(endpoint: str, agents: int, folder: Path) -> Iterator[list[Fleet]]:
    """All agents, started at once."""
    share, more = divmod(agents, FLEETS)
    with ExitStack() as stack:
        started: list[Fleet] = []
        first = 0
        for number in range(FLEETS):
            count = share + (number < more)
            fleet = Fleet(endpoint, first, count, folder / f"fleet{number}.log")
            stack.callback(fleet.end)
            started.append(fleet)
            first += count
        yield started


def ask_all(started: list[Fleet], question: str) -> list[float]:
    """Every agent's answer."""
    for fleet in started:
        fleet.ask(question)
    return [value for fleet in started for value in fleet.answer()]


async def spread_of(started: list[Fleet], etcd: Etcd, item: tuple[bytes, bytes]) -> tuple[float, float]:
    """Write a record; seconds until half of all had applied it, and until the last had."""
    begun = time.monotonic()
    return await applied_after(started, await etcd.put(*item), begun)


async def applied_after(started: list[Fleet], revision: int, begun: float) -> tuple[float, float]:
    """Seconds until half of all agents had applied a revision, and until the last had."""
    times = [at - begun for at in await asyncio.to_thread(ask_all, started, f"applied {revision}")]
    return median(times), max(times)


async def settled(started: list[Fleet], etcd: Etcd, begun: float) -> float:
    """Seconds until every agent had what all the others wrote of themselves when they started.

    That is each one's record to each other one, and etcd may not find the time to answer meanwhile.
    """
    while True:
        try:
            revision = await etcd.put(*crowd.policy(0))
        except TemporaryError:
            await asyncio.sleep(SETTLE_POLL_S)
        else:
            return (await applied_after(started, revision, begun))[1]


async def outage(started: list[Fleet], server: Server, etcd: Etcd, turn: int) -> tuple[float, float, float]:
    """Kill etcd, start it again, write; seconds from its first answer until half of the agents had
    connected, and until half and all had applied what was written then."""
    await asyncio.to_thread(server.stop)
    await asyncio.sleep(OUTAGE_S)
    await asyncio.to_thread(server.start)
    begun = time.monotonic()
    half, last = await spread_of(started, etcd, crowd.policy(turn))
    connected = await asyncio.to_thread(ask_all, started, "connected")
    return median(connected) - begun, half, last


async def measure(server: Server, started: list[Fleet], etcd: Etcd) -> Iterator[Row]:
    """All rows."""
    agents = sum(fleet.count for fleet in started)
    before = sum(value for fleet in started for value in fleet.answer())
    revision, begun = (await etcd.status()).revision, time.monotonic()
    await asyncio.to_thread(ask_all, started, "start")
    first = await applied_after(started, revision, begun)
    quiet = await settled(started, etcd, begun)
    weight = (sum(await asyncio.to_thread(ask_all, started, "memory")) - before) / agents / MB
    policies = [await spread_of(started, etcd, crowd.policy(1 + turn)) for turn in range(TURNS)]
    # On a node that nobody runs: to its own agent another's word for its pod would mean nothing.
    pods = [await spread_of(started, etcd, crowd.pod(agents, agents + 1 + turn)) for turn in range(TURNS)]
    outages = [await outage(started, server, etcd, 100 + turn) for turn in range(OUTAGES)]
    return iter(
        [
            row(f"first start, half of {agents} agents", [first[0]], "s"),
            row(f"first start, all {agents}", [first[1]], "s"),
            row("and all had the others' own records", [quiet], "s"),
            row("a policy, half", [half for half, _ in policies], "s"),
            row("a policy, all", [last for _, last in policies], "s"),
            row("an endpoint, half", [half for half, _ in pods], "s"),
            row("an endpoint, all", [last for _, last in pods], "s"),
            row(f"after {OUTAGE_S:.0f} s without etcd, connected, half", [one[0] for one in outages], "s"),
            row("a change then, half", [one[1] for one in outages], "s"),
            row("a change then, all", [one[2] for one in outages], "s"),
            row("memory of an agent", [weight], "MB"),
        ]
    )


async def run(agents: int) -> None:
    """Everything."""
    with tempfile.TemporaryDirectory(prefix="meshfabric-bench-", dir="/run") as folder, ExitStack() as stack:
        server = Server(find("etcd"), Path(folder) / "etcd", *CALM, address="127.0.0.1").start()
        stack.callback(server.stop)
        async with Etcd(Settings((server.endpoint,))) as etcd:
            await etcd.put_many(crowd.fabric(agents + 1))
            started = stack.enter_context(fleets(server.endpoint, agents, Path(folder)))
            report("swarm", list(await measure(server, started, etcd)))


if __name__ == "__main__":
    cell.enclose("swarm")
    asyncio.run(run(int(sys.argv[1]) if sys.argv[1:] else AGENTS))
