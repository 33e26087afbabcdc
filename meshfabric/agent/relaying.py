"""On a relay: what WireGuard knows of those whose packets are handed on becomes events.

A node's handshake with us has proved the address that it came from. That, and nothing that somebody
says of himself, is where relayed packets may come from and go to (`compiler.relays`).
"""

import asyncio
from collections.abc import Iterator, Mapping

from meshfabric.compiler.paths import joined
from meshfabric.compiler.relays import relayed_nodes
from meshfabric.kernel.lane import Lane
from meshfabric.kernel.tunnels import Tunnels
from meshfabric.kernel.wireguard import DeviceState
from meshfabric.model.addresses import Address, parse_address
from meshfabric.model.world import Event, Kind
from meshfabric.reconcile.loop import Loop

LOOK_EVERY_S = 1.0
"""So long after a node moved its relayed packets are not taken, at worst."""

Heard = dict[tuple[str, str], tuple[Address, int]]


class Relaying:
    """`recall` once, when the world is known, so that a restart forgets nobody; then `run` looks."""

    def __init__(self, loop: Loop, tunnels: Tunnels, lane: Lane) -> None:
        self._loop, self._world = loop, loop.world
        self._tunnels, self._lane = tunnels, lane

    async def run(self) -> None:
        """Look until cancelled, if this node is a relay."""
        while self._world.settings.relay_mbit:
            await self.recall()
            await asyncio.sleep(LOOK_EVERY_S)

    async def recall(self) -> None:
        """Tell of what has changed."""
        if not relayed_nodes(self._world):
            return
        seen = self._heard(await self._lane.run(self._tunnels.state))
        known = self._world.heard
        changed = [Event(Kind.HEARD, key, end) for key, end in seen.items() if known.get(key) != end]
        gone = [Event(Kind.HEARD, key, None) for key in known.keys() - seen.keys()]
        if changed or gone:
            self._loop.feed(changed + gone)

    def _heard(self, devices: Mapping[str, DeviceState]) -> Heard:
        return {
            (device, name): socket(peer.endpoint)
            for device, name, key in self._ends()
            if device in devices and (peer := devices[device].peers.get(key))
            if peer.last_handshake_s and peer.endpoint
        }

    def _ends(self) -> Iterator[tuple[str, str, str]]:
        """Our devices, whom we hear by them, and by which key."""
        for name in relayed_nodes(self._world):
            for generation in self._world.own_keys.generations:
                for end in joined(self._world, name, generation):
                    yield end.device, name, end.far.public_key


def socket(endpoint: str) -> tuple[Address, int]:
    """Address and port of an endpoint, as WireGuard writes it."""
    host, _, port = endpoint.rpartition(":")
    return parse_address(host.strip("[]").partition("%")[0]), int(port)
