"""A router between two nodes takes less than their uplinks: it cuts tunnel packets up, and none is lost.

near  mfu0 192.0.2.1 ── 192.0.2.9 router 198.51.100.9 (MTU 1400) ── mfu0 198.51.100.1  far
mfwga 10.9.0.1 ════════════════ WireGuard, MTU 1440 ══════════════════ mfwgb 10.9.0.2
"""

import contextlib
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshfabric.kernel import links, netns, tool, wireguard
from meshfabric.kernel.links import Route
from meshfabric.kernel.wireguard import Backend, Peer
from tests.features import requires
from tests.kernel.cell import namespace
from tests.lab.places import SO_RCVBUFFORCE
from tests.patience import DEADLINE_S, until

PORT, MARK, TABLE = 51820, 0x4D460000, 19780
UPLINK_MTU, ROUTER_MTU, TUNNEL_MTU = 1500, 1400, 1440
NEAR, FAR = ("192.0.2.1", "192.0.2.9"), ("198.51.100.1", "198.51.100.9")
INSIDE, INSIDE_FAR, UDP_PORT = "10.9.0.1", "10.9.0.2", 9000
LARGEST = TUNNEL_MTU - 28
DATAGRAMS = 200


@pytest.fixture(params=["kernel", "userspace"])
def backend(request: pytest.FixtureRequest, wireguard_go: Path | None) -> Backend:
    """Both, one after the other."""
    if request.param == "kernel":
        requires("wireguard")
        return Backend("kernel")
    requires("wireguard-go", "tun")
    return Backend("userspace", tool.find("wireguard-go", wireguard_go, tool.WIREGUARD_GO_ENV))


def _route(router: Path) -> None:
    """Forward, with a narrow device towards the far end."""
    for device, (_, address), mtu in (("mfr0", NEAR, UPLINK_MTU), ("mfr1", FAR, ROUTER_MTU)):
        links.ensure_addresses(device, {f"{address}/24"})
        links.set_mtu(device, mtu)
        links.set_up(device)
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")


def _join(backend: Backend, keys: Path, name: str, ends: tuple[str, str], inside: str) -> str:
    """One end, with the routes that the compiler makes; its public key."""
    address, gateway = ends
    links.ensure_addresses("mfu0", {f"{address}/24"})
    links.set_up("mfu0")
    wireguard.ensure_device(backend, name, keys / f"{name}.key", PORT, MARK, TUNNEL_MTU)
    links.ensure_addresses(name, {f"{inside}/24"})
    links.set_up(name)
    near = f"{address.rsplit('.', 1)[0]}.0/24"
    routes = {
        Route(near, "mfu0", mtu=UPLINK_MTU),
        Route("0.0.0.0/0", "mfu0", gateway, onlink=True, mtu=UPLINK_MTU),
    }
    links.ensure_routes(TABLE, routes)
    links.ensure_rules({MARK: TABLE})
    return wireguard.ensure_key(keys / f"{name}.key")


@contextlib.contextmanager
def joined_by_router(backend: Backend, keys: Path) -> Iterator[tuple[Path, Path]]:
    """The namespaces of the router and of the other end of the tunnel, which answers."""
    with namespace() as router, namespace() as far:
        links.ensure_veth("mfu0", "mfr0", router)
        netns.run(router, links.ensure_veth, "mfr1", "mfu0", far)
        netns.run(router, _route, router)
        here = _join(backend, keys, "mfwga", NEAR, INSIDE)
        there = netns.run(far, _join, backend, keys, "mfwgb", FAR, INSIDE_FAR)
        wireguard.set_peer("mfwga", Peer(there, f"{FAR[0]}:{PORT}", (f"{INSIDE_FAR}/32",), 5))
        netns.run(far, wireguard.set_peer, "mfwgb", Peer(here, f"{NEAR[0]}:{PORT}", (f"{INSIDE}/32",), 5))
        until(lambda: not subprocess.run(["ping", "-c1", "-W1", INSIDE_FAR], capture_output=True).returncode)
        yield router, far


def test_what_is_too_large_for_a_router_arrives(backend: Backend, tmp_path: Path) -> None:
    """All of it: by the MTU that routers tell, wireguard-go's batches would be refused by its own kernel."""
    with joined_by_router(backend, tmp_path) as (_, far):
        listener = netns.run(far, socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
        listener.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 4 << 20)
        with listener, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            listener.bind((INSIDE_FAR, UDP_PORT))
            listener.settimeout(DEADLINE_S)
            sender.connect((INSIDE_FAR, UDP_PORT))
            for turn in range(DATAGRAMS):
                sender.send(bytes([turn]) * LARGEST)
            assert [listener.recv(LARGEST)[0] for _ in range(DATAGRAMS)] == list(range(DATAGRAMS))
