"""One end of the traffic that is watched while a segment fails: run as a script inside a pod.

    left  OWN FAR     connect, then send: a datagram each millisecond, a piece of TCP each five
    right OWN FAR     accept, then send datagrams too; take the pieces

Until a line comes on standard input. Then no more is sent, late datagrams are
waited for, the connection is to come to its end, and one line of JSON tells all:
when each datagram was sent, when each came, what became of the connection.

Times are of the machine's clock in ns. That a datagram came is the kernel's own
stamp (SO_TIMESTAMPNS, socket(7)), however late this process is to look. Both ends run at a
real-time priority, so that a busy machine does not make pauses that the network did not.
Standard library only and no import of ours, so that it starts quickly anywhere.
"""

import contextlib
import hashlib
import json
import os
import select
import socket
import struct
import sys
import time

PORT = 7300
PACE_NS = 1_000_000
PIECE_EACH, PIECE = 5, bytes(range(256)) * 40
"""A piece of 10 KiB each 5 datagrams: 16 Mbit/s, far from filling anything."""
CONGESTION = b"cubic"  # whatever the machine's default is
CONNECT_S = 30.0
LATE_S = 0.6
"""How long datagrams may be under way: three times the worst delay that is made."""
FINISH_S = 5.0
"""Patience for the connection's end: retransmissions come after 0.2, 0.4, 0.8 ... s (RFC 6298)."""
BEGUN = "begun"
NUMBER = struct.Struct("!Q")
SO_TIMESTAMPNS, SO_RCVBUFFORCE = 35, 33  # asm-generic/socket.h
TIMESPEC = struct.Struct("qq")
BUFFER_BYTES, ROOM = 4 << 20, 1 << 16
PRIORITY = 1
NS_PER_S = 1_000_000_000


class Datagrams:
    """Numbered datagrams both ways."""

    def __init__(self, own: str, far: str) -> None:
        self.sent: list[int] = []
        self.heard: list[tuple[int, int]] = []
        self._far = (far, PORT)
        self.link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.link.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
        self.link.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self.link.bind((own, PORT))
        self.link.setblocking(False)

    def say(self) -> None:
        """The next one; what the kernel refuses counts as sent and lost."""
        self.sent.append(time.time_ns())
        with contextlib.suppress(OSError):
            self.link.sendto(NUMBER.pack(len(self.sent) - 1), self._far)

    def hear(self) -> None:
        """All that have come by now."""
        with contextlib.suppress(BlockingIOError):
            while True:
                try:
                    data, ancillary, _, _ = self.link.recvmsg(NUMBER.size, socket.CMSG_SPACE(TIMESPEC.size))
                except ConnectionRefusedError:
                    continue
                seconds, ns = TIMESPEC.unpack(ancillary[0][2])
                self.heard.append((NUMBER.unpack(data)[0], seconds * NS_PER_S + ns))


class Transfer:
    """A connection; one side sends, the other takes."""

    def __init__(self, link: socket.socket, *, sends: bool) -> None:
        self._link, self._sends = link, sends
        self._digest = hashlib.sha256()
        self._bytes = 0
        self._error = ""
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, CONGESTION)
        link.setblocking(False)

    def turn(self, number: int) -> None:
        """Send a piece if it is time, or take what has come."""
        if self._error:
            return
        try:
            if not self._sends:
                self._take_all()
            elif number % PIECE_EACH == 0:
                self._note(PIECE[: self._link.send(PIECE)])
        except BlockingIOError:
            return  # nothing has come, or the far end has not taken what was sent
        except OSError as error:
            self._error = str(error)

    def finish(self) -> dict[str, object]:
        """Come to the end: the sender when the other has closed, the other when all has come."""
        self._link.settimeout(FINISH_S)
        ended = False
        try:
            if self._sends:
                self._link.shutdown(socket.SHUT_WR)
                ended = not self._link.recv(1)
            else:
                self._take_all()
                ended = True
        except OSError as error:
            self._error = self._error or str(error)
        self._link.close()
        return {
            "ended": ended and not self._error,
            "bytes": self._bytes,
            "sha256": self._digest.hexdigest(),
            "error": self._error,
        }

    def _take_all(self) -> None:
        """Until the far end has closed."""
        while piece := self._link.recv(ROOM):
            self._note(piece)

    def _note(self, piece: bytes) -> None:
        self._digest.update(piece)
        self._bytes += len(piece)


def connected(side: str, own: str, far: str) -> socket.socket:
    """The connection, tried again and again for a while."""
    if side == "right":
        with socket.create_server((own, PORT)) as listener:
            listener.settimeout(CONNECT_S)
            print(BEGUN, flush=True)
            return listener.accept()[0]
    deadline = time.monotonic() + CONNECT_S
    while True:
        try:
            return socket.create_connection((far, PORT), timeout=1.0)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def main(side: str, own: str, far: str) -> None:
    """Until told to stop; then one line of JSON."""
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
    datagrams = Datagrams(own, far)
    transfer = Transfer(connected(side, own, far), sends=side == "left")
    if side == "left":
        print(BEGUN, flush=True)
    begun = time.monotonic_ns()
    while True:
        number = len(datagrams.sent)
        wait_ns = max(begun + number * PACE_NS - time.monotonic_ns(), 0)
        ready, _, _ = select.select([sys.stdin, datagrams.link], [], [], wait_ns / NS_PER_S)
        datagrams.hear()
        if sys.stdin in ready:
            break
        if begun + number * PACE_NS <= time.monotonic_ns():
            datagrams.say()
            transfer.turn(number)
    finish(datagrams, transfer)


def finish(datagrams: Datagrams, transfer: Transfer) -> None:
    """Hear what is late, end the connection, tell all."""
    deadline = time.monotonic() + LATE_S
    while (left := deadline - time.monotonic()) > 0:
        select.select([datagrams.link], [], [], left)
        datagrams.hear()
    told = {"sent": datagrams.sent, "heard": datagrams.heard, "tcp": transfer.finish()}
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
