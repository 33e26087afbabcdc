"""The one door to rtnetlink: a pyroute2 session whose errors are ours.

`links` and `routes` say what they want in pyroute2's words; it is taught the
attributes of netkit, which it does not know. Importing the package the usual way
loads all its families and costs 13 MB; binding its bare name first brings it down
to 7, with the modules that are needed.
"""

import contextlib
import importlib.util
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


def _pyroute2() -> tuple[Any, Any]:
    """The classes IPRoute and NetlinkError."""
    bare = PACKAGE not in sys.modules
    if bare:
        sys.modules[PACKAGE] = _bare_package()
    try:
        from pyroute2.iproute.linux import IPRoute
        from pyroute2.netlink import nla
        from pyroute2.netlink.exceptions import NetlinkError
        from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg, ifinfveth
    finally:
        if bare:
            del sys.modules[PACKAGE]  # whoever imports the whole package later gets it
    words = {"prefix": "IFLA_", "nla_map": NETKIT, "peer_info": staticmethod(lambda *_, **__: ifinfveth)}
    ifinfmsg.ifinfo.register_link_kind(module={"netkit": type("netkit", (nla,), words)})
    return IPRoute, NetlinkError


def _bare_package() -> types.ModuleType:
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.submodule_search_locations is None:
        raise UnsupportedError("pyroute2 is not installed", remedy="pip install meshfabric")
    package = types.ModuleType(PACKAGE)
    package.__path__ = list(spec.submodule_search_locations)
    return package


_IPRoute, NetlinkError = _pyroute2()
