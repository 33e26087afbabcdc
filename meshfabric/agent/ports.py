"""The node's ports that are the fabric's: sockets that ask for any must not be given one.

To a socket on a tunnel's port (51820 to 51947 lie where Linux takes them from) answers would come by
an uplink that is not that tunnel's, where they are dropped. A socket and a translated flow with one
port towards one end could not be told apart.
"""

from collections.abc import Callable

from meshfabric.kernel.ephemeral import reserve, row_text
from meshfabric.model.errors import MeshfabricError
from meshfabric.model.settings import Settings, WorldMode


def keep(settings: Settings, note: Callable[[str, str], None]) -> None:
    """Reserve them, for as long as the machine runs; where that cannot be it is told, and no more."""
    for ports, use in _own(settings).items():
        try:
            for row in reserve(ports):
                note("ports reserved", f"{row_text(row)} for {use}: no socket gets them by chance")
        except MeshfabricError as error:
            remedy = f"add {row_text(ports)} to net.ipv4.ip_local_reserved_ports"
            note("ports shared", f"the node's own sockets may get those of {use}: {error}; {remedy}")


def _own(settings: Settings) -> dict[range, str]:
    datapath = settings.datapath
    found = {settings.tunnel_ports: "tunnels"}
    if settings.world is WorldMode.TRANSLATE:
        world = range(datapath.world_port_base, datapath.world_port_base + datapath.world_ports)
        found[world] = "translated flows"
    return found
