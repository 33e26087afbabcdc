"""Has the kernel's own probes go to idle nodes, too: now and then it begins the token (`bpf/lib/token.h`).

Traffic does that by itself, and keeps the token going. Without any it ends after
each turn to all nodes, and with the agent gone nothing begins it again before
the next packet: a node that is not spoken to is not probed, and nothing is spent.

The starter is an empty packet with the fabric's mark, put into the loop past the
queue, which would hold it and the token back. Whether the token comes round is
looked at in turn: only then the agent's own prober keeps still.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable

from meshfabric.model.tables import FABRIC_MARK

ETH_P_IP = 0x0800
MS_PER_S = 1000
LATER = 1.1  # than a turn is due, or it would be too early for one now and then
TURNS_TO_MISS = 3
EMPTY = bytes(12) + ETH_P_IP.to_bytes(2, "big") + bytes(72)
SOL_PACKET, PACKET_QDISC_BYPASS = 263, 20  # linux/if_packet.h, Linux 3.14


class Starter:
    """`device` says where to send, "" for nowhere yet; `ticks` how often the token came round so far.

    `changed` is called when `works`, which tells whether it does, becomes another.
    """

    def __init__(
        self, idle_ms: int, device: Callable[[], str], ticks: Callable[[], int], changed: Callable[[], None]
    ) -> None:
        self.works = False
        self._pause_s = LATER * idle_ms / MS_PER_S
        self._device, self._ticks, self._changed = device, ticks, changed
        self._missed = TURNS_TO_MISS

    async def run(self) -> None:
        """Send until cancelled; a device that went away meanwhile costs a turn, no more."""
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK) as link:
            link.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, FABRIC_MARK)
            link.setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, 1)
            while True:
                device, before = self._device(), self._ticks()
                if device:
                    with contextlib.suppress(OSError):
                        link.sendto(EMPTY, (device, ETH_P_IP))
                await asyncio.sleep(self._pause_s)
                self._judge(ticked=bool(device) and self._ticks() != before)

    def _judge(self, *, ticked: bool) -> None:
        self._missed = 0 if ticked else self._missed + 1
        works = self._missed < TURNS_TO_MISS
        if works != self.works:
            self.works = works
            self._changed()
