"""The one door to rtnetlink: a pyroute2 session whose errors are ours.

`links` and `routes` say what they want in pyroute2's words; it is taught the
attributes of netkit and a later one of vxlan, which it does not know. Importing the package the usual way
loads all its families and costs 13 MB; binding its bare name first brings it down
to 7, with the modules that are needed.
"""

import contextlib
import importlib.util
import socket
import sys
import types
from collections.abc import Iterator
from typing import Any

from meshfabric.kernel.fault import fault
from meshfabric.model.errors import UnsupportedError

PACKAGE = "pyroute2"
NETKIT = (  # linux/if_link.h, in its order
    ("IFLA_NETKIT_UNSPEC", "none"),
    ("IFLA_NETKIT_PEER_INFO", "peer_info"),
    ("IFLA_NETKIT_PRIMARY", "uint8"),
    ("IFLA_NETKIT_POLICY", "uint32"),
    ("IFLA_NETKIT_PEER_POLICY", "uint32"),
    ("IFLA_NETKIT_MODE", "uint32"),
    ("IFLA_NETKIT_SCRUB", "uint32"),
    ("IFLA_NETKIT_PEER_SCRUB", "uint32"),
)

VXLAN_SINCE_518 = (  # the next of linux/if_link.h after those that pyroute2 has
    ("IFLA_VXLAN_VNIFILTER", "uint8"),
)
TUNNEL_FIELDS = (("family", "B"), ("flags", "B"), ("reserved", "H"), ("ifindex", "I"))  # struct tunnel_msg
VNI_FILTER = (("VXLAN_VNIFILTER_UNSPEC", "none"), ("VXLAN_VNIFILTER_ENTRY", "entry"))
VNI_ENTRY = (("VXLAN_VNIFILTER_ENTRY_UNSPEC", "none"), ("VXLAN_VNIFILTER_ENTRY_START", "uint32"))
RTM_NEWTUNNEL = 120  # linux/rtnetlink.h
NLM_F_REQUEST, NLM_F_ACK, NLA_F_NESTED = 1, 4, 0x8000  # linux/netlink.h


@contextlib.contextmanager
def session(place: str, wanted: str) -> Iterator[Any]:
    """A pyroute2 `IPRoute` in the calling thread's network namespace, closed at the end.

    A refusal of the kernel is raised as `place: cannot <wanted>: ...`, permanent
    or temporary by its errno. No thread or descriptor outlives it.
    """
    with _IPRoute() as route:
        try:
            yield route
        except NetlinkError as cause:
            raise fault(OSError(cause.code, str(cause)), place=place, wanted=wanted) from cause


@contextlib.contextmanager
def forgive(*codes: int) -> Iterator[None]:
    """Inside a session: refusals with these errnos are as good as success."""
    try:
        yield
    except NetlinkError as cause:
        if cause.code not in codes:
            raise


def add_vni(route: Any, index: int, vni: int) -> None:
    """Inside a session: the VXLAN device takes in what arrives for this VNI (Linux 5.18)."""
    message = _TunnelMessage()
    message["family"], message["ifindex"] = socket.AF_BRIDGE, index
    entry = {"attrs": [("VXLAN_VNIFILTER_ENTRY_START", vni)]}
    message["attrs"] = [("VXLAN_VNIFILTER_ENTRY", entry)]
    message["header"]["type"] = RTM_NEWTUNNEL
    message["header"]["flags"] = NLM_F_REQUEST | NLM_F_ACK
    route.nlm_request_batch([message])


def _pyroute2() -> tuple[Any, Any, Any]:
    """The classes IPRoute and NetlinkError, and a message about a VXLAN device's VNIs."""
    bare = PACKAGE not in sys.modules
    if bare:
        sys.modules[PACKAGE] = _bare_package()
    try:
        from pyroute2.iproute.linux import IPRoute
        from pyroute2.netlink import nla, nlmsg
        from pyroute2.netlink.exceptions import NetlinkError
        from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg, ifinfveth
        from pyroute2.netlink.rtnl.ifinfmsg.plugins.vxlan import vxlan
    finally:
        if bare:
            del sys.modules[PACKAGE]  # whoever imports the whole package later gets it
    words = {"prefix": "IFLA_", "nla_map": NETKIT, "peer_info": staticmethod(lambda *_, **__: ifinfveth)}
    known = (*vxlan.nla_map, *VXLAN_SINCE_518)
    kinds = {"netkit": type("netkit", (nla,), words), "vxlan": type("vxlan", (vxlan,), {"nla_map": known})}
    ifinfmsg.ifinfo.register_link_kind(module=kinds)
    nested = {"prefix": "VXLAN_", "nla_map": VNI_ENTRY, "nla_flags": NLA_F_NESTED}
    entry = type("entry", (nla,), nested)
    tunnel = {"prefix": "VXLAN_", "fields": TUNNEL_FIELDS, "nla_map": VNI_FILTER, "entry": entry}
    return IPRoute, NetlinkError, type("tunnelmsg", (nlmsg,), tunnel)


def _bare_package() -> types.ModuleType:
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.submodule_search_locations is None:
        raise UnsupportedError("pyroute2 is not installed", remedy="pip install meshfabric")
    package = types.ModuleType(PACKAGE)
    package.__path__ = list(spec.submodule_search_locations)
    return package


_IPRoute, NetlinkError, _TunnelMessage = _pyroute2()
