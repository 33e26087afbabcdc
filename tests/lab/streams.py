"""Traffic that keeps flowing while a test does something, and what became of it.

A datagram each millisecond, a piece of TCP each five, all by one thread on
non-blocking sockets. An outage is told in the sender's time, from the last
datagram that arrived before it to the first one after, so that a busy machine
on which nobody was running is not taken for one. Nor is a process between the two
that waits for its turn: what wireguard-go or a guest's cable has not read by then
stays in its device's queue, which is made deep enough.
"""

import contextlib
import hashlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from meshfabric.kernel import netns
from meshfabric.lab import build
from meshfabric.lab.state import Lab
from meshfabric.lab.underlay import ip, shown_by
from meshfabric.model.errors import MeshfabricError
from tests.lab.losses import Counts, counted
from tests.lab.places import SO_RCVBUFFORCE, family_of, namespace
from tests.lab.whole import address, names
from tests.patience import DEADLINE_S

TICK_S = 0.001
PIECE_TICKS, PIECE_BYTES = 5, 2000
DATAGRAM = struct.Struct("!QQ")
ALL_ONES = (1 << 64) - 1
BUFFER_BYTES = 4 << 20
QUEUE = 32_767  # packets, the most that a TAP device takes (Linux 7.2); its 500 are half a second of one flow
DEEPEN_EVERY_S = 0.05
PROBES = 10  # that a tunnel may have carried before its queue is changed
LAST_ARRIVALS_S = DEADLINE_S
OVERTAKEN_S = 1.0  # for those that others overtook on another path
SILENT = 100  # datagrams in a row that did not arrive: nothing passes
MS = 1000
SHOWN = 20
PERIOD = 1 << 20
_BLOCK = hashlib.shake_128(b"meshfabric").digest(PERIOD)
PATTERN = _BLOCK + _BLOCK[:PIECE_BYTES]  # so that no piece ends at the period's end
FIRST_PORT = 7100


class Flow(NamedTuple):
    """From where to where, by which protocol."""

    source: str
    sink: str
    family: int = 4
    protocol: str = "udp"


def written(number: int) -> bytes:
    """A datagram: its number, and the complement, so that all of a flow have the same checksum.

    wireguard-go 20231211 writes a sum of zero as it is, and not as all ones (RFC 768), and IPv6 takes no
    such datagram (RFC 8200, 8.1): of those that are merely counted one in 65536 would be lost.
    """
    return DATAGRAM.pack(number, number ^ ALL_ONES)


