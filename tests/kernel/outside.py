"""What is outside of a node: a card to another machine, a bridge between two; what is said and heard there.

here  card ==== eth0  outside        both have addresses of the fabric on lo, and ways to the other's
here  p0, p1: ports of a bridge, to eth0 of two namespaces
"""

import contextlib
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path

from meshfabric.guard.file import Guard
from meshfabric.kernel import links, netns, tool
from meshfabric.kernel.routes import MAIN, Route, ensure_routes
from tests.kernel.cell import namespace
from tests.patience import DEADLINE_S

PREFIX = {4: "10.64.0.0/16", 6: "fd6d:6600::/48"}
GUARD = Guard("prod", tuple(PREFIX.values()))
HERE, OUTSIDE = {4: "192.0.2.1", 6: "2001:db8::1"}, {4: "192.0.2.2", 6: "2001:db8::2"}
OURS, FAR = {4: "10.64.1.1", 6: "fd6d:6600::1"}, {4: "10.64.2.1", 6: "fd6d:6600:0:2::1"}
NEAR = {4: "10.64.1.2", 6: "fd6d:6600::2"}
PLENTY = {4: 24, 6: 64}
ALONE = {4: 32, 6: 128}
PORT, BURST, SAID = 4001, 10, b"in clear"
SILENCE_S = 0.3


@contextlib.contextmanager
def carded(card: str = "card") -> Iterator[Path]:
    """A card, and by it a way to the fabric that wins over every unreachable route; gives what is outside."""
    with namespace() as outside:
        links.ensure_veth(card, "eth0", outside)
        ends = ((card, None, HERE, OURS), ("eth0", outside, OUTSIDE, FAR))
        for device, where, own, fabric in ends:
            links.ensure_sysctls(device, {"ipv6.accept_dad": "0", "ipv4.rp_filter": "0"}, netns=where)
            links.ensure_addresses(device, {f"{own[f]}/{PLENTY[f]}" for f in own}, netns=where)
            links.ensure_addresses("lo", {f"{fabric[f]}/{ALONE[f]}" for f in fabric}, netns=where)
            links.set_up("lo", netns=where)
            links.set_up(device, netns=where)
        for device, where, via, prefixes in ((card, None, OUTSIDE, FAR), ("eth0", outside, HERE, OURS)):
            ways = {Route(f"{prefixes[f]}/{ALONE[f]}", device, via[f], metric=1) for f in via}
            ensure_routes(MAIN, ways, protocol=4, netns=where)
        yield outside


@contextlib.contextmanager
def listening(address: str, where: Path | None) -> Iterator[socket.socket]:
    """A socket that takes datagrams to an address."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with netns.run(where, socket.socket, family, socket.SOCK_DGRAM) as link:
        link.bind((address, PORT))
        yield link


def say(source: str, to: str, where: Path | None = None) -> int:
    """Send a burst; how many the kernel took."""
    taken = 0
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    with netns.run(where, socket.socket, family, socket.SOCK_DGRAM) as link:
        link.bind((source, 0))
        for _ in range(BURST):
            with contextlib.suppress(PermissionError):
                taken += link.sendto(SAID, (to, PORT)) > 0
    return taken


def heard(link: socket.socket, wanted: int) -> int:
    """Datagrams that come: what is wanted has time to, and what is not must be silent for a while."""
    count = 0
    with contextlib.suppress(TimeoutError):
        while True:
            link.settimeout(DEADLINE_S if count < wanted else SILENCE_S)
            count += SAID in link.recv(1000)
    return count


def bridge(name: str, ports: Mapping[str, Path]) -> None:
    """A bridge with a port to eth0 of each namespace."""
    with contextlib.suppress(
        FileNotFoundError
    ):  # else its packets would meet the host's hooks (br_netfilter)
        Path("/proc/sys/net/bridge/bridge-nf-call-iptables").write_text("0")
        Path("/proc/sys/net/bridge/bridge-nf-call-ip6tables").write_text("0")
    tool.run(["ip", "link", "add", name, "type", "bridge", "stp_state", "0", "mcast_snooping", "0"])
    links.set_up(name)
    for port, where in ports.items():
        links.ensure_veth(port, "eth0", where)
        tool.run(["ip", "link", "set", port, "master", name, "up"])


def settle(device: str, where: Path | None, *addresses: dict[int, str]) -> None:
    """Addresses in networks that the device itself reaches."""
    links.ensure_sysctls(device, {"ipv6.accept_dad": "0"}, netns=where)
    plenty = {f"{one[family]}/{PLENTY[family]}" for one in addresses for family in one}
    links.ensure_addresses(device, plenty, netns=where)
    links.set_up(device, netns=where)


@contextlib.contextmanager
def bridged() -> Iterator[tuple[Path, Path]]:
    """A bridge between two namespaces, each with addresses of its own and of the fabric."""
    with namespace() as left, namespace() as right:
        bridge("br0", {"p0": left, "p1": right})
        settle("eth0", left, OUTSIDE, OURS)
        settle("eth0", right, HERE, NEAR)
        yield left, right
