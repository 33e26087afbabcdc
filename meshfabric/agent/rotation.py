"""Keeps the node's tunnel keys of the epoch that is due; what may be done when, `compiler.rotation` says.

    clock, `rotation` of the store --+                     +--> keyring.json, then the world
    keyrings of the others ----------+-- look, each second -+--> events, status
    datapath: which paths work ------+                     +--> keys of a given-up generation off the disk

What was decided is on the disk before anything follows from it, so that an agent
that is killed at any moment goes on where it was. While etcd is away nothing is
decided: the others could not be told.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from meshfabric.agent.readings import Readings
from meshfabric.agent.sources import StoreSource
from meshfabric.compiler import rotation
from meshfabric.compiler.rotation import Peer
from meshfabric.kernel.lane import Lane
from meshfabric.kernel.tunnels import Tunnels
from meshfabric.model.errors import MeshfabricError
from meshfabric.model.keyring import FIRST, GENERATIONS, NONE, Keyring, generation_of
from meshfabric.model.names import tunnel_generation
from meshfabric.model.world import Event, Kind
from meshfabric.observe.events import Events
from meshfabric.reconcile.loop import Loop
from meshfabric.store.files import warn, write_whole

KEYRING_FILE = "keyring.json"
LOOK_EVERY_S = 1.0
CLOSING_S = 5.0  # in which the others hear that nothing is to be sent by old tunnels
LOOKED_AT_PER_S = 200  # nodes: the paths to each are read
LOOK_FIRST_S = 0.1  # while there are no keys at all: nobody reaches the node before

log = logging.getLogger(__name__)


class _Saved(msgspec.Struct):
    """`began_s`: Unix time at which the rotation under way began, or the last one did."""

    keyring: Keyring
    began_s: float = 0.0


class Rotation:
    """`recall` once, before the loop runs; then `run` looks."""

    def __init__(
        self,
        loop: Loop,
        source: StoreSource,
        readings: Readings,
        tunnels: Tunnels,
        lane: Lane,
        events: Events,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._loop, self._world, self._source = loop, loop.world, source
        self._readings, self._tunnels, self._lane, self._events = readings, tunnels, lane, events
        self._clock = clock
        self._file = self._world.settings.state_dir / KEYRING_FILE
        self._began_s = 0.0
        self._content_since: float | None = None
        self._doubt = ""

    def recall(self, keys: list[tuple[str, str]]) -> Event:
        """The keyring of an earlier run, which left these keys by device."""
        saved = _load(self._file)
        if saved is None:
            saved = _Saved(_found({tunnel_generation(device) for device, _ in keys}))
        self._began_s = saved.began_s
        return Event(Kind.KEYRING, "", saved.keyring)

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            try:
                await self.look()
                self._doubt = ""
            except MeshfabricError as error:
                if self._doubt != str(error):
                    self._events.note("keys not rotated", str(error))
                self._doubt = str(error)
            pause_s = max(LOOK_EVERY_S, len(self._world.nodes) / LOOKED_AT_PER_S)
            await asyncio.sleep(pause_s if self._world.own_keys.generations else LOOK_FIRST_S)

    async def look(self) -> None:
        """Do what may be done now: one step at most."""
        if not (self._source.connected and self._source.listed):
            self._content_since = None
            return
        await self._forget_keys()
        mine = self._world.own_keys
        if self._is_settled(mine):
            return
        others = self._peers()
        after = rotation.turn(mine, self._due(), others, leftover=bool(self._leftover()))
        if after == mine:
            after = self._given_up(mine, others)
        if after != mine:
            await self._become(mine, after)

    def told(self) -> dict[str, Any]:
        """For people: the epochs of the keys, and what is waited for."""
        mine = self._world.own_keys
        return {
            "epoch": mine.epochs[mine.taken],
            "due": self._due(),
            "under_way": rotation.is_under_way(mine),
            "waiting_for": self._waiting_for(mine),
        }

    def _is_settled(self, mine: Keyring) -> bool:
        """Nothing is due and nobody has begun: told without looking at each path to each node."""
        wanted = self._due()
        if len(mine.generations) != 1 or wanted is None:
            return len(mine.generations) == 1
        alike = all(node.keyring.preferred == mine.preferred for node in self._world.nodes.values())
        return alike and generation_of(wanted) == mine.preferred

    def _waiting_for(self, mine: Keyring) -> list[str]:
        others = self._peers()
        if mine.closing:
            return []
        if rotation.is_under_way(mine):
            return rotation.holding(mine, others, dead_count=self._dead_count())
        epoch = rotation.following(mine, self._due(), others)
        return rotation.blocking(mine, others) if epoch is not None else []

    def _due(self) -> int | None:
        return rotation.due(self._world.rotation.get(""), self._clock())

    def _peers(self) -> list[Peer]:
        return rotation.peers(self._world, self._needing_old())

    def _needing_old(self) -> set[str]:
        """The nodes that, of what encrypts, only tunnels of the generation that is not preferred lead to."""
        mine = self._world.own_keys
        if not rotation.is_under_way(mine):
            return set()
        paths = [path for path in self._readings.paths({}) if path.generation is not None]
        up = [(path.node, path.generation) for path in paths if path.answers]
        new = {node for node, generation in up if generation == mine.preferred}
        return {node for node, _ in up} - new

    def _dead_count(self) -> bool:
        return self._clock() - self._began_s < self._world.settings.rotation.away_s

    def _given_up(self, mine: Keyring, others: list[Peer]) -> Keyring:
        """Without the old keys, or on the way there, once everybody has been content for long enough."""
        if mine.closing:
            return rotation.without_old(mine) if self._content_for(CLOSING_S) else mine
        ready = rotation.is_under_way(mine) and mine.taken == mine.preferred and self._loop.synced
        if not ready or rotation.holding(mine, others, dead_count=self._dead_count()):
            self._content_since = None
            return mine
        grace_s = self._world.settings.rotation.grace_s
        return rotation.closing(mine) if self._content_for(grace_s) else mine

    def _content_for(self, wanted_s: float) -> bool:
        now = time.monotonic()
        self._content_since = now if self._content_since is None else self._content_since
        return now - self._content_since >= wanted_s

    async def _become(self, before: Keyring, after: Keyring) -> None:
        if len(after.generations) > len(before.generations):
            self._began_s = self._clock()
        saved = msgspec.json.encode(_Saved(after, self._began_s))
        await asyncio.to_thread(write_whole, self._file, [saved])
        self._content_since = None
        self._loop.feed([Event(Kind.KEYRING, "", after)])
        self._tell(before, after)

    def _tell(self, before: Keyring, after: Keyring) -> None:
        new, old = after.epochs[after.preferred], before.epochs[1 - after.preferred]
        if not before.generations:
            self._events.note("keys made", f"epoch {new}")
        elif len(after.generations) > len(before.generations):
            self._events.note("key rotation began", f"from epoch {old} to {new}")
        elif len(after.generations) < len(before.generations):
            self._events.note("key rotation ended", f"epoch {new}; the keys of epoch {old} are given up")
        elif after.closing:
            self._events.note("old keys closing", f"epoch {old}: no node needs them")
        elif after.preferred != before.preferred:
            self._events.note("key rotation turned round", f"to epoch {new}: the others went on without us")
        else:
            self._events.note("new keys in use", f"epoch {new}, towards every node that is alive")

    def _leftover(self) -> list[str]:
        """Devices with keys of a generation that was given up."""
        kept = self._world.own_keys.generations
        return [device for device in self._world.keys if tunnel_generation(device) not in kept]

    async def _forget_keys(self) -> None:
        """A key goes when its device is gone: it has it, too."""
        gone = [device for device in self._leftover() if device not in self._world.links]
        for device in gone:
            await self._lane.run(self._tunnels.forget_key, device)
        self._loop.feed([Event(Kind.KEY, device) for device in gone])


def _load(file: Path) -> _Saved | None:
    try:
        saved = msgspec.json.decode(file.read_bytes(), type=_Saved)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError, ValueError) as cause:
        warn(file, f"cannot be read ({cause})", "epochs are counted anew from the keys that there are")
        return None
    return saved


def _found(generations: set[int]) -> Keyring:
    """By the keys alone: those of an agent that knew of no epochs, or whose notes are lost."""
    if len(generations) == GENERATIONS:
        return Keyring((0, 1), 1, 0)
    if generations == {1}:
        return Keyring((None, 1), 1, 1)
    return FIRST if generations else NONE