class Datagrams:
    """Numbered datagrams one way."""

    def __init__(self, lab: Lab, flow: Flow, port: int) -> None:
        self.flow = flow
        self._sent_at: list[float] = []
        self._heard: set[int] = set()
        self._unsent: dict[int, str] = {}
        self._newest = -1
        to = address(lab, flow.sink, flow.family)
        family = family_of(flow.family)
        self._far = netns.run(namespace(lab, flow.sink), socket.socket, family, socket.SOCK_DGRAM)
        self._far.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
        self._far.bind((to, port))
        self._far.setblocking(False)
        self._near = netns.run(namespace(lab, flow.source), socket.socket, family, socket.SOCK_DGRAM)
        self._near.connect((to, port))
        self._near.setblocking(False)

    @property
    def sent(self) -> int:
        """How many left, or should have."""
        return len(self._sent_at)

    @property
    def heard(self) -> int:
        """How many arrived."""
        return len(self._heard)

    @property
    def lost(self) -> int:
        """How many did not; ask when the stream has ended."""
        return self.sent - self.heard

    @property
    def outage_ms(self) -> float:
        """The longest time in which what was sent did not arrive; 0 when all did."""
        longest, last = 0.0, -1
        for number in [*sorted(self._heard), self.sent]:
            if number > last + 1:
                end = self._sent_at[min(number, self.sent - 1)]
                longest = max(longest, end - self._sent_at[max(last, 0)])
            last = number
        return longest * MS

    def heard_lately(self, within_s: float = 0.1) -> bool:
        """Whether something arrived that was sent a moment ago."""
        return self._newest >= 0 and time.monotonic() - self._sent_at[self._newest] < within_s

    @property
    def last_heard_s(self) -> float:
        """When the newest datagram that arrived was sent, by the monotonic clock."""
        return self._sent_at[self._newest]

    def is_silent(self) -> bool:
        """Whether nothing of what was sent of late has arrived, in the sender's time."""
        return self.sent - self._newest > SILENT

    def came_back(self) -> bool:
        """Whether something was lost on the way and what was sent after it arrives."""
        return self.heard <= self._newest and self.heard_lately()

    def say(self, tick: int) -> None:
        try:
            self._near.send(written(self.sent))
        except OSError as error:  # one that came back, or a full queue: it is lost
            self._unsent[self.sent] = str(error)
        self._sent_at.append(time.monotonic())

    def hear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                number, _ = DATAGRAM.unpack(self._far.recv(DATAGRAM.size))
                self._heard.add(number)
                self._newest = max(self._newest, number)

    @property
    def complete(self) -> bool:
        """Whether nothing more is to be waited for but what was overtaken: the last one is there."""
        return self._newest == self.sent - 1

    @property
    def whole(self) -> bool:
        """Whether all arrived."""
        return not self.lost

    def __str__(self) -> str:
        missing = sorted(set(range(self.sent)) - self._heard)
        at_ms = [round((self._sent_at[number] - self._sent_at[0]) * MS) for number in missing]
        refused = f", {len(self._unsent)} not sent: {set(self._unsent.values())}" if self._unsent else ""
        lost = f"{self.lost} of {self.sent} lost{refused}"
        return f"{self.flow}: {lost}, {self.outage_ms:.0f} ms, at {at_ms[:SHOWN]} ms"

    def close(self) -> None:
        self._near.close()
        self._far.close()


class Bytes:
    """A connection in steady use; `stall_ms` is the longest time in which nothing new arrived."""

    def __init__(self, lab: Lab, flow: Flow, port: int) -> None:
        self.flow = flow
        self.sent = self.heard = 0
        self.intact = True
        self.error = ""
        self.stall_ms = 0.0
        self._moved_at = time.monotonic()
        to = address(lab, flow.sink, flow.family)
        family = family_of(flow.family)
        with netns.run(
            namespace(lab, flow.sink), socket.create_server, (to, port), family=family
        ) as listener:
            self._near = netns.run(namespace(lab, flow.source), socket.socket, family)
            self._near.settimeout(LAST_ARRIVALS_S)
            self._near.connect((to, port))
            self._far, _ = listener.accept()
        for link in (self._near, self._far):
            link.setblocking(False)

    def say(self, tick: int) -> None:
        if tick % PIECE_TICKS or self.error:
            return
        start = self.sent % PERIOD
        try:
            self.sent += self._near.send(PATTERN[start : start + PIECE_BYTES])
        except BlockingIOError:
            pass  # it waits for the far end
        except OSError as error:
            self.error = str(error)

    def hear(self) -> None:
        try:
            while piece := self._far.recv(PIECE_BYTES):
                self._take(piece)
        except BlockingIOError:
            pass
        except OSError as error:
            self.error = str(error)

    @property
    def complete(self) -> bool:
        """Whether nothing more is to be waited for."""
        return bool(self.error) or self.heard == self.sent

    @property
    def whole(self) -> bool:
        """Whether all arrived, in order."""
        return self.intact and not self.error and self.heard == self.sent

    def __str__(self) -> str:
        how = "intact" if self.intact else "garbled"
        stall = f"longest stall {self.stall_ms:.0f} ms"
        return f"{self.flow}: {self.heard} of {self.sent} bytes, {how}, {stall} {self.error}"

    def close(self) -> None:
        self._near.close()
        self._far.close()

    def _take(self, piece: bytes) -> None:
        start = self.heard % PERIOD
        self.intact = self.intact and PATTERN[start : start + len(piece)] == piece
        self.heard += len(piece)
        now = time.monotonic()
        self.stall_ms, self._moved_at = max(self.stall_ms, (now - self._moved_at) * MS), now


