"""Routes, rules and neighbours, each as a whole set: what is missing is added first, then the rest goes.

Only what carries our protocol number is ours; other programs' entries are never
touched, and one in our way is an error. `links` owns the devices and names
these functions too.
"""

import errno
import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

from meshfabric.kernel import rtnl
from meshfabric.kernel.netns import inside
from meshfabric.model.errors import PermanentError, TemporaryError

MAIN = 254  # the main routing table
PROTOCOL = 0x6D  # "m": marks routes and rules as ours (rtm_protocol, FRA_PROTOCOL)
RULE_PRIORITY = 90  # before everybody's usual rules; a mark of ours concerns nobody else
EXACT_MASK = 0xFFFFFFFF

_FAMILIES = (socket.AF_INET, socket.AF_INET6)
_ANY = {socket.AF_INET: "0.0.0.0/0", socket.AF_INET6: "::/0"}
_IPV6_METRIC = 1024  # what the kernel makes of metric 0 (IP6_RT_PRIO_USER)
_UNICAST, _UNREACHABLE = 1, 7  # RTN_*
_SCOPE_LINK = 253
_ONLINK = 4  # RTNH_F_ONLINK
_NUD_PERMANENT = 0x80
_MTU_LOCK = 1 << 2  # RTAX_MTU, in RTAX_LOCK


@dataclass(frozen=True, order=True)
class Route:
    """One route. `destination` has a prefix length; an `unreachable` one has no device.

    `source` is the address that the host's own packets get, `mtu` is locked: no ICMP error
    lowers it, and IPv4 packets go without "do not fragment"; 0 leaves it to the kernel. Equal
    routes may be written differently (metric 0 is 1024 for IPv6): compare `normal()`.
    """

    destination: str
    device: str = ""
    gateway: str = ""
    source: str = ""
    metric: int = 0
    onlink: bool = False
    unreachable: bool = False
    mtu: int = 0

    def normal(self) -> "Route":
        """The one way of writing it that `observe_routes` gives."""
        network = ip_network(self.destination)
        metric = self.metric or (_IPV6_METRIC if network.version == 6 else 0)
        gateway = str(ip_address(self.gateway)) if self.gateway else ""
        source = str(ip_address(self.source)) if self.source else ""
        return replace(self, destination=str(network), gateway=gateway, source=source, metric=metric)

    @property
    def family(self) -> int:
        """AF_INET or AF_INET6."""
        return socket.AF_INET6 if ":" in self.destination else socket.AF_INET

    @property
    def key(self) -> tuple[str, int]:
        """What a table holds once (of a normal route)."""
        return self.destination, self.metric


@inside
def observe_routes(
    table: int = MAIN, protocol: int | None = None, *, netns: Path | None = None
) -> list[Route]:
    """The table's unicast and unreachable routes, sorted; only those of one protocol number if given.

    Routes with several next hops are left out.
    """
    with rtnl.session(f"table {table}", "list its routes") as route:
        return sorted(_observe(route, table, protocol))


@inside
def ensure_routes(
    table: int, wanted: set[Route], protocol: int = PROTOCOL, *, netns: Path | None = None
) -> bool:
    """Our routes in the table are exactly `wanted`; True when something changed.

    Raises PermanentError when another program's route has the same prefix and
    metric, TemporaryError when a device is absent.
    """
    exact = {one.normal() for one in wanted}
    with rtnl.session(f"table {table}", "set its routes") as route:
        present = set(_observe(route, table, protocol))
        if present == exact:
            return False
        devices = {link.get_attr("IFLA_IFNAME"): link["index"] for link in route.get_links()}
        held = {one.key for one in present}
        for one in sorted(exact - present, key=_connected_first):
            action = "replace" if one.key in held else "add"
            _change(route, action, _message(one, table, protocol, devices), one)
        kept = {one.key for one in exact}
        for one in sorted(present - exact):
            if one.key not in kept:
                with rtnl.forgive(errno.ESRCH, errno.ENODEV):  # went with its device
                    route.route("del", **_message(one, table, protocol, devices))
        return True


@inside
def observe_rules(
    priority: int = RULE_PRIORITY, protocol: int = PROTOCOL, *, netns: Path | None = None
) -> dict[int, int]:
    """Our rules: mark -> table, those that are there for IPv4 and IPv6 alike."""
    with rtnl.session("rules", "list them") as route:
        both = [{found[1:] for found in _rules(route, one, priority, protocol)} for one in _FAMILIES]
        return dict(sorted(both[0] & both[1]))


@inside
def ensure_rules(
    wanted: Mapping[int, int],
    priority: int = RULE_PRIORITY,
    protocol: int = PROTOCOL,
    *,
    netns: Path | None = None,
) -> bool:
    """Our rules, for IPv4 and IPv6, are exactly: packets with this mark -> this table. True when changed."""
    exact = {(family, mark, table) for family in _FAMILIES for mark, table in wanted.items()}
    with rtnl.session("rules", "set those of our marks") as route:
        present = {found for family in _FAMILIES for found in _rules(route, family, priority, protocol)}
        for action, changes in (("add", exact - present), ("del", present - exact)):
            for family, mark, table in sorted(changes):
                what = {"family": family, "fwmark": mark, "fwmask": EXACT_MASK, "table": table}
                with rtnl.forgive(errno.EEXIST, errno.ENOENT):
                    route.rule(action, priority=priority, protocol=protocol, **what)
        return present != exact


