"""Sends a probe through every tunnel to every node, evenly over the interval.

A packet socket hands them to the WireGuard devices as the datapath does with
traffic: no route is asked and no address of the node is bound. The datapath
keeps the books on its way out (`to_overlay`) and takes the answers in.
"""

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from meshfabric.model.addresses import Address, is_ipv4
from meshfabric.probe.packet import probe

ETH_P_IP = 0x0800
ETH_P_IPV6 = 0x86DD
MS_PER_S = 1000
MOST_PER_S = 2000  # probes: with more paths each waits longer for its turn

log = logging.getLogger(__name__)


class Target(NamedTuple):
    """A path: a tunnel device, both hosts' addresses, the far node, and which of the paths there it is."""

    device: str
    source: Address
    destination: Address
    node: str
    at: int

    @property
    def path(self) -> tuple[str, str]:
        """Which path it is."""
        return self.device, self.node


def ether_type(address: Address) -> int:
    """Of the address's family."""
    return ETH_P_IP if is_ipv4(address) else ETH_P_IPV6


class Prober:
    """`aim` says where to; `run` sends until cancelled."""

    def __init__(self, interval_ms: int) -> None:
        self._interval_s = interval_ms / MS_PER_S
        self._targets: list[Target] = []
        self._look: Callable[[], Iterable[Target]] | None = None
        self._sequence = 0
        self.failures = 0

    def aim(self, look: Callable[[], Iterable[Target]]) -> None:
        """What is to be probed may be another: `look` is asked for it once, before the next turn.

        Not at once, because changes come quicker than turns, and there may be thousands of tunnels.
        """
        self._look = look

    async def run(self) -> None:
        """Send until cancelled; a device that went away meanwhile costs a count, no more."""
        with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as link:
            while True:
                targets = self._aimed()
                pause = max(self._interval_s / max(len(targets), 1), 1 / MOST_PER_S)
                due = time.monotonic()
                self._sequence += 1
                for target in targets:
                    self._send(link, target)
                    due += pause
                    await asyncio.sleep(max(due - time.monotonic(), 0))
                if not targets:
                    await asyncio.sleep(self._interval_s)

    def _aimed(self) -> list[Target]:
        look, self._look = self._look, None
        if look:
            self._targets = list(look())
        return self._targets

    def _send(self, link: socket.socket, target: Target) -> None:
        packet = probe(target.source, target.destination, self._sequence, time.time_ns())
        try:
            link.sendto(packet, (target.device, ether_type(target.source)))
        except OSError:
            self.failures += 1
