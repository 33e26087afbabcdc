"""What many peers cost an agent that has nothing else to do.

    .venv/bin/python -m bench.peers [PEERS...]

Each is a node in the agent's one segment: a peer of its tunnel's WireGuard, with a path that is probed
once in `probe.idle_ms`. Nobody answers, for there is no other node. CPU time is that of all of the
agent's threads as a share of one core, look by look; what the kernel and wireguard-go use is not in it.
"""

import asyncio

from bench import crowd
from bench.memory import memory_mb, used
from bench.rows import Row, at_most, row
from bench.stand import Stand, Who, run
from meshfabric.store.client import Etcd

SIZES = (10, 100, 1000)
CPU_GOALS = {1000: at_most(2)}
LOOKS, LOOK_S = 6, 10.0
SETTLE_S = 20.0
"""Until what the start brought along is done, reports and snapshots too."""
MS_PER_S = 1000.0
PERCENT = 100
WHO = Who(crowd.FABRIC, crowd.name_of(0), crowd.SEGMENT, f"{crowd.underlay_of(0)}/16")


async def measure(place: Stand, etcd: Etcd, peers: int) -> list[Row]:
    """All rows of one size."""
    await etcd.put_many(crowd.fabric(peers + 1))
    place.forget()
    place.start_agent()
    place.wait_for(2 * peers)
    await asyncio.sleep(SETTLE_S)
    looks = [await used(place.pid, asyncio.sleep(LOOK_S)) for _ in range(LOOKS)]
    resident, _ = memory_mb(place.pid)
    place.end_agent()
    shares = [PERCENT * spent_ms / MS_PER_S / seconds for spent_ms, seconds in looks]
    return [
        row(f"CPU of the agent, {peers} peers", shares, "%", goal=CPU_GOALS.get(peers)),
        row(f"resident, {peers} peers", [resident], "MB"),
    ]


if __name__ == "__main__":
    run("peers", measure, SIZES, WHO)
