"""Network devices: made, set up and observed so that asking twice changes nothing.

Every function takes the whole wanted state, works in the calling thread's network
namespace or, with `netns=<path>`, in another one, and those named `ensure` and
`set` tell whether anything had to be changed. `device` and `pairs` make the
devices, `routes` owns what refers to them (routes, rules, neighbours) and `monitor`
watches for changes; all are named here too, so that callers have one door.
Addresses and settings of devices are here.
"""

import errno
import socket
from collections.abc import Mapping
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

from meshfabric.kernel import rtnl
from meshfabric.kernel.device import (
    Link,
    delete,
    demand,
    ensure_device,
    ensure_tun,
    find,
    mac_of,
    observe,
    set_mtu,
    set_up,
)
from meshfabric.kernel.fault import fault
from meshfabric.kernel.monitor import LinkEvent, monitor
from meshfabric.kernel.netns import inside
from meshfabric.kernel.pairs import ensure_pod_pair, ensure_veth
from meshfabric.kernel.routes import (
    Route,
    ensure_neighbours,
    ensure_routes,
    ensure_rules,
    observe_routes,
    observe_rules,
)

__all__ = [
    "FABRIC_SYSCTLS",
    "HOST_SYSCTLS",
    "POD_SYSCTLS",
    "Link",
    "LinkEvent",
    "Route",
    "delete",
    "ensure_addresses",
    "ensure_device",
    "ensure_neighbours",
    "ensure_pod_pair",
    "ensure_routes",
    "ensure_rules",
    "ensure_sysctls",
    "ensure_tun",
    "ensure_veth",
    "find",
    "mac_of",
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
HOST_SYSCTLS: Mapping[str, str] = {
    **FABRIC_SYSCTLS,
    "ipv4.forwarding": "1",  # else the kernel looks up no route for a packet of another device's
    "ipv6.forwarding": "1",
}

_SYSCTL_ROOT = Path("/proc/sys/net")
_IFA_F_NODAD = 0x02
_SCOPE_LINK = 253


@inside
def observe_addresses(name: str, *, netns: Path | None = None) -> set[str]:
    """The device's addresses with prefix length, without IPv6 link-local ones."""
    with rtnl.session(f"device {name}", "list its addresses") as route:
        present = _addresses(route, demand(route, name).index)
        return {address for address, local in present.items() if not local}


@inside
def ensure_addresses(name: str, wanted: set[str], *, netns: Path | None = None) -> bool:
    """The device has exactly the addresses `wanted` ("10.1.0.1/32", "fd00::1/128").

    IPv6 link-local ones that are not wanted are left alone: the kernel makes
    them. New addresses come before old ones go; IPv6 ones are usable at once (no
    duplicate address detection).
    """
    exact = {str(ip_interface(address)) for address in wanted}
    with rtnl.session(f"device {name}", "set its addresses") as route:
        index = demand(route, name).index
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


@inside
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
