"""VXLAN-GPE devices: IP in UDP without encryption and without inner link headers.

Where each packet goes its egress program says, and where one came from the kernel
tells the ingress program (`external`). All devices of a port share its socket; what
arrives is told apart by VNI (`vnifilter`, Linux 5.18). So a packet can be for a
device of the far node that has another number than the one here; else both ends'
would have to be the same, as a device sends to the very port that it listens on.
"""

import errno
from pathlib import Path
from typing import Any, NamedTuple

from meshfabric.kernel import rtnl
from meshfabric.kernel.device import demand, find, taken
from meshfabric.kernel.netns import inside

KIND = "vxlan"
SINCE = "5.18"
_ON, _OFF = 1, 0


class VxlanState(NamedTuple):
    """A device as observed; `ours`: one that `ensure_vxlan` could have made."""

    port: int
    mtu: int
    ours: bool


@inside
def ensure_vxlan(name: str, port: int, vni: int, *, netns: Path | None = None) -> bool:
    """A device that takes in what arrives for this VNI at this UDP port; True when it is new.

    One of the same name and another port is made anew. A new one is down. Raises
    PermanentError where the kernel has no such devices.
    """
    state = observe_vxlan().get(name)
    if state is not None and (state.port, state.ours) != (port, True):
        _delete(name)
        state = None
    existing = find(name)
    if existing is not None and existing.kind != KIND:
        raise taken(existing, f"a {KIND} device")
    if state is None:
        with rtnl.session(f"device {name}", f"make a {KIND} device") as route:
            route.link("add", ifname=name, kind=KIND, **_fields(port))
    with rtnl.session(f"device {name}", f"let it take VNI {vni}") as route, rtnl.forgive(errno.EEXIST):
        rtnl.add_vni(route, demand(route, name).index, vni)
    return state is None


@inside
def observe_vxlan(*, netns: Path | None = None) -> dict[str, VxlanState]:
    """Every VXLAN device by name, whoever made it."""
    with rtnl.session("devices", "list those of VXLAN") as route:
        return {one.get_attr("IFLA_IFNAME"): _state(one) for one in route.get_links(kind=KIND)}


def _fields(port: int) -> dict[str, object]:
    return {
        "vxlan_port": port,
        "vxlan_learning": _OFF,
        "vxlan_gpe": True,
        "vxlan_collect_metadata": _ON,
        "vxlan_vnifilter": _ON,
    }


def _state(message: Any) -> VxlanState:
    data = message.get_nested("IFLA_LINKINFO", "IFLA_INFO_DATA")

    def said(name: str) -> Any:
        return data.get_attr(f"IFLA_VXLAN_{name}") if data else None

    ours = said("GPE") is not None and said("COLLECT_METADATA") == _ON and said("VNIFILTER") == _ON
    return VxlanState(said("PORT") or 0, message.get_attr("IFLA_MTU"), ours)


def _delete(name: str) -> None:
    with rtnl.session(f"device {name}", "delete it") as route:
        route.link("del", index=demand(route, name).index)
