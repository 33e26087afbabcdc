"""Queues that hold a packet back: what paces the probes' token (`delays`), tried by `features`.

    fq    sends at the time that the program wrote on the token
    tbf   a rate of one token an interval, and no room for two
    htb   the same

Setting a queue again as it is keeps what waits in it.
"""

import contextlib
import errno
from collections.abc import Callable
from typing import Any

from meshfabric.kernel import rtnl
from meshfabric.model.errors import MeshfabricError

TOKEN_BYTES = 86  # an Ethernet header and a probe of IPv4 (struct blank in bpf/lib/token.h)
BUCKET_BYTES = TOKEN_BYTES + 2  # bytes become ticks of a clock and bytes again, rounded down
QUEUE_BYTES = 10 * TOKEN_BYTES
MS_PER_S = 1000
HANDLE, CLASS = 0x10000, 0x10001  # 1: and 1:1
ROOT = 0xFFFFFFFF
ABSENT = errno.ENOENT, errno.EINVAL  # what the kernel says of a queue that is not there

MakeQueue = Callable[[Any, int, int], None]


def set_queue(device: str, ifindex: int, queue: str, interval_ms: int) -> None:
    """This kind of queue, holding back a token for `interval_ms`; another kind goes first."""
    root = root_of(device, ifindex)
    with rtnl.session(f"device {device}", f"set the queue {queue}") as route:
        if root[1] == HANDLE and root[0] != queue:
            route.tc("del", index=ifindex, root=True)
            root = ("", 0)
        if queue != "htb" or root != (queue, HANDLE):  # of that only a class can be changed
            QUEUES[queue](route, ifindex, interval_ms)
        if queue == "htb":
            _set_class(route, ifindex, interval_ms)


def root_of(device: str, ifindex: int) -> tuple[str, int]:
    """Kind and handle of the queue that the device sends by; its handle is HANDLE if it is ours."""
    with rtnl.session(f"device {device}", "list its queues") as route:
        for message in route.get_qdiscs():
            if message["index"] == ifindex and message["parent"] == ROOT:
                return message.get_attr("TCA_KIND"), message["handle"]
    return "", 0


def try_queues(device: str, ifindex: int) -> str:
    """The first kind of queue that can be made on the device, which has none of them afterwards.

    Raises the last kind's error when none can.
    """
    *others, last = QUEUES
    for queue in others:
        with contextlib.suppress(MeshfabricError):
            return _tried(device, ifindex, queue)
    return _tried(device, ifindex, last)


def _tried(device: str, ifindex: int, queue: str) -> str:
    try:
        set_queue(device, ifindex, queue, MS_PER_S)
    finally:
        with rtnl.session(f"device {device}", "remove its queue") as route, rtnl.forgive(*ABSENT):
            route.tc("del", index=ifindex, root=True)
    return queue


class _Plain:
    """What pyroute2 has to know of a kind of queue that is made without options: where it goes."""

    parent = ROOT


def _bytes_per_s(interval_ms: int) -> int:
    return max(TOKEN_BYTES * MS_PER_S // interval_ms, 1)


def _set_fq(route: Any, ifindex: int, interval_ms: int) -> None:
    route.tc("modules").setdefault("fq", _Plain)
    route.tc("replace", "fq", index=ifindex, handle=HANDLE)


def _set_tbf(route: Any, ifindex: int, interval_ms: int) -> None:
    rate = _bytes_per_s(interval_ms)
    route.tc("replace", "tbf", index=ifindex, handle=HANDLE, rate=rate, burst=BUCKET_BYTES, limit=QUEUE_BYTES)


def _set_htb(route: Any, ifindex: int, interval_ms: int) -> None:
    route.tc("replace", "htb", index=ifindex, handle=HANDLE, default=CLASS & 0xFFFF)


def _set_class(route: Any, ifindex: int, interval_ms: int) -> None:
    rate = _bytes_per_s(interval_ms)
    bucket = {"rate": rate, "ceil": rate, "burst": BUCKET_BYTES, "cburst": BUCKET_BYTES}
    route.tc("replace-class", "htb", index=ifindex, handle=CLASS, parent=HANDLE, **bucket)


QUEUES: dict[str, MakeQueue] = {"fq": _set_fq, "tbf": _set_tbf, "htb": _set_htb}
"""How each kind is made, the best first."""
