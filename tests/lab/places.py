"""Sockets in the places of a lab, used from the test itself, and what can be said with them.

A socket belongs to the namespace that it is made in, by a thread that goes
there; then it may be used from anywhere. So every pair of places is tried
without starting a process.
"""

import contextlib
import errno
import itertools
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from meshfabric.kernel import netns
from meshfabric.lab import build
from meshfabric.lab.state import Lab
from tests.patience import DEADLINE_S, PATIENCE

IP_TRANSPARENT, IPV6_TRANSPARENT = 19, 75  # linux/in.h, linux/in6.h
IP_MTU_DISCOVER, IPV6_MTU_DISCOVER, PMTUDISC_DO = 10, 23, 2
SO_RCVBUFFORCE = 33
ECHO_PORT = 7007
ANSWER_S = DEADLINE_S
SILENCE_S = 0.4 * PATIENCE
"""How long nothing has to be heard to say that nothing comes; what shows that it was dropped is better."""
LARGEST = 65536
ECHO4, REPLY4, ECHO6, REPLY6 = 8, 0, 128, 129
_ECHO = struct.Struct("!BBHHH")
_numbers = itertools.count(1)


class Packets(NamedTuple):
    """An echo request: `size` bytes after its header, whole or not at all (`whole`), `hops` to live."""

    size: int = 56
    whole: bool = False
    hops: int = 64


PLAIN = Packets()


def namespace(lab: Lab, where: str) -> Path:
    """The network namespace of `NODE`, `NODE/WORKLOAD` or `underlay`."""
    return Path(f"/proc/{build.target(lab, where).pid}/ns/net")


@contextlib.contextmanager
def opened(lab: Lab, where: str, family: int, kind: int, protocol: int = 0) -> Iterator[socket.socket]:
    """A socket that belongs to a place."""
    with netns.run(namespace(lab, where), socket.socket, family_of(family), kind, protocol) as link:
        link.settimeout(ANSWER_S)
        yield link


def family_of(version: int) -> socket.AddressFamily:
    return socket.AF_INET6 if version == 6 else socket.AF_INET


def version_of(address: str) -> int:
    return ip_address(address).version


def ping(
    lab: Lab,
    where: str,
    to: str,
    packets: Packets = PLAIN,
    *,
    source: str = "",
    answer_s: float = ANSWER_S,
) -> float | None:
    """Seconds until the echo was back, byte for byte; None if nothing came. `source` may be another's."""
    version = version_of(to)
    protocol = socket.IPPROTO_ICMPV6 if version == 6 else socket.IPPROTO_ICMP
    request = _echo_request(version, packets.size)
    with opened(lab, where, version, socket.SOCK_RAW, protocol) as link:
        _prepare(link, version, packets, source)
        begun = time.monotonic()
        link.sendto(request, (to, 0))
        while (left := begun + answer_s - time.monotonic()) > 0:
            link.settimeout(left)
            with contextlib.suppress(TimeoutError):
                if _is_reply(version, link.recvfrom(LARGEST), to, request):
                    return time.monotonic() - begun
    return None


def is_too_big(lab: Lab, where: str, to: str, size: int) -> bool:
    """Whether the sender's own kernel refuses an echo request of this size that may not be cut up."""
    try:
        ping(lab, where, to, Packets(size, whole=True), answer_s=0)
    except OSError as error:
        if error.errno != errno.EMSGSIZE:
            raise
        return True
    return False


def connects(lab: Lab, where: str, to: str, port: int = ECHO_PORT, answer_s: float = ANSWER_S) -> bool:
    """Whether a TCP connection to an `Echo` comes up and answers; False when nothing comes back."""
    with opened(lab, where, version_of(to), socket.SOCK_STREAM) as link:
        link.settimeout(answer_s)
        try:
            link.connect((to, port))
            return asked(link, b"hello")
        except TimeoutError:
            return False


def asked(link: socket.socket, text: bytes) -> bool:
    """Whether what is said on a connection to an `Echo` comes back; False when nothing does."""
    try:
        link.sendall(text)
        return link.recv(len(text), socket.MSG_WAITALL) == text
    except TimeoutError:
        return False


def answers(
    lab: Lab, where: str, to: str, size: int = 64, port: int = ECHO_PORT, answer_s: float = ANSWER_S
) -> bool:
    """Whether a datagram of `size` bytes comes back from an `Echo`, byte for byte."""
    text = os.urandom(size)
    with opened(lab, where, version_of(to), socket.SOCK_DGRAM) as link:
        link.settimeout(answer_s)
        link.connect((to, port))
        link.send(text)
        try:
            return link.recv(LARGEST) == text
        except TimeoutError:
            return False


