"""Counts what the nodes put on a segment: all of it, what is in clear, what is encrypted.

Owns packet sockets on the segment's ports; `frames` owns the recognition. The
kernel counts for each socket what its filter lets through, whether anybody
reads it or not (packet(7), PACKET_STATISTICS): nothing is missed under load and
nothing is copied. A segment of a TCP stream that the network card would cut up
counts once.
"""

import contextlib
import ctypes
import socket
import struct
from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

from meshfabric.kernel import netns
from meshfabric.lab import frames
from meshfabric.lab.state import Lab
from meshfabric.lab.underlay import port_name
from meshfabric.model.settings import DatapathSettings

SOL_PACKET, PACKET_STATISTICS, PACKET_IGNORE_OUTGOING = 263, 6, 23  # linux/if_packet.h
SO_ATTACH_FILTER, ETH_P_ALL = 26, 0x0003
_STATISTICS = struct.Struct("II")
_FILTER = struct.Struct("HBBI")
_SHOWN_PACKETS = 10


class Counts(NamedTuple):
    """Packets that the nodes have sent into a segment since the capture began.

    `fabric` have a fabric address in their outer header: none may, ever.
    `encrypted` are WireGuard's data messages, keepalives among them; `plain` are packets between nodes that
    both take them without encryption, with fabric addresses inside.
    """

    total: int
    fabric: int
    encrypted: int
    plain: int


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


class Capture:
    """A running count of one segment; made by `capture`."""

    def __init__(self, sockets: Sequence[list[socket.socket]]) -> None:
        self._sockets = sockets
        self._counts = [0 for _ in sockets]

    def counts(self) -> Counts:
        """What has been seen until now."""
        for i, each in enumerate(self._sockets):
            self._counts[i] += sum(map(_taken, each))
        return Counts(*self._counts)

    def in_clear(self) -> list[str]:
        """The first few packets with fabric addresses, as `10.64.1.2 > 10.64.2.3`, to tell whose they are."""
        fabric = self._sockets[Counts._fields.index("fabric")]
        return [_shown(frame) for each in fabric for frame in _kept(each)][:_SHOWN_PACKETS]


@contextlib.contextmanager
def capture(lab: Lab, segment: str) -> Iterator[Capture]:
    """Count on a segment while the context lasts; `counts` may be asked at any time within.

    Raises `InputError` for an unknown segment.
    """
    topology = lab.topology
    ports = [port_name(topology, port.node, port.slot) for port in topology.ports(segment)]
    programs = (
        frames.everything(),
        frames.addresses_in(topology.prefixes),
        frames.wireguard_data(),
        frames.udp_to(DatapathSettings().plain_port),
    )
    with contextlib.ExitStack() as opened:
        sockets = netns.run(Path(f"/proc/{lab.init.pid}/ns/net"), _open_all, ports, programs, opened)
        yield Capture(sockets)


def _open_all(
    ports: Sequence[str], programs: Sequence[Sequence[frames.Instruction]], opened: contextlib.ExitStack
) -> list[list[socket.socket]]:
    return [[opened.enter_context(_open(port, program)) for port in ports] for program in programs]


def _open(port: str, program: Sequence[frames.Instruction]) -> socket.socket:
    # Protocol 0 hears nothing until it is bound, by when the filter is in place.
    tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    attach_filter(tap, program)
    tap.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    tap.setblocking(False)
    tap.bind((port, ETH_P_ALL))
    return tap


def attach_filter(tap: socket.socket, program: Sequence[frames.Instruction]) -> None:
    """Let a socket receive only what a program accepts (SO_ATTACH_FILTER, socket(7))."""
    packed = b"".join(_FILTER.pack(*instruction) for instruction in program)
    tap.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, bytes(_Program(len(program), packed)))


def _taken(tap: socket.socket) -> int:
    """Packets accepted since the last call, dropped ones included; asking resets the kernel's counter."""
    packets, _ = _STATISTICS.unpack(tap.getsockopt(SOL_PACKET, PACKET_STATISTICS, _STATISTICS.size))
    return int(packets)


def _kept(tap: socket.socket) -> Iterator[bytes]:
    with contextlib.suppress(BlockingIOError):
        while True:
            yield tap.recv(frames.ACCEPT_BYTES)


def _shown(frame: bytes) -> str:
    ethertype = int.from_bytes(frame[frames.ETHERTYPE_AT : frames.IP_AT])
    starts = frames.IPV6_ADDRESSES_AT if ethertype == frames.ETHERTYPE_IPV6 else frames.IPV4_ADDRESSES_AT
    length = starts[1] - starts[0]  # the two addresses follow each other
    source, destination = (ip_address(frame[at : at + length]) for at in starts)
    return f"{source} > {destination}"
