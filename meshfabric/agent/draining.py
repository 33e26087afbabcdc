"""Which uplinks are to be taken last, because somebody is about to take them down.

    order --> draining.json --> world --> own choice of paths, and our record in the store
                                              |                     |
                                          at once           the others' choice

The order is on the disk before anything follows from it, and holds until it is taken
back: over restarts of the agent, and while the uplink is down. Tunnels stay as they
are, so nothing is lost on the way; a drained uplink is still taken where nothing else
works. Who wants to know that traffic has left asks for what still passes (`passing`).
"""

import asyncio
from collections.abc import Collection
from typing import Any

import msgspec

from meshfabric.agent.readings import Readings
from meshfabric.kernel.lane import Lane
from meshfabric.kernel.tunnels import Tunnels
from meshfabric.model.errors import InputError
from meshfabric.model.world import Event, Kind
from meshfabric.observe.events import Events
from meshfabric.observe.rows import PathSeen, Row
from meshfabric.observe.uplinks import beside_probes, only_by, uplink_rows
from meshfabric.reconcile.loop import Loop
from meshfabric.store.files import warn, write_whole

DRAINING_FILE = "draining.json"
LOOKS_APART_S = 1.0


class _Saved(msgspec.Struct):
    uplinks: list[str] = []


class Draining:
    """`recall` once, before the loop runs; then orders come."""

    def __init__(self, loop: Loop, readings: Readings, tunnels: Tunnels, lane: Lane, events: Events) -> None:
        self._loop, self._world, self._readings = loop, loop.world, readings
        self._tunnels, self._lane, self._events = tunnels, lane, events
        self._file = self._world.settings.state_dir / DRAINING_FILE
        self._one_order = asyncio.Lock()

    def recall(self) -> list[Event]:
        """What an earlier run was told; uplinks that are not configured any more are forgotten."""
        try:
            saved = msgspec.json.decode(self._file.read_bytes(), type=_Saved)
        except FileNotFoundError:
            return []
        except (OSError, msgspec.DecodeError, ValueError) as cause:
            warn(self._file, f"cannot be read ({cause})", "no uplink is drained")
            return []
        return [Event(Kind.DRAINING, name, True) for name in saved.uplinks if name in self._names()]

    async def drain(self, names: Collection[str], *, force: bool) -> bool:
        """Take uplinks last from now on; whether that is new. Returns once it is so on this node.

        Raises `InputError` if they are the only way to some node, unless forced.
        """
        alone = only_by(self._readings.paths({}), self._slots(*names))
        if alone and not force:
            what = f"it is the only way that works to {', '.join(alone)}"
            remedy = "mend another path to them first (meshfabric path list), or --force"
            raise InputError(what, place=f"uplink {', '.join(names)}", remedy=remedy)
        return await self._order(names, True)

    async def undrain(self, names: Collection[str]) -> bool:
        """Take uplinks as before; whether that is new. Returns once it is so on this node."""
        self._slots(*names)
        return await self._order(names, None)

    def rows(self) -> list[Row]:
        """Every uplink."""
        return uplink_rows(self._world, self._readings.paths({}))

    async def passing(self, name: str) -> dict[str, Any]:
        """What passes by the uplink's tunnels beside probes: bytes a second by node, of those with any."""
        slots = self._slots(name)
        before = await self._look()
        await asyncio.sleep(LOOKS_APART_S)
        found = beside_probes(self._world, before, await self._look(), slots)
        return {
            "uplink": name,
            "nodes": [
                {
                    "node": node,
                    "alive": node in self._world.alive,
                    "received": int(moved.received / LOOKS_APART_S),
                    "sent": int(moved.sent / LOOKS_APART_S),
                }
                for node, moved in found.items()
                if moved.received or moved.sent
            ],
        }

    async def _look(self) -> list[PathSeen]:
        return self._readings.paths(await self._lane.run(self._tunnels.state))

    async def _order(self, names: Collection[str], value: bool | None) -> bool:
        async with self._one_order:
            known = self._world.draining.keys()
            new = [name for name in names if (name in known) != bool(value)]
            if not new:
                return False
            kept = sorted({*known, *new} if value else known - {*new})
            saved = msgspec.json.encode(_Saved(kept))
            await asyncio.to_thread(write_whole, self._file, [saved])
            self._loop.feed([Event(Kind.DRAINING, name, value) for name in new])
            self._events.note("uplink draining" if value else "uplink in use again", ", ".join(new))
        await self._loop.settled()
        return True

    def _names(self) -> list[str]:
        return [uplink.name for uplink in self._world.settings.uplinks]

    def _slots(self, *names: str) -> frozenset[int]:
        for name in names:
            if name not in self._names():
                remedy = f"there is: {', '.join(self._names()) or 'none'}"
                raise InputError(f"no uplink {name!r} here", remedy=remedy)
        return frozenset().union(*map(self._world.settings.drained_with, names))
