"""Tells whenever packets to other nodes begin to go in clear, and whenever they are encrypted again."""

import asyncio
from collections.abc import Callable, Iterable

from meshfabric.compiler.plain import clear_nodes
from meshfabric.kernel import features
from meshfabric.model.errors import UnsupportedError
from meshfabric.model.settings import Settings
from meshfabric.model.world import World

NOT_MORE_OFTEN_S = 1.0  # all pairs are looked at
NAMED = 5  # nodes in an event; of others the number

Note = Callable[[str, str], None]


def demand_possible(settings: Settings) -> None:
    """Raises UnsupportedError where encryption is to be off and the kernel knows no way to do without."""
    if not settings.trusts:
        return
    found = features.trusted()
    if not found.present:
        place = f"uplinks[{settings.trusted_slots[0]}].encryption"
        remedy = "load the module vxlan (modprobe vxlan), or leave encryption on"
        raise UnsupportedError(
            f"this kernel makes no VXLAN-GPE devices: {found.detail}", place=place, remedy=remedy
        )


class Clear:
    """`aim` whenever pairs may be others; `run` looks and tells, until cancelled."""

    def __init__(self, world: World, note: Note) -> None:
        self._world, self._note = world, note
        self._known: dict[int, set[str]] = {}
        self._aimed = asyncio.Event()

    def aim(self) -> None:
        """Something in the world may have changed."""
        self._aimed.set()

    async def run(self) -> None:
        """Tell at the start what is off, and then each change."""
        if not self._world.settings.trusts:
            return
        for slot in clear_nodes(self._world):
            self._note(
                "encryption off", f"{self._where(slot)}: packets to nodes that say the same go in clear"
            )
        while True:
            await self._aimed.wait()
            self._aimed.clear()
            self._look()
            await asyncio.sleep(NOT_MORE_OFTEN_S)

    def _look(self) -> None:
        for slot, nodes in clear_nodes(self._world).items():
            known, now = self._known.get(slot, set()), set(nodes)
            for name, changed in (("in clear", now - known), ("encrypted again", known - now)):
                if changed:
                    self._note(name, f"{self._where(slot)}: {_named(changed)}")
            self._known[slot] = now

    def _where(self, slot: int) -> str:
        uplink = self._world.settings.uplinks[slot]
        return f"segment {uplink.segment} ({uplink.name})"


def _named(nodes: Iterable[str]) -> str:
    names = sorted(nodes)
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
