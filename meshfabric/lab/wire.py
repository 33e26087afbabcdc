"""A segment's wires where the kernel has no netem: delivers to each node later, slower, or not at all.

    python -m meshfabric.lab.wire ORDER.json

    bridge --> port n0u0 --redirected--> tap w-n0u0 --> this process --> n0u0 --> up0 in the node
                         (tcx egress)                 a heap of due frames

Run beside the segments by `impair`, which made the taps and hangs the redirection
on the ports; what a node sends comes in by its port as ever. A tap takes no
offloads, so that every frame here is one of the wire's. SIGHUP: read the order
again. Nothing here waits for a far end: what the kernel does not take is lost.
"""

import fcntl
import os
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Sequence
from heapq import heappop, heappush
from pathlib import Path
from random import Random
from types import FrameType

import msgspec

from meshfabric.lab.cable import IFF_NO_PI, IFF_TAP, TUNSETIFF
from meshfabric.lab.capture import ETH_P_ALL, PACKET_IGNORE_OUTGOING, SOL_PACKET, attach_filter
from meshfabric.lab.frames import nothing
from meshfabric.lab.impairment import ETHERNET_HEADER, Impairment, Schedule

TAP_PREFIX = "w-"
PACKET_QDISC_BYPASS = 20  # linux/if_packet.h; past the port's egress programs too, which redirect to us
SO_SNDBUFFORCE = 32  # asm-generic/socket.h
SEND_BUFFER_BYTES = 4 << 20
VLAN_TAGS = 8
"""Bytes: room for two tags beside the MTU."""
BURST = 64
"""Frames taken from one tap before the others and what is due have their turn."""
NS_PER_S = 1_000_000_000


class Order(msgspec.Struct, frozen=True):
    """What to do: devices of the bridge by name, the segment's MTU in bytes."""

    ports: tuple[str, ...]
    mtu: int
    impairment: Impairment


def tap_of(port: str) -> str:
    """The tap that a port's frames are redirected to."""
    return TAP_PREFIX + port


class End:
    """One node's end of the segment: frames come from a tap and leave by a socket on the port."""

    def __init__(self, port: str, mtu: int, given: Impairment) -> None:
        # The same frames, offered in the same order, meet the same chances in every run.
        self.schedule = Schedule(given, mtu, Random(port).random)
        self.tap = open_tap(tap_of(port))
        self._size = mtu + ETHERNET_HEADER + VLAN_TAGS
        self._out = open_port(port)

    def read(self) -> bytes:
        """The next frame; raises `BlockingIOError` when there is none."""
        return os.read(self.tap, self._size)

    def deliver(self, frame: bytes) -> None:
        """Hand it to the node, if the kernel takes it."""
        self.schedule.delivered()
        try:
            self._out.send(frame, socket.MSG_DONTWAIT)
        except OSError:
            return  # the port is down or its node is behind


class Wires:
    """All ends of one segment, and the frames under way between them."""

    def __init__(self, ends: Sequence[End]) -> None:
        self._ends = {end.tap: end for end in ends}
        self._heap: list[tuple[int, int, End, bytes]] = []
        self._taken = 0

    def change(self, given: Impairment) -> None:
        """Another impairment, from the next frame on."""
        for end in self._ends.values():
            end.schedule.change(given)

    def carry(self) -> None:
        """Until killed."""
        taps = list(self._ends)
        while True:
            ready, _, _ = select.select(taps, (), (), self._patience_s())
            for tap in ready:
                self._take(self._ends[tap])
            self._deliver_due()

    def _patience_s(self) -> float | None:
        if not self._heap:
            return None
        return max(self._heap[0][0] - time.monotonic_ns(), 0) / NS_PER_S

    def _take(self, end: End) -> None:
        for _ in range(BURST):
            try:
                frame = end.read()
            except BlockingIOError:
                return
            due_ns = end.schedule.take(time.monotonic_ns(), len(frame))
            if due_ns is not None:
                self._taken += 1
                heappush(self._heap, (due_ns, self._taken, end, frame))

    def _deliver_due(self) -> None:
        heap = self._heap
        while heap and heap[0][0] <= time.monotonic_ns():
            _, _, end, frame = heappop(heap)
            end.deliver(frame)


def open_tap(name: str) -> int:
    """A descriptor of an existing tap of plain frames; reading never waits."""
    tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    return tap


def open_port(name: str) -> socket.socket:
    """A socket that sends by a device and hears nothing."""
    port = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    attach_filter(port, nothing())
    port.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    port.setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, 1)
    port.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, SEND_BUFFER_BYTES)
    port.bind((name, ETH_P_ALL))
    return port


def read_order(path: Path) -> Order:
    """The order that `impair` wrote."""
    return msgspec.json.decode(path.read_bytes(), type=Order)


def main(path: Path) -> None:
    """Carry until killed. Once the taps have a carrier we listen to SIGHUP."""
    wires = Wires(())

    def change(number: int, frame: FrameType | None) -> None:
        wires.change(read_order(path).impairment)

    signal.signal(signal.SIGHUP, change)
    order = read_order(path)
    wires = Wires([End(port, order.mtu, order.impairment) for port in order.ports])
    wires.change(read_order(path).impairment)  # it may have been told while the ends were opened
    wires.carry()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
