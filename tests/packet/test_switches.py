"""From what the datapath tells to what an operator reads: an agent's follower on real maps and programs."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

from meshfabric.agent.switches import Switches
from meshfabric.compiler.paths import Pair
from meshfabric.kernel.bpf import Map
from meshfabric.model.node import Uplink
from meshfabric.model.tables import PathState, path_value
from meshfabric.observe.rows import PathSeen
from meshfabric.probe.health import chosen, grade, health
from tests.packet.frames import V4
from tests.packet.rig import Scene
from tests.packet.test_probes import INTERVAL_NS, answer_to, leave, probe
from tests.packet.world import FAR
from tests.patience import DEADLINE_S

DEVICES = ("mfwg00", "mfwg01")
INTERVAL_MS = INTERVAL_NS // 1_000_000
HELD_S = 1.05  # after a first fall, and a bit


class Follower:
    """`Switches` in a world where far is reached by two tunnels, and what it noted."""

    def __init__(self, scene: Scene) -> None:
        self.scene, self.noted, self._more = scene, list[str](), asyncio.Event()
        self.indexes = {device: scene.rig.ifindex[device] for device in DEVICES}
        far = SimpleNamespace(uplinks=(Uplink(0, "a", "red", (), 1500), Uplink(1, "b", "blue", (), 1500)))
        world = SimpleNamespace(
            nodes={"far": far},
            node_numbers={"far": FAR},
            links={device: SimpleNamespace(index=index) for device, index in self.indexes.items()},
            settings=SimpleNamespace(uplinks=(SimpleNamespace(name="up0"), SimpleNamespace(name="up1"))),
        )
        loop: Any = SimpleNamespace(world=world)
        readings: Any = self
        turns: Map = scene.rig.maps["turns"]
        self.switches = Switches(loop, readings, turns, self._note)

    def _note(self, name: str, detail: str) -> None:
        self.noted.append(f"{name}: {detail}")
        self._more.set()

    def paths(self, tunnels: dict[str, object]) -> list[PathSeen]:
        """As `Readings` tells them."""
        states = [self.scene.rig.path(FAR, at) for at in range(len(DEVICES))]
        now = time.monotonic_ns()
        there = list(zip(states, self.indexes.values(), strict=True))
        taken = chosen([grade(state, index, now, INTERVAL_MS) for state, index in there])
        healths = [health(state, index, now, INTERVAL_MS) for state, index in there]
        pairs = [Pair(0, at, at, "", "") for at in range(len(DEVICES))]
        return [
            PathSeen("far", pairs[at], device, 0, states[at], healths[at], at == taken, 0, 0, 0)
            for at, device in enumerate(DEVICES)
        ]

    def answered(self, device: str, times: int = 1) -> None:
        """So many probes that are answered at once."""
        for _ in range(times):
            out = leave(self.scene.rig, device, probe("host", "far", V4))
            self.scene.rig.run("from_overlay", answer_to(out, "far", V4), device)

    def silent(self) -> PathState:
        """The first path has been without an answer for longer than anybody waits, and a probe leaves."""
        now, state = time.monotonic_ns(), self.scene.rig.path(FAR, 0)
        old = state._replace(
            unanswered_ns=now - 4 * INTERVAL_NS,
            sent_ns=now - INTERVAL_NS,
            sent=state.sent + 3,
            heard_ns=now - 5 * INTERVAL_NS,
            rtt_peak_us=0,
        )
        self.scene.rig.set_path(FAR, 0, path_value(old))
        leave(self.scene.rig, DEVICES[0], probe("host", "far", V4))
        return old

    async def told(self, count: int) -> None:
        """So many events were noted."""
        async with asyncio.timeout(DEADLINE_S):
            while len(self.noted) < count:
                self._more.clear()
                await self._more.wait()


def following(scene: Scene, work: Callable[[Follower], Awaitable[None]]) -> Follower:
    """Do some work while the follower runs."""

    async def both() -> Follower:
        follower = Follower(scene)
        follower.switches.look()
        running = asyncio.create_task(follower.switches.run())
        await asyncio.sleep(0)
        await work(follower)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return follower

    return asyncio.run(both())


def test_a_path_falls_silent_and_comes_back(scene: Scene) -> None:
    async def happen(follower: Follower) -> None:
        for device in DEVICES:
            follower.answered(device, 4)
        follower.switches.look()
        old = follower.silent()
        await follower.told(1)
        (row,) = follower.switches.rows()
        at_ns = max(old.unanswered_ns + 2 * INTERVAL_NS + INTERVAL_NS // 10, old.sent_ns)
        assert row["outage_ms"] == round((at_ns - old.heard_ns) / 1_000_000, 1)
        assert (row["from_uplinks"], row["to_uplinks"]) == ("up0-a", "up1-b")
        follower.answered(DEVICES[0], 3)
        await asyncio.sleep(HELD_S)
        follower.answered(DEVICES[0])
        await follower.told(2)

    follower = following(scene, happen)
    assert follower.noted[0].startswith("path switch: far: mfwg00 to mfwg01, no answers, ")
    assert follower.noted[1] == "path switch: far: mfwg01 to mfwg00, came back, nothing lost"
    assert [row["why"] for row in follower.switches.rows()] == ["came back", "no answers"]
    assert follower.switches.counts == {"far": 2}


def test_what_an_earlier_agent_left_unread_is_old(scene: Scene) -> None:
    before = Follower(scene)
    before.answered(DEVICES[0], 4)
    before.silent()

    async def nothing(follower: Follower) -> None:
        await asyncio.sleep(0.1)

    assert following(scene, nothing).noted == []