class Echo:
    """Answers TCP and UDP, both families, on every address of some places; ends with the context."""

    def __init__(self, lab: Lab, *where: str, ports: Sequence[int] = (ECHO_PORT,)) -> None:
        self._poll = select.poll()
        self._open: dict[int, socket.socket] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="echo", daemon=True)
        for one, port in itertools.product(where, ports):
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                self._watch(netns.run(namespace(lab, one), _bound, kind, port))

    def __enter__(self) -> "Echo":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        for link in self._open.values():
            link.close()

    def _run(self) -> None:
        while not self._ended.is_set():
            for number, _ in self._poll.poll(20):
                self._serve(self._open[number])

    def _serve(self, link: socket.socket) -> None:
        if link.type == socket.SOCK_STREAM and not link.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            if not _answered(link):
                self._forget(link)
            return
        with contextlib.suppress(OSError):  # an error that came back, or somebody who is gone already
            if link.type == socket.SOCK_STREAM:
                self._watch(link.accept()[0])
            else:
                text, sender = link.recvfrom(LARGEST)
                link.sendto(text, sender)

    def _watch(self, link: socket.socket) -> None:
        self._open[link.fileno()] = link
        self._poll.register(link, select.POLLIN)

    def _forget(self, link: socket.socket) -> None:
        self._poll.unregister(link)
        del self._open[link.fileno()]
        link.close()


def send_frame(lab: Lab, where: str, device: str, frame: Packet, times: int = 1) -> None:
    """Put a frame on a device as it is, past everything that routes; a drop at once is no error."""
    with netns.run(namespace(lab, where), socket.socket, socket.AF_PACKET, socket.SOCK_RAW) as link:
        link.bind((device, 0))
        for _ in range(times):
            try:
                link.send(bytes(frame))
            except OSError as error:
                if error.errno != errno.ENOBUFS:  # what a program that drops at egress looks like
                    raise


def clear(source: str, destination: str, *, to_mac: str = "ff:ff:ff:ff:ff:ff") -> Packet:
    """A frame that carries a datagram between these addresses in clear."""
    network = IPv6 if version_of(source) == 6 else IP
    head = Ether(src="02:00:00:00:00:99", dst=to_mac)
    return head / network(src=source, dst=destination) / UDP(sport=4000, dport=4001) / Raw(b"in clear")


def stranger(source: str, destination: str, port: int = 4001) -> Packet:
    """A frame between addresses that are not the fabric's."""
    return Ether(dst="ff:ff:ff:ff:ff:ff") / IP(src=source, dst=destination) / UDP(sport=4000, dport=port)


def _answered(link: socket.socket) -> bool:
    """Send back what was said on a connection; False when that has ended, however it did."""
    try:
        text = link.recv(LARGEST)
        link.sendall(text)
    except OSError:
        return False
    return bool(text)


def _bound(kind: int, port: int) -> socket.socket:
    """Bound to every address of both families, so that it answers from the one that was asked."""
    link = socket.socket(socket.AF_INET6, kind)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    link.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    link.bind(("::", port))
    if kind == socket.SOCK_STREAM:
        link.listen(64)
    return link


def _prepare(link: socket.socket, version: int, packets: Packets, source: str) -> None:
    level = socket.IPPROTO_IPV6 if version == 6 else socket.IPPROTO_IP
    link.setsockopt(level, socket.IPV6_UNICAST_HOPS if version == 6 else socket.IP_TTL, packets.hops)
    if packets.whole:
        link.setsockopt(level, IPV6_MTU_DISCOVER if version == 6 else IP_MTU_DISCOVER, PMTUDISC_DO)
    if source:
        link.setsockopt(level, IPV6_TRANSPARENT if version == 6 else IP_TRANSPARENT, 1)
        link.bind((source, 0))
    link.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 20)


def _echo_request(version: int, size: int) -> bytes:
    kind = ECHO6 if version == 6 else ECHO4
    body = os.urandom(size)
    number = next(_numbers) & 0xFFFF
    head = _ECHO.pack(kind, 0, 0, os.getpid() & 0xFFFF, number)
    check = 0 if version == 6 else _checksum(head + body)  # the kernel computes ICMPv6's
    return _ECHO.pack(kind, 0, check, os.getpid() & 0xFFFF, number) + body


def _is_reply(version: int, received: tuple[bytes, tuple[str, int]], to: str, request: bytes) -> bool:
    message, (sender, *_) = received
    if version == 4:
        message = message[4 * (message[0] & 0x0F) :]
    wanted = REPLY6 if version == 6 else REPLY4
    return message[0] == wanted and ip_address(sender) == ip_address(to) and message[4:] == request[4:]


def _checksum(data: bytes) -> int:
    padded = data + b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