class Streams:
    """Some flows under way, by index as they were given."""

    def __init__(self, lab: Lab, flows: tuple[Flow, ...]) -> None:
        self._lab, self._before = lab, Counts()
        self._all: list[Datagrams | Bytes] = []
        self.began_s = 0.0  # Unix time
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="streams", daemon=True)
        for number, flow in enumerate(flows):
            kind = Datagrams if flow.protocol == "udp" else Bytes
            self._all.append(kind(lab, flow, FIRST_PORT + number))

    @property
    def datagrams(self) -> list[Datagrams]:
        """The flows by UDP."""
        return [one for one in self._all if isinstance(one, Datagrams)]

    @property
    def connections(self) -> list[Bytes]:
        """The flows by TCP."""
        return [one for one in self._all if isinstance(one, Bytes)]

    def all_pass(self) -> bool:
        """Whether every flow of datagrams arrives just now."""
        return all(one.heard_lately() for one in self.datagrams)

    def none_pass(self) -> bool:
        """Whether none does."""
        return all(one.is_silent() for one in self.datagrams)

    def all_came_back(self) -> bool:
        """Whether every flow of datagrams was interrupted, however shortly, and arrives again."""
        return all(one.came_back() for one in self.datagrams)

    def assert_nothing_lost(self) -> None:
        """Every datagram arrived, and every byte of the connections, in order."""
        wrong = [str(one) for one in self._all if not one.heard or not one.whole]
        if wrong:
            more = counted(self._lab) - self._before
            wrong += [f"meanwhile {node}: {what} +{count}" for (node, what), count in sorted(more.items())]
        assert not wrong, "\n".join(wrong)

    def start(self) -> None:
        self._before, self.began_s = counted(self._lab), time.time()
        self._thread.start()

    def stop(self) -> None:
        """Say no more, hear what is still on its way."""
        self._stopped.set()
        self._thread.join()
        self._hear_until(lambda: all(one.complete for one in self._all), LAST_ARRIVALS_S)
        self._hear_until(lambda: all(one.whole for one in self._all), OVERTAKEN_S)

    def close(self) -> None:
        for one in self._all:
            one.close()

    def _run(self) -> None:
        tick, due = 0, time.monotonic()
        while not self._stopped.is_set():
            for one in self._all:
                one.say(tick)
            self._hear()
            tick, due = tick + 1, max(due, time.monotonic() - TICK_S) + TICK_S
            time.sleep(max(due - time.monotonic(), 0))

    def _hear_until(self, holds: Callable[[], bool], within_s: float) -> None:
        deadline = time.monotonic() + within_s
        while not holds() and time.monotonic() < deadline:
            time.sleep(TICK_S)
            self._hear()

    def _hear(self) -> None:
        for one in self._all:
            one.hear()


@contextlib.contextmanager
def flowing(lab: Lab, *flows: Flow) -> Iterator[Streams]:
    """Traffic while the context lasts; what became of it may be asked when it has ended."""
    deepen_queues(lab)
    streams = Streams(lab, flows)
    streams.start()
    try:
        yield streams
    finally:
        streams.stop()
        streams.close()


def deepen_queues(lab: Lab, most_sent: int | None = None) -> None:
    """Let nothing be lost because a process that carries packets stands still for a while.

    Only of devices that have sent `most_sent` packets at most: the change loses what is just being sent.
    """
    guests = [f"{one.node}/{one.name}" for one in lab.topology.workloads if one.kind == "vm"]
    for where in (*names(lab), *guests):
        holder = build.target(lab, where)
        found: list[Any] = [*shown_by(holder, ["ip", "-j", "-s", "link", "show", "type", "tun"])]
        shallow = [row for row in found if row and row["txqlen"] != QUEUE]
        if most_sent is not None:
            shallow = [row for row in shallow if row["stats64"]["tx"]["packets"] <= most_sent]
        ip(holder, [f"link set {row['ifname']} txqueuelen {QUEUE}" for row in shallow])


@contextlib.contextmanager
def deepening(lab: Lab) -> Iterator[None]:
    """The same for tunnels that come while the context lasts, before they carry traffic."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(DEEPEN_EVERY_S):
            with contextlib.suppress(MeshfabricError):  # a device went while it was looked at
                deepen_queues(lab, PROBES)

    watcher = threading.Thread(target=watch, name="deepening", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
