"""The plan's `delays` table: a pair of devices, one behind a queue that holds packets back.

    token --> mftick0 --queue--> mftick1 --program tick--> probes, and round again

`holding` knows the queues. Where the kernel has none of them there is no pair, and the
agent sends the probes itself. The token is small, and all that the devices carry:
they have no addresses, and what does not fit into a bucket made for the token is
dropped. Checksums are not left to the device, so that the token, which begins as
somebody's packet, owes none after its first time round.

Nothing here has to run while the token does: pair and queue outlive the agent, and are
adopted.
"""

import fcntl
import socket
import struct
from collections.abc import Callable, Iterable, Sequence
from ctypes import addressof, create_string_buffer

from meshfabric.kernel import features, links
from meshfabric.kernel.holding import HANDLE, root_of, set_queue
from meshfabric.kernel.lane import Lane
from meshfabric.model.errors import UnsupportedError
from meshfabric.model.plan import Change, Delay, Key, Table, Value

OTHERWISE = Delay("", 0)  # differs from all that is wanted
SYSCTLS = {"ipv6.disable_ipv6": "1"}  # else the kernel speaks to neighbours there

_SIOCETHTOOL = 0x8946
_ETHTOOL_STXCSUM = 0x17
_IFREQ = struct.Struct("=16sQ16x")
_SETTING = struct.Struct("=II")

Tell = Callable[[str, str], None]


class Delays:
    """A target of the reconcile loop; `tell` notes an event."""

    tables = (Table.DELAYS,)

    def __init__(self, tell: Tell, lane: Lane) -> None:
        self._tell, self._lane = tell, lane
        self._made: dict[str, Delay] = {}
        self._kind: str | None = None

    async def observe(self, table: Table) -> Iterable[tuple[Key, Value]]:
        """What this run made, as long as it is as it was made."""
        return [(device, await self._lane.run(self._seen, device)) for device in self._made]

    async def apply(self, changes: Sequence[Change]) -> None:
        """Make the pairs, or remove them; nothing where the kernel has no such queue, which is told once."""
        for change in changes:
            if change.value is None:
                self._made.pop(change.key, None)
                await self._lane.run(links.delete, change.key)
                continue
            self._made[change.key] = change.value
            queue = await self._delay()
            if queue:
                await self._lane.run(make, change.key, change.value, queue)

    def _seen(self, device: str) -> Delay:
        wanted = self._made[device]
        return wanted if not self._kind or is_made(device, wanted, self._kind) else OTHERWISE

    async def _delay(self) -> str:
        """The kind of queue that the kernel has, "" if none; found out once, and told."""
        if self._kind is None:
            try:
                self._kind = await self._lane.run(kind)
            except UnsupportedError as lack:
                self._kind = ""
                self._tell("no delay", f"probes are the agent's, and end with it: {lack.what}")
        return self._kind


def kind() -> str:
    """The best kind of queue that this kernel has; raises UnsupportedError if there is none."""
    found = features.delay()
    if not found.present:
        raise UnsupportedError(found.detail, remedy="load the module sch_fq, sch_tbf or sch_htb")
    return found.detail


def make(device: str, delay: Delay, queue: str) -> None:
    """The pair, with the queue on `device`, which is set up; whatever is there already is adopted.

    `peer` is set up by whoever gives it its program.
    """
    links.ensure_veth(device, delay.peer)
    for name in (device, delay.peer):
        links.ensure_sysctls(name, SYSCTLS)
    settle_checksums(device)
    found = links.find(device)
    assert found is not None
    set_queue(device, found.index, queue, delay.interval_ms)
    links.set_up(device)


def is_made(device: str, delay: Delay, queue: str) -> bool:
    """Whether the pair is joined, up at this end, and its queue of this kind and ours."""
    near, far = links.find(device), links.find(delay.peer)
    if near is None or far is None or (near.peer, far.peer) != (far.index, near.index) or not near.up:
        return False
    return root_of(device, near.index) == (queue, HANDLE)


def settle_checksums(device: str) -> None:
    """Checksums that a packet owes are written before it leaves by this device (ethtool -K DEVICE tx off)."""
    setting = create_string_buffer(_SETTING.pack(_ETHTOOL_STXCSUM, 0), _SETTING.size)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCETHTOOL, _IFREQ.pack(device.encode(), addressof(setting)))
