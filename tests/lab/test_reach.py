"""Every kind of workload reaches every other: both families, every protocol, packets of every size."""

from itertools import permutations

import pytest

from meshfabric.lab import build, measure
from meshfabric.lab.state import Lab
from tests.features import requires
from tests.lab.places import Echo, Packets, answers, connects, is_too_big, ping
from tests.lab.whole import address, told

pytestmark = requires("capabilities")

PLACES = ("vm1", "vm1/guest1", "metal1", "kube1", "kube1/web", "kube1/client", "kube2/db", "kube2/cache")
"""A VM host and its guest, a metal host, a Kubernetes host, pods of the same node and of another."""
MTU = 1380
"""1500 less the headers of IPv6, UDP and WireGuard (80), and of IP-in-IP (40)."""
HEADERS = {4: 28, 6: 48}
TRANSFER_BYTES = 50 << 20
FRAGMENTED = (3000, 8000)


@pytest.mark.parametrize("family", [4, 6])
def test_everyone_pings_everyone(fabric: Lab, family: int) -> None:
    pairs = list(permutations(PLACES, 2))
    unheard = [(a, b) for a, b in pairs if ping(fabric, a, address(fabric, b, family)) is None]
    assert unheard == []


@pytest.mark.parametrize("family", [4, 6])
def test_everyone_speaks_tcp_and_udp_with_everyone(fabric: Lab, family: int) -> None:
    with Echo(fabric, *PLACES):
        for a, b in permutations(PLACES, 2):
            assert connects(fabric, a, address(fabric, b, family)), (a, b)
            assert answers(fabric, a, address(fabric, b, family)), (a, b)


def test_a_place_reaches_itself(fabric: Lab) -> None:
    for where in PLACES:
        for family in (4, 6):
            assert ping(fabric, where, address(fabric, where, family)) is not None, (where, family)


def test_nobody_answers_where_nobody_is(fabric: Lab) -> None:
    assert ping(fabric, "kube1/web", "10.64.4.200", answer_s=0.5) is None
    assert ping(fabric, "kube1/web", "fd6d:6600:0:4::200", answer_s=0.5) is None


def test_every_workload_has_the_mtu_that_is_planned(fabric: Lab) -> None:
    for where in PLACES:
        device = "eth0" if "/" in where else "mfhost0"
        shown = build.run(fabric, where, ["cat", f"/proc/sys/net/ipv6/conf/{device}/mtu"])
        assert int(shown.stdout) == told(fabric, where.split("/")[0])["mtu"] == MTU, where


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize(
    ("source", "sink"), [("kube1/web", "kube2/db"), ("vm1/guest1", "kube1/client"), ("metal1", "vm1")]
)
def test_a_packet_of_the_full_mtu_passes_whole_and_a_larger_one_never_leaves(
    fabric: Lab, source: str, sink: str, family: int
) -> None:
    to, largest = address(fabric, sink, family), MTU - HEADERS[family]
    for size in (1300, largest):
        assert ping(fabric, source, to, Packets(size, whole=True)) is not None, size
    assert is_too_big(fabric, source, to, largest + 1)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("size", FRAGMENTED)
def test_what_is_larger_is_cut_up_and_put_together(fabric: Lab, size: int, family: int) -> None:
    pairs = [("kube1/web", "kube2/db"), ("kube1/web", "kube1/client"), ("vm1/guest1", "metal1")]
    with Echo(fabric, *(sink for _, sink in pairs)):
        for source, sink in pairs:
            to = address(fabric, sink, family)
            assert ping(fabric, source, to, Packets(size)) is not None, (source, sink)
            assert answers(fabric, source, to, size), (source, sink)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize(
    ("source", "sink"), [("kube1/web", "kube2/db"), ("vm1/guest1", "kube1/web"), ("metal1", "vm1/guest1")]
)
def test_fifty_megabytes_arrive_as_they_were(fabric: Lab, source: str, sink: str, family: int) -> None:
    got = measure.transfer(fabric, source, sink, address(fabric, sink, family), TRANSFER_BYTES)
    assert got["intact"]
    assert got["bytes"] == TRANSFER_BYTES
