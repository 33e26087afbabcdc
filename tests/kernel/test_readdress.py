"""An uplink gets another address, as by DHCP: its tunnel goes on from there, at both ends, by itself.

The far end learns it from the next packet that it can decrypt (WireGuard white paper, 2.1, roaming).
"""

import subprocess
from pathlib import Path

from meshfabric.kernel import links, netns, wireguard
from meshfabric.kernel.links import Route
from meshfabric.kernel.wireguard import Backend
from tests.kernel.test_narrow_router import (
    INSIDE_FAR,
    NEAR,
    PORT,
    TABLE,
    UPLINK_MTU,
    _far_end,
    backend,
)
from tests.patience import until

__all__ = ["backend"]
ANOTHER = "192.0.2.77"
NETWORK = "192.0.2.0/24"


def reached() -> bool:
    """Whether the far end answers through the tunnel."""
    return not subprocess.run(["ping", "-c1", "-W1", INSIDE_FAR], capture_output=True).returncode


def test_a_tunnel_goes_on_from_another_address(backend: Backend, tmp_path: Path) -> None:
    with _far_end(backend, tmp_path) as far:
        links.ensure_addresses("mfu0", {f"{ANOTHER}/24"})
        routes = {
            Route(NETWORK, "mfu0", mtu=UPLINK_MTU),
            Route("0.0.0.0/0", "mfu0", NEAR[1], onlink=True, mtu=UPLINK_MTU),
        }
        links.ensure_routes(TABLE, routes)
        until(reached)
        (peer,) = netns.run(far, wireguard.observe_device, "mfwgb").peers.values()
        assert peer.endpoint == f"{ANOTHER}:{PORT}"
