"""Network devices: made, set up and observed so that asking twice changes nothing.

Every function takes the whole wanted state, works in the calling thread's network
namespace or, with `netns=<path>`, in another one, and those named `ensure` and
`set` tell whether anything had to be changed. `routes` owns what refers to
devices (routes, rules, neighbours) and `monitor` watches for changes; both are
named here too, so that callers have one door.
"""

import contextlib
import errno
import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

from meshfabric.kernel import netns as namespaces
from meshfabric.kernel import rtnl
from meshfabric.kernel.fault import fault
from meshfabric.kernel.monitor import LinkEvent, monitor
from meshfabric.kernel.routes import (
    Route,
    ensure_neighbours,
    ensure_routes,
    ensure_rules,
    observe_routes,
    observe_rules,
)
from meshfabric.kernel.tun import create_tun
from meshfabric.model.errors import PermanentError, TemporaryError

__all__ = [
    "FABRIC_SYSCTLS",
    "POD_SYSCTLS",
    "Link",
    "LinkEvent",
    "Route",
    "delete",
    "ensure_addresses",
    "ensure_device",
    "ensure_neighbours",
    "ensure_routes",
    "ensure_rules",
    "ensure_sysctls",
    "ensure_tun",
    "ensure_veth",
    "find",
    "monitor",
    "observe",
    "observe_addresses",
    "observe_routes",
    "observe_rules",
    "set_mtu",
    "set_up",
]

POD_SYSCTLS: Mapping[str, str] = {
    "ipv6.accept_dad": "0",  # addresses are ours alone, and a fresh pod must not wait for them
    "ipv6.accept_ra": "0",
    "ipv6.addr_gen_mode": "1",  # no link-local address: nobody on this link speaks to one
}
FABRIC_SYSCTLS: Mapping[str, str] = {
    **POD_SYSCTLS,
    "ipv4.rp_filter": "0",  # sources are checked by the datapath, with identities
    "ipv4.arp_ignore": "8",  # ARP is answered by the datapath, never by the host
}

_SYSCTL_ROOT = Path("/proc/sys/net")
_IFF_UP, _IFF_LOWER_UP = 1, 1 << 16
_IFA_F_NODAD = 0x02
_SCOPE_LINK = 253


@dataclass(frozen=True)
class Link:
    """A device as observed; `kind` is "" for hardware, `peer` the ifindex of a veth's other end (else 0)."""

    name: str
    index: int
    mac: str
    mtu: int
    up: bool
    kind: str
    carrier: bool = False
    peer: int = 0


@namespaces.inside
def observe(*, netns: Path | None = None) -> list[Link]:
    """All devices, by ifindex."""
    with rtnl.session("devices", "list them") as route:
        return sorted((_link(message) for message in route.get_links()), key=lambda link: link.index)


@namespaces.inside
def find(name: str, *, netns: Path | None = None) -> Link | None:
    """The device of this name, or None."""
    with rtnl.session(f"device {name}", "look it up") as route:
        return _find(route, name)


@namespaces.inside
def ensure_veth(
    name: str,
    peer: str,
    peer_netns: Path | None = None,
    macs: tuple[str, str] = ("", ""),
    mtu: int = 0,
    *,
    netns: Path | None = None,
) -> bool:
    """A veth pair: `name` here, `peer` here or in the namespace `peer_netns`, with these MACs and MTU.

    A pair that is not joined like this is made anew. Empty MACs and a zero MTU
    leave what there is. Neither end is set up. Raises PermanentError when
    either name is taken by some other device.
    """
    near, far = find(name), find(peer, netns=peer_netns)
    changed = False
    if near is None or far is None or (near.peer, far.peer) != (far.index, near.index):
        if near is not None:
            if near.kind != "veth":
                raise _taken(near, "a veth pair")
            delete(name)
        _add_veth(name, peer, peer_netns)
        changed = True
    near_changed = _adjust(name, macs[0], mtu)
    far_changed = namespaces.run(peer_netns, _adjust, peer, macs[1], mtu)
    return changed or near_changed or far_changed


@namespaces.inside
def ensure_tun(name: str, *, netns: Path | None = None) -> bool:
    """A persistent TUN device with virtio headers, whoever uses it."""
    existing = find(name)
    if existing is None:
        create_tun(name)
        return True
    if existing.kind != "tun":
        raise _taken(existing, "a TUN device")
    return False


@namespaces.inside
def ensure_device(name: str, kind: str, *, netns: Path | None = None) -> bool:
    """A device of a kind that needs no further parameters, such as "wireguard" or "dummy"."""
    existing = find(name)
    if existing is not None and existing.kind != kind:
        raise _taken(existing, f"a {kind} device")
    if existing is None:
        with rtnl.session(f"device {name}", f"make a {kind} device") as route:
            route.link("add", ifname=name, kind=kind)
    return existing is None


@namespaces.inside
def set_mtu(name: str, mtu: int, *, netns: Path | None = None) -> bool:
    """Set the MTU in bytes."""
    return _adjust(name, "", mtu)


