"""A tunnel goes on by itself, at both ends, when its underlay is another from one moment to the next.

near  192.0.2.1, then .77 ── 192.0.2.9 router 198.51.100.9 (then a NAT) ── 198.51.100.1  far

The far end learns it from the next packet that it can decrypt (WireGuard white paper, 2.1, roaming).
"""

import subprocess
from pathlib import Path

from meshfabric.kernel import links, netns, wireguard
from meshfabric.kernel.links import Route
from meshfabric.kernel.wireguard import Backend
from tests.kernel.test_narrow_router import (
    FAR,
    INSIDE_FAR,
    NEAR,
    PORT,
    TABLE,
    UPLINK_MTU,
    backend,
    joined_by_router,
)
from tests.patience import until

__all__ = ["backend"]
ANOTHER = "192.0.2.77"
NETWORK = "192.0.2.0/24"
MASQUERADE = (
    "add table ip nat; add chain ip nat out { type nat hook postrouting priority 100; };"
    " add rule ip nat out oifname mfr1 masquerade"
)


def reached() -> bool:
    """Whether the far end answers through the tunnel."""
    return not subprocess.run(["ping", "-c1", "-W1", INSIDE_FAR], capture_output=True).returncode


def seen_from(far: Path) -> str | None:
    """Where the far end sends what is for us."""
    (peer,) = netns.run(far, wireguard.observe_device, "mfwgb").peers.values()
    return peer.endpoint


def test_from_another_address(backend: Backend, tmp_path: Path) -> None:
    with joined_by_router(backend, tmp_path) as (_, far):
        assert seen_from(far) == f"{NEAR[0]}:{PORT}"
        links.ensure_addresses("mfu0", {f"{ANOTHER}/24"})
        routes = {
            Route(NETWORK, "mfu0", mtu=UPLINK_MTU),
            Route("0.0.0.0/0", "mfu0", NEAR[1], onlink=True, mtu=UPLINK_MTU),
        }
        links.ensure_routes(TABLE, routes)
        until(reached)
        assert seen_from(far) == f"{ANOTHER}:{PORT}"


def test_from_behind_a_nat_that_comes_and_goes(backend: Backend, tmp_path: Path) -> None:
    """A router that begins to translate does so from the next packet that it knows nothing of."""
    with joined_by_router(backend, tmp_path) as (router, far):
        netns.run(router, subprocess.run, ["nft", MASQUERADE], check=True)
        until(lambda: reached() and (seen_from(far) or "").startswith(f"{FAR[1]}:"))
        netns.run(router, subprocess.run, ["nft", "delete table ip nat"], check=True)
        until(lambda: reached() and seen_from(far) == f"{NEAR[0]}:{PORT}")
