"""Programs as filters of the clsact qdisc: the way to attach before tcx (Linux 4.5 to 6.5).

    ingress   filters by priority: ours has the first, 1
    egress    filters by priority: ours has the last, 65535; the kernel gives others 49152 and less

A filter stays on its device until it is deleted, with nobody holding it, so that
no agent is needed for it; there is no link that could be pinned. Whose a filter is
tells its name, `meshfabric:<owner>`; its handle is made of the owner too, so that
two fabrics have one each on an uplink. Changing the program of a filter is one
step for the packets (net/sched/cls_bpf.c replaces by RCU).

The qdisc is left when the last filter is gone: somebody else may count on it, and
an empty one does nothing. `attach` keeps the pins.
"""

import errno
import socket
import sys
import zlib
from collections.abc import Iterable
from typing import Any

from meshfabric.kernel import rtnl
from meshfabric.kernel.bpf_link import Direction, Runnable
from meshfabric.model.errors import PermanentError

SINCE = "4.5"
PARENT = {Direction.INGRESS: 0xFFFFFFF2, Direction.EGRESS: 0xFFFFFFF3}  # TC_H_CLSACT, TC_H_MIN_(IN|E)GRESS
PRIORITY = {Direction.INGRESS: 1, Direction.EGRESS: 0xFFFF}
PRIORITY_SHIFT = 16  # tcm_info: priority above, protocol below
PROTOCOL_MASK = 0xFFFF
ETH_P_ALL = 3
TCA_BPF_ID = 11
ATTRIBUTE_HEADER_BYTES = 4

Spot = tuple[int, Direction]
"""An ifindex and a direction."""


def prepare(spot: Spot, owner: str) -> None:
    """Make the qdisc, and see that nobody else's filter is where ours goes.

    Raises TemporaryError when the device is gone, PermanentError when somebody
    else has the handle.
    """
    index, direction = spot
    with _session(index, "add the clsact queue") as route:
        with rtnl.forgive(errno.EEXIST):
            route.tc("add", "clsact", index=index)
        for filter in _at_priority(route, spot):
            if _is_in_the_way(filter, owner):
                what = f"a filter {_name(filter)!r} has our place at {direction.name.lower()}"
                remedy = f"give it another priority than {PRIORITY[direction]}"
                raise PermanentError(what, place=f"device {index}", remedy=remedy)


def hang(program: Runnable, spot: Spot, owner: str) -> None:
    """Let the program run there instead of the one that does, if any; `prepare` comes first."""
    with _session(spot[0], f"attach {program.name or 'a program'} at {spot[1].name.lower()}") as route:
        where = _where(spot, owner)
        route.tc("replace-filter", "bpf", fd=program.fd, name=_label(owner), direct_action=True, **where)


def hanging(spots: Iterable[Spot], owner: str) -> dict[Spot, int]:
    """The id of the owner's program at each of these spots, where one runs."""
    found: dict[Spot, int] = {}
    with rtnl.session("filters", "list them") as route:
        for spot in spots:
            for filter in _ours(route, spot, owner):
                found[spot] = _program_id(filter)
    return found


def take_off(spot: Spot, owner: str) -> bool:
    """Remove the owner's filter, and nobody else's; False when there is none."""
    with _session(spot[0], "remove our filter") as route:
        ours = _ours(route, spot, owner)
        if ours:
            with rtnl.forgive(errno.ENOENT, errno.ENODEV, errno.EINVAL):  # gone already
                route.tc("del-filter", "bpf", **_where(spot, owner))
        return bool(ours)


def _session(index: int, wanted: str) -> Any:
    return rtnl.session(f"device {index}", wanted)


def _label(owner: str) -> str:
    return f"meshfabric:{owner}"


def _handle(owner: str) -> int:
    return zlib.crc32(owner.encode()) or 1  # 0 would be any


def _where(spot: Spot, owner: str) -> dict[str, int]:
    index, direction = spot
    priority = {"prio": PRIORITY[direction], "protocol": ETH_P_ALL}
    return {"index": index, "parent": PARENT[direction], "handle": _handle(owner), **priority}


def _at_priority(route: Any, spot: Spot) -> list[Any]:
    """The filters at our priority; none where there is no clsact."""
    index, direction = spot
    with rtnl.forgive(errno.EINVAL, errno.ENODEV, errno.ENOENT, errno.EOPNOTSUPP):
        return [
            filter
            for filter in route.get_filters(index=index, parent=PARENT[direction])
            if filter["info"] >> PRIORITY_SHIFT == PRIORITY[direction]
        ]
    return []


def _ours(route: Any, spot: Spot, owner: str) -> list[Any]:
    """One filter at most."""
    return [
        filter
        for filter in _at_priority(route, spot)
        if filter["handle"] == _handle(owner) and not _is_in_the_way(filter, owner)
    ]


def _is_in_the_way(filter: Any, owner: str) -> bool:
    """All filters of a priority are of one kind, and of those one has our handle."""
    if filter.get_attr("TCA_KIND") != "bpf" or filter["info"] & PROTOCOL_MASK != socket.htons(ETH_P_ALL):
        return True
    return filter["handle"] == _handle(owner) and _name(filter) != _label(owner)


def _name(filter: Any) -> str:
    options = filter.get_attr("TCA_OPTIONS")
    return str(options.get_attr("TCA_BPF_NAME") or "") if options else ""


def _program_id(filter: Any) -> int:
    """An attribute that pyroute2 has no name for; 0 if the kernel does not tell it (before 4.13)."""
    for _, value in filter.get_attr("TCA_OPTIONS")["attrs"]:
        header = value["header"] if hasattr(value, "offset") else {}
        if header and header["type"] == TCA_BPF_ID:
            start = value.offset + ATTRIBUTE_HEADER_BYTES
            return int.from_bytes(value.data[start : value.offset + header["length"]], sys.byteorder)
    return 0
