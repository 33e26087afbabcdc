"""Puts guards up and takes them down.

nftables is the memory: `observed` reads from its tables which fabrics have a guard,
and for which prefixes, and the routes of all guards are made to fit. Both kinds of
change come in an order in which packets are dropped throughout.
"""

import contextlib
import fcntl
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

from meshfabric.guard import observed
from meshfabric.guard.file import Guard, parse
from meshfabric.guard.ruleset import ROUTE_PROTOCOL, VERSIONS, removal, render
from meshfabric.kernel import nft, rtnl
from meshfabric.kernel.routes import MAIN, ensure_routes
from meshfabric.model.errors import InputError, PermanentError
from meshfabric.model.names import check_name

OWN_NAMESPACE = Path("/proc/thread-self/ns/net")


def read(file: Path) -> Guard:
    """The guard that a file describes; raises InputError."""
    try:
        text = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as cause:
        why = cause.strerror if isinstance(cause, OSError) else "it is no UTF-8 text"
        remedy = "docs/guard.md says what belongs into it"
        raise InputError(f"cannot read it: {why}", place=str(file), remedy=remedy) from cause
    return parse(text, str(file))


def up(guard: Guard) -> None:
    """Put the guard up, in place of an earlier one of its fabric; repeating it changes nothing but counters.

    Raises PermanentError, with nothing done, when the host would lose an address of its own.
    """
    _check_own(guard)
    with _one_at_a_time():
        nft.apply(render(guard))
        _set_routes()


def down(fabric: str) -> bool:
    """Take the guard of a fabric away; False when there was none. Raises InputError for what is no name."""
    check_name(fabric, "fabric")
    with _one_at_a_time():
        there = fabric in nft.guards()
        nft.apply(removal(fabric))
        _set_routes()
    return there


@contextlib.contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Two that set routes by what they saw at different times would undo each other's.

    The lock is on the network namespace itself: while a machine boots there may be no place for a file.
    """
    with OWN_NAMESPACE.open() as namespace:
        fcntl.flock(namespace, fcntl.LOCK_EX)
        yield


def _set_routes() -> None:
    wanted = {observed.route(prefix) for fabric in nft.guards() for prefix in observed.prefixes(fabric)}
    ensure_routes(MAIN, wanted, ROUTE_PROTOCOL)


def _check_own(guard: Guard) -> None:
    """Whoever writes the underlay into the file would not be able to log in and correct it."""
    networks = [network for version in VERSIONS for network in guard.networks(version)]
    for device, address in _addresses():
        inside = [network for network in networks if ip_address(address) in network]
        if inside and not guard.passes(device):
            what = f"{device} has the address {address} of {inside[0]}: it would be cut off"
            remedy = "correct prefixes, or name the device under devices"
            raise PermanentError(what, place=f"guard of {guard.fabric}", remedy=remedy)


def _addresses() -> list[tuple[str, str]]:
    with rtnl.session("devices", "list their addresses") as route:
        names = {link["index"]: link.get_attr("IFLA_IFNAME") for link in route.get_links()}
        return [
            (names.get(one["index"], ""), one.get_attr("IFA_LOCAL") or one.get_attr("IFA_ADDRESS"))
            for one in route.get_addr()
        ]
