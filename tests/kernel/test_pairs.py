"""Pairs into pods: made as wanted, kept as they are, shut to all that no program sees."""

import socket
from pathlib import Path

import pytest

from meshfabric.kernel import links, netns, rtnl
from meshfabric.kernel.pairs import Mode, Netkit, PairKind, Policy, Scrub, add_netkit, netkit
from meshfabric.model.errors import PermanentError
from tests.features import requires
from tests.kernel.cell import namespace

MAC, NO_MAC = "02:6d:66:01:00:02", "00:00:00:00:00:00"
MTU = 1380
SHUT = Netkit(Mode.L3, Policy.DROP, Policy.DROP, Scrub.NONE, Scrub.DEFAULT)
KINDS = pytest.mark.parametrize("kind", ["veth", pytest.param("netkit", marks=requires("netkit"))])


def _pair(pod: Path, kind: PairKind, bridged: bool = False) -> bool:
    return links.ensure_pod_pair(kind, "mfp1", "eth0", pod, MAC, MTU, bridged=bridged)


@KINDS
def test_a_pair_comes_whole_and_asking_twice_changes_nothing(kind: PairKind) -> None:
    with namespace() as pod:
        assert _pair(pod, kind)
        near, far = links.find("mfp1"), links.find("eth0", netns=pod)
        assert near is not None
        assert far is not None
        assert (near.kind, near.mtu, far.mtu, near.up, far.up) == (kind, MTU, MTU, False, False)
        assert (near.peer, far.peer) == (far.index, near.index)
        assert links.mac_of("eth0", netns=pod) == (MAC if kind == "veth" else NO_MAC)
        assert netkit("mfp1") == (None if kind == "veth" else SHUT)
        assert not _pair(pod, kind)
        assert links.find("mfp1") == near


@requires("netkit")
def test_an_interface_for_a_bridge_has_link_addresses() -> None:
    with namespace() as pod:
        assert _pair(pod, "netkit", bridged=True)
        assert netkit("mfp1") == SHUT._replace(mode=Mode.L2)
        assert links.mac_of("eth0", netns=pod) == MAC
        netns.run(pod, _enslave, "eth0")
        assert not _pair(pod, "netkit", bridged=True)


def _enslave(name: str) -> None:
    with rtnl.session("br0", "make it") as route:
        route.link("add", ifname="br0", kind="bridge")
        route.link("set", index=socket.if_nametoindex(name), master=socket.if_nametoindex("br0"))


@requires("netkit")
@pytest.mark.parametrize(("before", "after"), [("veth", "netkit"), ("netkit", "veth")])
@pytest.mark.parametrize("bridged", [True, False])
def test_a_pair_that_is_there_stays_of_its_kind(before: PairKind, after: PairKind, bridged: bool) -> None:
    with namespace() as pod:
        _pair(pod, before, bridged)
        index = socket.if_nametoindex("mfp1")
        assert not _pair(pod, after, bridged)
        assert socket.if_nametoindex("mfp1") == index


@requires("netkit")
def test_a_pair_that_cannot_serve_is_made_anew() -> None:
    with namespace() as pod, namespace() as other:
        _pair(pod, "netkit")
        assert _pair(pod, "netkit", bridged=True)
        assert not _pair(pod, "netkit")  # it has more than is asked for
        assert _pair(other, "netkit")
        assert links.find("eth0", netns=pod) is None


@requires("netkit")
def test_a_pair_that_was_opened_is_shut_again() -> None:
    with namespace() as pod:
        _pair(pod, "netkit")
        for policy in ("netkit_policy", "netkit_peer_policy"):
            with rtnl.session("mfp1", "open it") as route:
                index = socket.if_nametoindex("mfp1")
                route.link("set", index=index, kind="netkit", **{policy: Policy.PASS})
            assert netkit("mfp1") != SHUT
            assert _pair(pod, "netkit")
            assert netkit("mfp1") == SHUT


@KINDS
def test_names_of_others_are_not_taken(kind: PairKind) -> None:
    with namespace() as pod:
        links.ensure_tun("mfp1")
        with pytest.raises(PermanentError, match="taken by a device of kind tun, a veth pair was wanted"):
            _pair(pod, kind)
        links.delete("mfp1")
        links.ensure_tun("eth0", netns=pod)
        with pytest.raises(PermanentError, match=r"device mfp1: cannot .*: File exists"):
            _pair(pod, kind)
        assert links.find("mfp1") is None


@requires("netkit")
def test_a_veth_pair_is_not_had_where_a_netkit_is() -> None:
    add_netkit("mfhost0", "mfhost1", None, Mode.L3)
    with pytest.raises(PermanentError, match="taken by a device of kind netkit"):
        links.ensure_veth("mfhost0", "mfhost1")


def test_a_device_of_another_kind_or_none_is_no_netkit() -> None:
    assert netkit("lo") is None
    assert netkit("absent") is None
