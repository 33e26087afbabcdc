"""Devices that come in twos: one end on the node, the other where a pod is.

    veth     Ethernet at both ends, on every kernel
    netkit   the programs belong to the device itself and see a pod's packet while
             the pod still sends it; without them it drops all, both ways

A netkit of mode L3 has no link addresses and asks for no neighbours. An interface
that becomes a port of a bridge within the pod needs L2. Marks that the node puts
on a packet for the pod reach the program (`scrub`, Linux 6.12), the pod's own do
not. A pair that is there is kept, whichever kind it is: it carries traffic.
"""

import contextlib
import os
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from typing import Any, Literal, NamedTuple

from meshfabric.kernel import netns as namespaces
from meshfabric.kernel import rtnl
from meshfabric.kernel.device import Link, adjust, delete, demand, find, taken
from meshfabric.model.errors import TemporaryError

PairKind = Literal["veth", "netkit"]


class Mode(IntEnum):
    """enum netkit_mode (linux/if_link.h, Linux 6.7)."""

    L2 = 0
    L3 = 1


class Policy(IntEnum):
    """What becomes of a packet that no program sees: part of enum netkit_action."""

    PASS = 0
    DROP = 2


class Scrub(IntEnum):
    """Whether mark and priority are cleared before the program runs: enum netkit_scrub (Linux 6.12)."""

    NONE = 0
    DEFAULT = 1


class Netkit(NamedTuple):
    """How a netkit pair is set; `scrub` None where the kernel knows no such setting, and always clears."""

    mode: Mode
    policy: Policy
    peer_policy: Policy
    scrub: Scrub | None
    peer_scrub: Scrub | None


@namespaces.inside
def ensure_veth(
    name: str,
    peer: str,
    peer_netns: Path | None = None,
    macs: tuple[str, str] = ("", ""),
    mtu: int = 0,
    *,
    netns: Path | None = None,
) -> bool:
    """A veth pair: `name` here, `peer` here or in the namespace `peer_netns`, with these MACs and MTU.

    A pair that is not joined like this is made anew. Empty MACs and a zero MTU
    leave what there is. Neither end is set up. Raises PermanentError when
    either name is taken by some other device.
    """
    near, far = find(name), find(peer, netns=peer_netns)
    made = not _joined(near, far) or (near is not None and near.kind != "veth")
    if made:
        _clear(near, ("veth",))
        _add_veth(name, peer, peer_netns)
    near_changed = adjust(name, macs[0], mtu)
    far_changed = namespaces.run(peer_netns, adjust, peer, macs[1], mtu)
    return made or near_changed or far_changed


@namespaces.inside
def ensure_pod_pair(
    kind: PairKind,
    name: str,
    peer: str,
    peer_netns: Path,
    mac: str,
    mtu: int,
    *,
    bridged: bool = False,
    netns: Path | None = None,
) -> bool:
    """A pair into a pod: `name` here, `peer` in the namespace `peer_netns`, which has `mac` if it has any.

    A new one is of this `kind`. One that is joined like this is kept whatever
    its kind, except an L3 netkit that is to be `bridged`. Neither end is set up.
    Raises PermanentError when either name is taken by some other device.
    """
    near, far = find(name), find(peer, netns=peer_netns)
    found = netkit(name)
    made = not (_joined(near, far) and _suits(found, bridged))
    if made:
        _clear(near, ("veth", "netkit"))
        if kind == "netkit":
            add_netkit(name, peer, peer_netns, Mode.L2 if bridged else Mode.L3)
        else:
            _add_veth(name, peer, peer_netns)
        found = netkit(name)
    closed = found is not None and _close(name, found)
    near_changed = adjust(name, "", mtu)
    far_mac = "" if found and found.mode is Mode.L3 else mac
    far_changed = namespaces.run(peer_netns, adjust, peer, far_mac, mtu)
    return made or closed or near_changed or far_changed


@namespaces.inside
def netkit(name: str, *, netns: Path | None = None) -> Netkit | None:
    """How the netkit device is set; None when the device is of another kind, or there is none."""
    with rtnl.session(f"device {name}", "look it up") as route:
        message = next(iter(route.get_links(ifname=name)), None)
    if message is None or message.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") != "netkit":
        return None
    data = message.get_nested("IFLA_LINKINFO", "IFLA_INFO_DATA")
    scrubs = [data.get_attr(f"IFLA_NETKIT_{which}") for which in ("SCRUB", "PEER_SCRUB")]
    near, far = (None if value is None else Scrub(value) for value in scrubs)
    policies = [Policy(data.get_attr(f"IFLA_NETKIT_{which}")) for which in ("POLICY", "PEER_POLICY")]
    return Netkit(Mode(data.get_attr("IFLA_NETKIT_MODE")), policies[0], policies[1], near, far)


def add_netkit(name: str, peer: str, peer_netns: Path | None, mode: Mode) -> None:
    """Make a pair that drops everything until programs are attached."""
    data = {
        "netkit_mode": mode,
        "netkit_policy": Policy.DROP,
        "netkit_peer_policy": Policy.DROP,
        "netkit_scrub": Scrub.NONE,
        "netkit_peer_scrub": Scrub.DEFAULT,
    }
    with _session(name, peer, peer_netns, "make a netkit pair") as (route, far):
        attributes = [[f"IFLA_{key.upper()}", value] for key, value in far.items()]
        route.link("add", ifname=name, kind="netkit", netkit_peer_info={"attrs": attributes}, **data)


def _joined(near: Link | None, far: Link | None) -> bool:
    return near is not None and far is not None and (near.peer, far.peer) == (far.index, near.index)


def _suits(found: Netkit | None, bridged: bool) -> bool:
    """Whether a pair that is there can serve: a netkit's mode and scrubbing are set for life."""
    return found is None or (found.scrub is Scrub.NONE and not (bridged and found.mode is Mode.L3))


def _clear(near: Link | None, kinds: tuple[PairKind, ...]) -> None:
    """Make room for a pair where half of one, or one that leads elsewhere, is in the way."""
    if near is not None:
        if near.kind not in kinds:
            raise taken(near, f"a {kinds[0]} pair")
        delete(near.name)


def _close(name: str, found: Netkit) -> bool:
    """Let a netkit pair drop what no program sees, should it not do so; True when it had to be told."""
    if found.policy is found.peer_policy is Policy.DROP:
        return False
    with rtnl.session(f"device {name}", "let it drop what no program sees") as route:
        index, shut = demand(route, name).index, Policy.DROP
        route.link("set", index=index, kind="netkit", netkit_policy=shut, netkit_peer_policy=shut)
    return True


def _add_veth(name: str, peer: str, peer_netns: Path | None) -> None:
    with _session(name, peer, peer_netns, f"join it to {peer}") as (route, far):
        route.link("add", ifname=name, kind="veth", peer=far)


@contextlib.contextmanager
def _session(
    name: str, peer: str, peer_netns: Path | None, wanted: str
) -> Iterator[tuple[Any, dict[str, object]]]:
    """A session to make a pair in, and what it has to say of the far end."""
    far: dict[str, object] = {"ifname": peer}
    with contextlib.ExitStack() as stack:
        if peer_netns is not None:
            far["net_ns_fd"] = stack.enter_context(_opened(peer_netns))
        yield stack.enter_context(rtnl.session(f"device {name}", wanted)), far


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as cause:
        raise TemporaryError("the network namespace is gone", place=str(path)) from cause
    try:
        yield fd
    finally:
        os.close(fd)
