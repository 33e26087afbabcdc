"""Where the world's events come from: the store, and this node's own network devices."""

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import aclosing

from meshfabric.agent.expiry import Expiry
from meshfabric.config import check_reachable_outside
from meshfabric.kernel import links
from meshfabric.kernel.lane import Lane
from meshfabric.model.addresses import Network
from meshfabric.model.errors import InputError, PermanentError
from meshfabric.model.node import Link
from meshfabric.model.plan import Table
from meshfabric.model.world import Event, Kind
from meshfabric.observe.events import Events
from meshfabric.reconcile.loop import Loop
from meshfabric.store.client import Entry, Etcd, Page
from meshfabric.store.keys import listing_ranges, state_prefix
from meshfabric.store.registry import Raw, Registry
from meshfabric.store.watch import Back, Batch, Lost, Position, Relist, Removal, Synced, Update, follow

REFUSED_AGAIN_S = 10.0  # after etcd refused us for good: somebody may correct it
SETTLE_S = 0.01  # changes of devices come in bursts
OF_A_TUNNEL = (Table.TUNNELS, Table.PEERS)
OF_AN_UPLINK = (Table.ROUTES,)

log = logging.getLogger(__name__)


class StoreSource:
    """Follows etcd, has every record checked by the registry, and feeds what is in force."""

    def __init__(self, etcd: Etcd, fabric: str, registry: Registry, loop: Loop, events: Events) -> None:
        self._etcd, self._prefix = etcd, state_prefix(fabric).encode()
        self._ranges = [text.encode() for text in listing_ranges(fabric)]
        self._registry, self._loop, self._events = registry, loop, events
        self.expiry = Expiry(loop.feed, events.note)
        self.position: Position | None = None
        self._held = ""
        self.connected = False
        self.listings = 0  # how often etcd has told all that it knows
        self.detail = "not reached yet"
        self.changed = asyncio.Event()  # set after each batch; for the report and the snapshot

    @property
    def listed(self) -> bool:
        """Whether etcd has told all that it knows, once at least."""
        return self.listings > 0

    async def run(self) -> None:
        """Follow until cancelled; what etcd refuses for good is shown, and asked again."""
        while True:
            try:
                async with aclosing(self._follow()) as batches:
                    async for batch in batches:
                        self._take(batch)
                        if self._registry.needs_listing and isinstance(batch, Synced | Update):
                            self.position = None
                            break
            except PermanentError as error:
                self._lost(str(error))
                await asyncio.sleep(REFUSED_AGAIN_S)

    def _follow(self) -> AsyncGenerator[Batch, None]:
        return follow(self._etcd, self._prefix, self.position, jitter=_jitter, ranges=self._ranges)

    def _take(self, batch: Batch) -> None:
        match batch:
            case Relist():
                self._events.note("store listing", batch.reason)
                self._registry.begin_listing()
            case Page():
                self._feed(self._registry.take(map(_raw, batch.entries)))
            case Synced():
                self._feed(self._registry.end_listing())
                self.position = batch.position
                self.listings += 1
                self._loop.check((Table.RECORDS,))  # a store that was set back lacks ours
            case Update():
                self._feed(self._registry.take(map(_raw, batch.events)))
                self.position = batch.position
            case Lost():
                self._lost(batch.reason)
            case Back():
                self.connected, self.detail = True, ""
                self._events.note("store connected")
        self.changed.set()

    def _feed(self, events: Iterable[Event]) -> None:
        events = list(events)
        self.expiry.take(events)
        for event in events:
            if event.kind is Kind.PREFIXES and event.value:
                self._check_reach(event.value)
        if self._registry.held != self._held:
            self._held = self._registry.held
            self._events.note("removal held" if self._held else "nothing held", self._held)

    def _check_reach(self, prefixes: Iterable[Network]) -> None:
        """etcd behind the fabric would be lost with it: said aloud, as nothing here can mend it."""
        try:
            check_reachable_outside(self._loop.world.settings, prefixes)
        except InputError as error:
            self._events.note("misconfigured", str(error))

    def _lost(self, reason: str) -> None:
        self.connected, self.detail = False, reason
        self._events.note("store lost", reason)


class LinkSource:
    """Observes the devices that concern us, at the start and whenever the kernel tells of a change."""

    def __init__(self, loop: Loop, lane: Lane, concerns: Callable[[str], bool]) -> None:
        self._loop, self._lane, self._concerns = loop, lane, concerns
        self._uplinks = {uplink.device for uplink in loop.world.settings.uplinks}
        self._tunnels = f"{loop.world.settings.datapath.prefix}wg"
        self._shaken = False

    async def observe(self) -> None:
        """Feed every difference between the devices and the world."""
        known = self._loop.world.links
        before = list(known)  # what comes while we look is not gone because we did not see it
        found = await self._lane.run(self._look)
        changes = [Event(Kind.LINK, name, link) for name, link in found.items() if known.get(name) != link]
        gone = [Event(Kind.LINK, name) for name in before if name not in found]
        self._loop.feed([*changes, *gone])
        if self._shaken:
            self._shaken = False
            self._loop.check(OF_AN_UPLINK)

    async def run(self) -> None:
        """Observe again after every burst of changes, until cancelled."""
        hint = asyncio.Event()
        with links.monitor() as changes:
            listener = asyncio.create_task(self._listen(changes, hint))
            try:
                while True:
                    await self.observe()
                    await hint.wait()
                    await asyncio.sleep(SETTLE_S)
                    hint.clear()
            finally:
                listener.cancel()

    async def _listen(self, changes: AsyncIterator[links.LinkEvent], hint: asyncio.Event) -> None:
        """A tunnel that falls is looked at now: behind a userspace device a process may have ended.

        Of a device that goes down, or loses its last address, the kernel forgets every route: also if it is
        as before when we look, or has another address of the same network.
        """
        async for event in changes:
            self._shaken |= event.change not in ("up", "mtu") and event.name in (*self._uplinks, "")
            if event.change in ("down", "gone") and event.name.startswith(self._tunnels):
                self._loop.check(OF_A_TUNNEL, drift=True)
            hint.set()

    def _look(self) -> dict[str, Link]:
        return {link.name: self._link(link) for link in links.observe() if self._concerns(link.name)}

    def _link(self, link: links.Link) -> Link:
        addresses: tuple[str, ...] = ()
        if link.name in self._uplinks:
            addresses = tuple(sorted(links.observe_addresses(link.name)))
        return Link(link.name, link.index, link.mac, link.mtu, link.up, addresses)


def _raw(event: Entry | Removal) -> Raw:
    if isinstance(event, Removal):
        return Raw(event.key, None, event.mod_revision)
    return Raw(event.key, event.value, event.mod_revision)


def _jitter(limit_s: float) -> float:
    return random.uniform(0, limit_s)