@namespaces.inside
def set_up(name: str, up: bool = True, *, netns: Path | None = None) -> bool:
    """Set the device up, or down."""
    with rtnl.session(f"device {name}", "set it up" if up else "set it down") as route:
        link = _demand(route, name)
        if link.up != up:
            route.link("set", index=link.index, state="up" if up else "down")
        return link.up != up


@namespaces.inside
def delete(name: str, *, netns: Path | None = None) -> bool:
    """Delete the device; False when there was none."""
    with rtnl.session(f"device {name}", "delete it") as route:
        link = _find(route, name)
        if link is not None:
            with rtnl.forgive(errno.ENODEV):  # the other end's namespace may end at the same time
                route.link("del", index=link.index)
        return link is not None


@namespaces.inside
def observe_addresses(name: str, *, netns: Path | None = None) -> set[str]:
    """The device's addresses with prefix length, without IPv6 link-local ones."""
    with rtnl.session(f"device {name}", "list its addresses") as route:
        present = _addresses(route, _demand(route, name).index)
        return {address for address, local in present.items() if not local}


@namespaces.inside
def ensure_addresses(name: str, wanted: set[str], *, netns: Path | None = None) -> bool:
    """The device has exactly the addresses `wanted` ("10.1.0.1/32", "fd00::1/128").

    IPv6 link-local ones that are not wanted are left alone: the kernel makes
    them. New addresses come before old ones go; IPv6 ones are usable at once (no
    duplicate address detection).
    """
    exact = {str(ip_interface(address)) for address in wanted}
    with rtnl.session(f"device {name}", "set its addresses") as route:
        index = _demand(route, name).index
        present = _addresses(route, index)
        stale = {address for address, local in present.items() if not local} - exact
        missing = exact - present.keys()
        for address in sorted(missing):
            _change_address(route, "add", index, address)
        for address in sorted(stale):
            _change_address(route, "del", index, address)
        if stale:  # the kernel removes a primary's secondaries with it, unless promote_secondaries is set
            for address in sorted(exact - _addresses(route, index).keys()):
                _change_address(route, "add", index, address)
        return bool(missing or stale)


@namespaces.inside
def ensure_sysctls(name: str, wanted: Mapping[str, str], *, netns: Path | None = None) -> bool:
    """Settings of one device, as {"ipv6.accept_dad": "0"}: `net.<family>.conf.<device>.<key>`."""
    changed = False
    for key, value in wanted.items():
        family, _, setting = key.partition(".")
        path = _SYSCTL_ROOT / family / "conf" / name / setting
        try:
            if path.read_text().strip() != value:
                path.write_text(value)
                changed = True
        except OSError as cause:
            raise fault(cause, place=str(path), wanted=f"set it to {value}") from cause
    return changed


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


def _demand(route: Any, name: str) -> Link:
    link = _find(route, name)
    if link is None:
        cause = OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        raise fault(cause, place=f"device {name}", wanted="find it")
    return link


def _taken(link: Link, wanted: str) -> PermanentError:
    what = f"the name is taken by a device of kind {link.kind or 'hardware'}, {wanted} was wanted"
    return PermanentError(what, place=f"device {link.name}", remedy="delete or rename that device")


def _add_veth(name: str, peer: str, peer_netns: Path | None) -> None:
    far: dict[str, object] = {"ifname": peer}
    with contextlib.ExitStack() as stack:
        if peer_netns is not None:
            far["net_ns_fd"] = stack.enter_context(_opened(peer_netns))
        route = stack.enter_context(rtnl.session(f"device {name}", f"join it to {peer}"))
        route.link("add", ifname=name, kind="veth", peer=far)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as cause:
        raise TemporaryError("the network namespace is gone", place=str(path)) from cause
    try:
        yield fd
    finally:
        os.close(fd)


def _adjust(name: str, mac: str, mtu: int) -> bool:
    """Set MAC and MTU where they are given and differ."""
    with rtnl.session(f"device {name}", f"set mac {mac or '-'} mtu {mtu or '-'}") as route:
        link = _demand(route, name)
        wanted: dict[str, object] = {}
        if mac and mac.lower() != link.mac:
            wanted["address"] = mac
        if mtu and mtu != link.mtu:
            wanted["mtu"] = mtu
        if wanted:
            route.link("set", index=link.index, **wanted)
        return bool(wanted)


def _addresses(route: Any, index: int) -> dict[str, bool]:
    """Address with prefix length -> whether it is an IPv6 link-local one."""
    return {
        f"{message.get_attr('IFA_LOCAL') or message.get_attr('IFA_ADDRESS')}/{message['prefixlen']}": (
            message["family"] == socket.AF_INET6 and message["scope"] == _SCOPE_LINK
        )
        for message in route.get_addr(index=index)
    }


def _change_address(route: Any, action: str, index: int, address: str) -> None:
    interface = ip_interface(address)
    what = {"index": index, "address": str(interface.ip), "prefixlen": interface.network.prefixlen}
    if interface.version == 6:
        what |= {"family": socket.AF_INET6, "flags": _IFA_F_NODAD}
    with rtnl.forgive(errno.EEXIST, errno.EADDRNOTAVAIL):  # there already, gone already
        route.addr(action, **what)
