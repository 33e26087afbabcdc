"""Tells of changes to network devices as they happen (RTNLGRP_LINK and the address groups).

The agent awaits the events of its own network namespace and then observes by
`links`; what is told here is a hint, complete only until an event `lost` says
that the kernel's queue ran over and everything has to be observed anew.
"""

import asyncio
import contextlib
import errno
import socket
import struct
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from typing import Literal

RTM_NEWLINK, RTM_DELLINK, RTM_NEWADDR, RTM_DELADDR = 16, 17, 20, 21
_GROUPS = 0x1 | 0x10 | 0x100  # RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length type flags sequence pid
_LINK = struct.Struct("=BxHiII")  # struct ifinfomsg: family type index flags change
_ADDRESS = struct.Struct("=BBBBI")  # struct ifaddrmsg: family prefixlen flags scope index
_ATTRIBUTE = struct.Struct("=HH")
_ALIGN = 4
_MTU = struct.Struct("=I")
_IFLA_IFNAME, _IFLA_MTU = 3, 4
_IFF_UP, _IFF_LOWER_UP = 1, 1 << 16
_AF_BRIDGE = 7  # a bridge tells of its ports in link messages of its own
RECEIVE_BYTES = 1 << 16
QUEUE_BYTES = 1 << 20  # bursts of events, as when hundreds of pods start

Change = Literal["up", "down", "mtu", "gone", "addresses", "lost"]


@dataclass(frozen=True)
class LinkEvent:
    """`up` means set up and with carrier; a device that was not told of before is `up` or `down` too.

    `mtu`: nothing but that is another.

    `name` and `index` are empty with `lost`; `name` may be with `addresses`.
    """

    change: Change
    name: str = ""
    index: int = 0


@contextlib.contextmanager
def monitor() -> Iterator[AsyncGenerator[LinkEvent, None]]:
    """The changes in the calling thread's network namespace, from the moment of entering on.

    Enter, observe, then `async for`: so nothing falls between. The iterator has no end.
    """
    with socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
    ) as link:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, QUEUE_BYTES)
        link.bind((0, _GROUPS))
        yield _events(link)


async def _events(link: socket.socket) -> AsyncGenerator[LinkEvent, None]:
    loop, reader = asyncio.get_running_loop(), _Reader()
    while True:
        try:
            data = await loop.sock_recv(link, RECEIVE_BYTES)
        except OSError as cause:
            if cause.errno != errno.ENOBUFS:
                raise
            yield LinkEvent("lost")
            continue
        for event in reader.read(data):
            yield event


class _Reader:
    """Turns messages into events, remembering names and states to tell only what changed."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[str, bool, int]] = {}

    def read(self, data: bytes) -> Iterator[LinkEvent]:
        at = 0
        while at + _HEADER.size <= len(data):
            length, kind, *_ = _HEADER.unpack_from(data, at)
            body = data[at + _HEADER.size : at + length]
            if kind in (RTM_NEWLINK, RTM_DELLINK):
                yield from self._link(kind, body)
            elif kind in (RTM_NEWADDR, RTM_DELADDR):
                index = _ADDRESS.unpack_from(body)[-1]
                yield LinkEvent("addresses", self._known.get(index, ("",))[0], index)
            at += -(-max(length, _HEADER.size) // _ALIGN) * _ALIGN

    def _link(self, kind: int, body: bytes) -> Iterator[LinkEvent]:
        family, _, index, flags, _ = _LINK.unpack_from(body)
        if family == _AF_BRIDGE:
            return
        name, mtu = _name_and_mtu(body[_LINK.size :])
        if kind == RTM_DELLINK:
            self._known.pop(index, None)
            yield LinkEvent("gone", name, index)
            return
        up = bool(flags & _IFF_UP and flags & _IFF_LOWER_UP)
        before, self._known[index] = self._known.get(index), (name, up, mtu)
        if before is None or before[:2] != (name, up):
            yield LinkEvent("up" if up else "down", name, index)
        elif before[2] != mtu:
            yield LinkEvent("mtu", name, index)


def _name_and_mtu(attributes: bytes) -> tuple[str, int]:
    name, mtu, at = "", 0, 0
    while at + _ATTRIBUTE.size <= len(attributes):
        length, kind = _ATTRIBUTE.unpack_from(attributes, at)
        if kind == _IFLA_IFNAME:
            name = attributes[at + _ATTRIBUTE.size : at + length].rstrip(b"\0").decode()
        elif kind == _IFLA_MTU:
            (mtu,) = _MTU.unpack_from(attributes, at + _ATTRIBUTE.size)
        at += -(-max(length, _ATTRIBUTE.size) // _ALIGN) * _ALIGN
    return name, mtu
