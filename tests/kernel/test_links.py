"""Devices and addresses: wanted sets become so, and asking twice changes nothing."""

import asyncio
import itertools
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from meshfabric.kernel import links
from meshfabric.kernel.links import FABRIC_SYSCTLS, POD_SYSCTLS, LinkEvent
from meshfabric.model.errors import MeshfabricError, PermanentError, TemporaryError
from tests.kernel.cell import namespace
from tests.patience import DEADLINE_S

MACS = ("02:6d:66:01:00:01", "02:6d:66:01:00:02")
MTU = 1380


def _pair(pod: Path | None) -> bool:
    return links.ensure_veth("mfp1", "eth0", pod, MACS, MTU)


def test_a_pair_into_a_namespace_comes_whole() -> None:
    with namespace() as pod:
        assert _pair(pod)
        near, far = links.find("mfp1"), links.find("eth0", netns=pod)
        assert near is not None
        assert far is not None
        assert (near.mac, far.mac) == MACS
        assert (near.mtu, far.mtu, near.kind) == (MTU, MTU, "veth")
        assert (near.peer, far.peer) == (far.index, near.index)
        assert not near.up
        assert links.find("eth0") is None
        assert not _pair(pod)
        assert links.find("mfp1") == near


def test_a_pair_within_one_namespace() -> None:
    assert links.ensure_veth("mfhost0", "mfhost1")
    assert not links.ensure_veth("mfhost0", "mfhost1")
    with namespace() as pod:
        assert links.ensure_veth("mfhost0", "mfhost1", netns=pod)
        assert {"mfhost0", "mfhost1"} < {link.name for link in links.observe(netns=pod)}


def test_a_pair_is_only_adjusted_where_it_differs() -> None:
    with namespace() as pod:
        _pair(pod)
        before = links.find("mfp1")
        assert links.set_mtu("eth0", 1400, netns=pod)
        assert _pair(pod)
        after, far = links.find("mfp1"), links.find("eth0", netns=pod)
        assert after == before
        assert far is not None
        assert far.mtu == MTU


def test_a_pair_that_leads_elsewhere_is_made_anew() -> None:
    with namespace() as old, namespace() as new:
        _pair(old)
        assert _pair(new)
        assert links.find("eth0", netns=old) is None
        far = links.find("eth0", netns=new)
        assert far is not None
        assert far.mac == MACS[1]


def test_names_of_others_are_not_taken() -> None:
    links.ensure_tun("mfp1")
    with namespace() as pod:
        with pytest.raises(PermanentError, match="taken by a device of kind tun, a veth pair was wanted"):
            _pair(pod)
        links.ensure_tun("eth0", netns=pod)
        with pytest.raises(PermanentError, match="device mfp2: cannot join it to eth0: File exists"):
            links.ensure_veth("mfp2", "eth0", pod)
        assert links.find("mfp2") is None


def test_a_namespace_that_is_gone_is_worth_another_try() -> None:
    with pytest.raises(TemporaryError, match="namespace is gone"):
        _pair(Path("/proc/1/nowhere"))
    assert links.find("mfp1") is None


def test_a_tun_device_persists() -> None:
    assert links.ensure_tun("mfwg00")
    assert not links.ensure_tun("mfwg00")
    made = links.find("mfwg00")
    assert made is not None
    assert made.kind == "tun"
    links.ensure_veth("mfp1", "mfp2")
    with pytest.raises(PermanentError, match="taken by a device of kind veth"):
        links.ensure_tun("mfp1")


def test_deleting_the_absent_succeeds() -> None:
    with namespace() as pod:
        _pair(pod)
        assert links.delete("eth0", netns=pod)
        assert not links.delete("eth0", netns=pod)
        assert not links.delete("mfp1")


def test_up_and_mtu_are_set_once() -> None:
    links.ensure_veth("a", "b")
    assert [links.set_up("a"), links.set_up("a"), links.set_up("a", False)] == [True, False, True]
    assert [links.set_mtu("a", 1300), links.set_mtu("a", 1300)] == [True, False]


@pytest.mark.parametrize(
    "call",
    [
        lambda: links.set_up("absent"),
        lambda: links.set_mtu("absent", 1400),
        lambda: links.ensure_addresses("absent", set()),
        lambda: links.ensure_neighbours("absent", {}),
    ],
)
def test_an_absent_device_is_named(call: Callable[[], bool]) -> None:
    with pytest.raises(TemporaryError, match="device absent"):
        call()


def test_addresses_become_exactly_the_wanted_ones() -> None:
    links.ensure_veth("mfhost0", "mfhost1")
    links.set_up("mfhost0")
    links.set_up("mfhost1")
    for wanted in (
        {"10.1.0.1/32", "fd00::1/128"},
        {"10.1.0.1/32", "10.1.0.2/32", "fd00:0:0::2/128"},
        {"10.1.0.9/24", "10.1.0.10/24", "10.1.0.11/24"},
        {"10.1.0.11/24", "10.1.0.12/24"},  # the first of the three went, and the others with it
        set(),
    ):
        assert links.ensure_addresses("mfhost0", wanted)
        assert not links.ensure_addresses("mfhost0", wanted)
        assert links.observe_addresses("mfhost0") == {one.replace("0:0::", ":") for one in wanted}


