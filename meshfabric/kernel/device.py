"""Network devices themselves: found, made, set up and deleted so that asking twice changes nothing.

`pairs` makes those that come in twos, `links` is the door to both and owns
addresses and settings. Every function works in the calling thread's network
namespace or, with `netns=<path>`, in another one.
"""

import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meshfabric.kernel import rtnl
from meshfabric.kernel.fault import fault
from meshfabric.kernel.netns import inside
from meshfabric.kernel.tun import create_tun
from meshfabric.model.errors import PermanentError

_IFF_UP, _IFF_LOWER_UP = 1, 1 << 16


@dataclass(frozen=True)
class Link:
    """A device as observed; `kind` is "" for hardware, `peer` the ifindex of a pair's other end (else 0)."""

    name: str
    index: int
    mac: str
    mtu: int
    up: bool
    kind: str
    carrier: bool = False
    peer: int = 0


@inside
def observe(*, netns: Path | None = None) -> list[Link]:
    """All devices, by ifindex."""
    with rtnl.session("devices", "list them") as route:
        return sorted((_link(message) for message in route.get_links()), key=lambda link: link.index)


@inside
def find(name: str, *, netns: Path | None = None) -> Link | None:
    """The device of this name, or None."""
    with rtnl.session(f"device {name}", "look it up") as route:
        return _find(route, name)


@inside
def mac_of(name: str, *, netns: Path | None = None) -> str:
    """The device's MAC, all zeros where it has none; raises TemporaryError when there is no such device."""
    with rtnl.session(f"device {name}", "look it up") as route:
        return demand(route, name).mac


@inside
def ensure_tun(name: str, *, netns: Path | None = None) -> bool:
    """A persistent TUN device with virtio headers, whoever uses it."""
    existing = find(name)
    if existing is None:
        create_tun(name)
        return True
    if existing.kind != "tun":
        raise taken(existing, "a TUN device")
    return False


@inside
def ensure_device(name: str, kind: str, *, netns: Path | None = None) -> bool:
    """A device of a kind that needs no further parameters, such as "wireguard" or "dummy"."""
    existing = find(name)
    if existing is not None and existing.kind != kind:
        raise taken(existing, f"a {kind} device")
    if existing is None:
        with rtnl.session(f"device {name}", f"make a {kind} device") as route:
            route.link("add", ifname=name, kind=kind)
    return existing is None


@inside
def set_mtu(name: str, mtu: int, *, netns: Path | None = None) -> bool:
    """Set the MTU in bytes."""
    return adjust(name, "", mtu)


@inside
def set_up(name: str, up: bool = True, *, netns: Path | None = None) -> bool:
    """Set the device up, or down."""
    with rtnl.session(f"device {name}", "set it up" if up else "set it down") as route:
        link = demand(route, name)
        if link.up != up:
            route.link("set", index=link.index, state="up" if up else "down")
        return link.up != up


@inside
def delete(name: str, *, netns: Path | None = None) -> bool:
    """Delete the device; False when there was none."""
    with rtnl.session(f"device {name}", "delete it") as route:
        link = _find(route, name)
        if link is not None:
            with rtnl.forgive(errno.ENODEV):  # the other end's namespace may end at the same time
                route.link("del", index=link.index)
        return link is not None


def demand(route: Any, name: str) -> Link:
    """The device of this name, in a session of `rtnl`; raises TemporaryError when there is none."""
    link = _find(route, name)
    if link is None:
        cause = OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        raise fault(cause, place=f"device {name}", wanted="find it")
    return link


def taken(link: Link, wanted: str) -> PermanentError:
    """The error to raise when a device of somebody else's is in the way."""
    what = f"the name is taken by a device of kind {link.kind or 'hardware'}, {wanted} was wanted"
    return PermanentError(what, place=f"device {link.name}", remedy="delete or rename that device")


def adjust(name: str, mac: str, mtu: int) -> bool:
    """Set MAC and MTU where they are given and differ."""
    with rtnl.session(f"device {name}", f"set mac {mac or '-'} mtu {mtu or '-'}") as route:
        link = demand(route, name)
        wanted: dict[str, object] = {}
        if mac and mac.lower() != link.mac:
            wanted["address"] = mac
        if mtu and mtu != link.mtu:
            wanted["mtu"] = mtu
        if wanted:
            route.link("set", index=link.index, **wanted)
        return bool(wanted)


def _link(message: Any) -> Link:
    return Link(
        name=message.get_attr("IFLA_IFNAME"),
        index=message["index"],
        mac=message.get_attr("IFLA_ADDRESS") or "",
        mtu=message.get_attr("IFLA_MTU"),
        up=bool(message["flags"] & _IFF_UP),
        kind=message.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") or "",
        carrier=bool(message["flags"] & _IFF_LOWER_UP),
        peer=message.get_attr("IFLA_LINK") or 0,
    )


def _find(route: Any, name: str) -> Link | None:
    return next((_link(message) for message in route.get_links(ifname=name)), None)
