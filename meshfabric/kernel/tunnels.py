"""The plan's `tunnels` and `peers` tables: WireGuard devices with their keys, and who is at the far end.

A device that was made tells the world of its key (`tell`); that it exists comes
by the link monitor. It is set up only when its programs are in place
(`programs`). One of the kind that an operator chose against is made anew with the
key it had, which is noted (`note`).
"""

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from meshfabric.kernel import wireguard
from meshfabric.kernel.lane import Lane
from meshfabric.kernel.wireguard import Backend, DeviceState, Peer, PeerState
from meshfabric.model.plan import Change, Key, Table, TunnelDevice, TunnelPeer, Value

REJECT_AFTER_S = 180  # a WireGuard session's longest life (white paper, 6.1)
KEYS = "keys"
KEY_SUFFIX = ".key"

Tell = Callable[[str, str], None]
Note = Callable[[str, str], None]


class Tunnels:
    """A target of the reconcile loop for the devices whose names begin with `prefix`."""

    tables = (Table.TUNNELS, Table.PEERS)

    def __init__(
        self, backend: Backend, prefix: str, state_dir: Path, tell: Tell, note: Note, lane: Lane
    ) -> None:
        self._backend, self._prefix, self._lane = backend, prefix, lane
        self._keys = state_dir / KEYS
        self._tell, self._note = tell, note
        self._devices: dict[str, TunnelDevice] = {}
        self._peers: dict[tuple[str, str], TunnelPeer] = {}

    @property
    def backend(self) -> str:
        """What runs the devices, for people: `kernel`, or `userspace` with the binary."""
        return f"{self._backend.kind} {self._backend.binary or ''}".rstrip()

    def keys(self) -> list[tuple[str, str]]:
        """Device and public key of each key of an earlier run: the node's record needs them at once."""
        files = sorted(self._keys.glob(f"{self._prefix}*{KEY_SUFFIX}"))
        return [(file.name.removesuffix(KEY_SUFFIX), wireguard.ensure_key(file)) for file in files]

    def made_s(self) -> dict[str, float]:
        """Device and the Unix time at which its key was made, in s."""
        files = self._keys.glob(f"{self._prefix}*{KEY_SUFFIX}")
        return {file.name.removesuffix(KEY_SUFFIX): file.stat().st_mtime for file in files}

    def forget_key(self, device: str) -> None:
        """Take a key off the disk, for good; an absent one is no error."""
        (self._keys / (device + KEY_SUFFIX)).unlink(missing_ok=True)

    async def observe(self, table: Table) -> Iterable[tuple[Key, Value]]:
        """What this run made and still is as made; anything else counts as different."""
        devices = await self._lane.run(self.state)
        if table is Table.TUNNELS:
            return [
                (name, self._devices.get(name, ()) if _same(self._devices.get(name), state) else ())
                for name, state in devices.items()
            ]
        return [
            ((name, key), self._peers.get((name, key), ()) if self._same_peer(name, key, peer) else ())
            for name, state in devices.items()
            for key, peer in state.peers.items()
        ]

    async def apply(self, changes: Sequence[Change]) -> None:
        """Make, change or delete devices, or peers."""
        if changes[0].table is Table.PEERS:
            await self._lane.run(self._apply_peers, changes)
            return
        for change in changes:
            if change.value is None:
                await self._lane.run(wireguard.delete_device, str(change.key))
                self._devices.pop(str(change.key), None)
            else:
                if await self._lane.run(wireguard.drop_other, self._backend, str(change.key)):
                    self._note("tunnel made anew", f"{change.key} by {self._backend.kind}, its key is kept")
                key = await self._lane.run(self._ensure, str(change.key), change.value)
                self._devices[str(change.key)] = change.value
                self._tell(str(change.key), key)

    def state(self) -> dict[str, DeviceState]:
        """Our devices as WireGuard shows them."""
        return {name: state for name, state in wireguard.observe().items() if name.startswith(self._prefix)}

    def _ensure(self, name: str, device: TunnelDevice) -> str:
        self._keys.mkdir(mode=0o700, exist_ok=True)
        file = self._keys / (name + KEY_SUFFIX)
        if wireguard.ensure_device(self._backend, name, file, device.port, device.mark, device.mtu):
            mine = [
                _wanted(key, peer, leave_endpoint=False)
                for (owner, key), peer in self._peers.items()
                if owner == name
            ]
            wireguard.set_peers(name, mine)
        return wireguard.ensure_key(file)

    def _apply_peers(self, changes: Sequence[Change]) -> None:
        by_device: dict[str, list[Peer]] = {}
        now = self.state()
        for change in changes:
            device, key = change.key
            if change.value is None:
                wireguard.remove_peer(device, key)
                self._peers.pop((device, key), None)
            else:
                earlier = self._peers.get((device, key))
                leave = earlier.endpoint == change.value.endpoint if earlier else _works(now, device, key)
                by_device.setdefault(device, []).append(_wanted(key, change.value, leave_endpoint=leave))
                self._peers[device, key] = change.value
        for device, peers in by_device.items():
            wireguard.set_peers(device, peers)

    def _same_peer(self, device: str, key: str, state: PeerState) -> bool:
        """By what the peer may be: its endpoint is WireGuard's own to follow."""
        wanted = self._peers.get((device, key))
        return wanted is not None and set(wanted.allowed_ips) == set(state.allowed_ips)


def _same(wanted: TunnelDevice | None, state: DeviceState) -> bool:
    return (
        wanted is not None
        and (wanted.port, wanted.mark) == (state.port, state.mark)
        and bool(state.public_key)
    )


def _works(state: dict[str, DeviceState], device: str, key: str) -> bool:
    """After a restart: a tunnel that shook hands lately knows its far end better than a record."""
    peer = state[device].peers.get(key) if device in state else None
    return peer is not None and time.time() - peer.last_handshake_s < REJECT_AFTER_S


def _wanted(key: str, peer: TunnelPeer, *, leave_endpoint: bool) -> Peer:
    """The endpoint only when the record changed it, so that roaming and NAT survive."""
    return Peer(key, None if leave_endpoint else peer.endpoint, peer.allowed_ips, peer.keepalive_s)