def test_an_ipv6_address_serves_at_once() -> None:
    links.ensure_veth("mfhost0", "mfhost1")
    links.set_up("mfhost0")
    links.set_up("mfhost1")
    links.ensure_addresses("mfhost0", {"fd00::1/128"})
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as made:
        made.bind(("fd00::1", 0))  # a tentative address would refuse


def test_the_kernels_link_local_addresses_stay() -> None:
    links.ensure_veth("a", "b")
    links.ensure_sysctls("a", {"ipv6.accept_dad": "0"})
    links.set_up("b")
    links.set_up("a")
    assert links.ensure_addresses("a", {"fe80::1/64"})
    assert not links.ensure_addresses("a", {"fe80::1/64"})
    assert links.observe_addresses("a") == set()


@pytest.mark.parametrize("settings", [POD_SYSCTLS, FABRIC_SYSCTLS, {"ipv6.disable_ipv6": "1"}])
def test_sysctls_of_one_device(settings: dict[str, str]) -> None:
    with namespace() as pod:
        links.ensure_veth("a", "b", pod)
        for name, where in (("a", None), ("b", pod)):
            assert links.ensure_sysctls(name, settings, netns=where)
            assert not links.ensure_sysctls(name, settings, netns=where)


def test_a_device_without_generated_address_has_none() -> None:
    links.ensure_veth("a", "b")
    links.ensure_sysctls("a", FABRIC_SYSCTLS)
    links.set_up("b")
    links.set_up("a")
    read = Path("/proc/net/if_inet6").read_text()
    assert [line.split()[-1] for line in read.splitlines() if line.split()[-1] == "a"] == []


def test_an_unknown_sysctl_is_named() -> None:
    links.ensure_veth("a", "b")
    with pytest.raises(PermanentError, match=r"conf/a/colour: cannot set it to red: No such file"):
        links.ensure_sysctls("a", {"ipv4.colour": "red"})


def test_no_thread_stays() -> None:
    with namespace() as pod:
        for _ in range(20):
            _pair(pod)
    assert threading.active_count() == 1


def test_the_rest_of_the_netlink_library_is_not_loaded() -> None:
    code = "import sys; from meshfabric.kernel import links; links.ensure_veth('a', 'b'); print(*sys.modules)"
    loaded = subprocess.check_output([sys.executable, "-W", "error", "-c", code], text=True).split()
    assert "pyroute2.iproute.linux" in loaded
    assert not {"pyroute2", "pyroute2.ndb", "pyroute2.nftables"} & set(loaded)


def test_the_monitor_tells_what_happens() -> None:
    events = asyncio.run(asyncio.wait_for(_watch(), DEADLINE_S))
    told = [(event.change, event.name) for event in events]
    assert told.index(("down", "a")) < told.index(("up", "a")) < told.index(("addresses", "a"))
    assert told[-1] == ("gone", "a")
    assert told.count(("mtu", "a")) == 2, "there and back"
    assert not [
        change for change, following in itertools.pairwise(told) if change == following == ("up", "a")
    ]


async def _watch() -> list[LinkEvent]:
    """What is told while a pair is made, set up, given an address, and deleted."""
    found: list[LinkEvent] = []
    with links.monitor() as changes:
        await asyncio.to_thread(_stir)
        async for event in changes:
            found.append(event)
            if event.change == "gone" and event.name == "a":
                await changes.aclose()
                return found
    return found


def _stir() -> None:
    links.ensure_veth("a", "b")
    links.set_up("b")
    links.set_up("a")
    links.ensure_addresses("a", {"10.1.0.1/32"})
    for mtu in (1400, 1500):
        links.set_mtu("a", mtu)
    links.delete("a")


def test_an_overrun_of_the_monitor_is_told() -> None:
    async def watch() -> list[str]:
        with links.monitor() as changes:
            await asyncio.to_thread(_flood)
            told: list[str] = []
            async for event in changes:
                told.append(event.change)
                if event.change == "lost":
                    await changes.aclose()
                    return told
        return told

    assert asyncio.run(asyncio.wait_for(watch(), DEADLINE_S))[-1] == "lost"


def _flood() -> None:
    """More events than the kernel's queue holds."""
    links.ensure_veth("a", "b")
    for number in range(1500):
        links.set_mtu("a", 1300 + number % 2)


def test_every_refusal_is_one_line() -> None:
    with pytest.raises(MeshfabricError) as refused:
        links.ensure_device("mfx0", "flying-carpet")
    assert str(refused.value) == (
        "device mfx0: cannot make a flying-carpet device: Operation not supported"
        " (meshfabric doctor lists what this kernel lacks)"
    )