@inside
def ensure_neighbours(device: str, wanted: Mapping[str, str], *, netns: Path | None = None) -> bool:
    """The device's permanent neighbours are exactly {address: MAC}; learned ones are left alone."""
    exact = {str(ip_address(address)): mac.lower() for address, mac in wanted.items()}
    with rtnl.session(f"device {device}", "set its neighbours") as route:
        index = _index(route, device)
        present = _neighbours(route, index)
        for address, mac in sorted(exact.items() - present.items()):
            _neighbour(route, "replace", index, address, lladdr=mac)
        for address in sorted(present.keys() - exact.keys()):
            with rtnl.forgive(errno.ENOENT):
                _neighbour(route, "del", index, address)
        return present != exact


def _connected_first(one: Route) -> tuple[bool, Route]:
    """The kernel takes a gateway only when it can reach it."""
    return bool(one.gateway), one


def _observe(route: Any, table: int, protocol: int | None) -> list[Route]:
    names = {link["index"]: link.get_attr("IFLA_IFNAME") for link in route.get_links()}
    found: list[Route] = []
    for family in _FAMILIES:
        with rtnl.forgive(errno.ENOENT):  # a table without any route does not exist
            found += [
                _route(message, names)
                for message in route.get_routes(family=family, table=table)
                if _plain(message, table) and protocol in (None, message["proto"])
            ]
    return found


def _plain(message: Any, table: int) -> bool:
    if message.get_attr("RTA_TABLE") != table or message.get_attr("RTA_MULTIPATH"):
        return False
    return message["type"] in (_UNICAST, _UNREACHABLE)


def _route(message: Any, names: Mapping[int, str]) -> Route:
    address, length = message.get_attr("RTA_DST"), message["dst_len"]
    unreachable = message["type"] == _UNREACHABLE
    return Route(
        destination=f"{address}/{length}" if address else _ANY[message["family"]],
        device="" if unreachable else names.get(message.get_attr("RTA_OIF"), ""),
        gateway=message.get_attr("RTA_GATEWAY") or "",
        source=message.get_attr("RTA_PREFSRC") or "",
        metric=message.get_attr("RTA_PRIORITY") or 0,
        onlink=bool(message["flags"] & _ONLINK),
        unreachable=unreachable,
        mtu=_locked_mtu(message.get_attr("RTA_METRICS")),
    )


def _locked_mtu(metrics: Any) -> int:
    locked = metrics and (metrics.get_attr("RTAX_LOCK") or 0) & _MTU_LOCK
    return metrics.get_attr("RTAX_MTU") or 0 if locked else 0


def _message(one: Route, table: int, protocol: int, devices: Mapping[str, int]) -> dict[str, object]:
    message: dict[str, object] = {"family": one.family, "dst": one.destination, "table": table}
    message |= {"proto": protocol, "priority": one.metric}
    if one.unreachable:
        return message | {"type": _UNREACHABLE}
    if one.device not in devices:
        raise _absent(one.device)
    message["oif"] = devices[one.device]
    if one.gateway:
        message["gateway"] = one.gateway
    else:
        message["scope"] = _SCOPE_LINK if one.family == socket.AF_INET else 0
    if one.source:
        message["prefsrc"] = one.source
    if one.mtu:
        message["metrics"] = {"lock": _MTU_LOCK, "mtu": one.mtu}
    return message | ({"flags": _ONLINK} if one.onlink else {})


def _change(route: Any, action: str, message: dict[str, object], one: Route) -> None:
    try:
        route.route(action, **message)
    except rtnl.NetlinkError as cause:
        if cause.code != errno.EEXIST:
            raise
        what = f"another program has a route to {one.destination} metric {one.metric}"
        raise PermanentError(what, place=f"table {message['table']}", remedy="remove it") from cause


def _rules(route: Any, family: int, priority: int, protocol: int) -> list[tuple[int, int, int]]:
    return [
        (family, message.get_attr("FRA_FWMARK") or 0, message.get_attr("FRA_TABLE"))
        for message in route.get_rules(family=family)
        if message.get_attr("FRA_PROTOCOL") == protocol and message.get_attr("FRA_PRIORITY") == priority
    ]


def _neighbours(route: Any, index: int) -> dict[str, str]:
    return {
        message.get_attr("NDA_DST"): message.get_attr("NDA_LLADDR")
        for family in _FAMILIES
        for message in route.get_neighbours(family=family, ifindex=index)
        if message["state"] & _NUD_PERMANENT
    }


def _neighbour(route: Any, action: str, index: int, address: str, **more: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    route.neigh(action, family=family, dst=address, ifindex=index, state=_NUD_PERMANENT, **more)


def _index(route: Any, device: str) -> int:
    for link in route.get_links(ifname=device):
        return int(link["index"])
    raise _absent(device)


def _absent(device: str) -> TemporaryError:
    return TemporaryError("no such device", place=f"device {device}")
