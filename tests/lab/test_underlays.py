"""Underlays of other kinds: one uplink only, IPv6 only, an IPv4 and an IPv6 island joined by a node in both.

one ──── red (IPv4) ──── two ──── six (IPv6, MTU 1480) ──── three
"""

from itertools import permutations

import pytest

from meshfabric.lab import build, measure
from meshfabric.lab.state import Lab
from tests.features import requires
from tests.lab.places import SILENCE_S, Echo, Packets, answers, connects, is_too_big, ping
from tests.lab.store import Store
from tests.lab.whole import address, dropping, listing, paths, places, told

pytestmark = requires("capabilities")

MTU = 1480 - 80 - 40
"""The tightest uplink of the fabric counts everywhere."""
HEADERS = {4: 28, 6: 48}
NEIGHBOURS = [
    (a, b)
    for a, b in permutations(("one", "one/left", "two", "two/middle", "three", "three/right"), 2)
    if {a.split("/")[0], b.split("/")[0]} != {"one", "three"}
]
TRANSFER_BYTES = 10 << 20


@pytest.mark.parametrize("family", [4, 6])
def test_both_families_pass_whatever_is_underneath(mixed: Lab, family: int) -> None:
    assert set(places(mixed)) == {place for pair in NEIGHBOURS for place in pair}
    with Echo(mixed, *places(mixed)):
        for a, b in NEIGHBOURS:
            to = address(mixed, b, family)
            assert ping(mixed, a, to) is not None, (a, b)
            assert connects(mixed, a, to), (a, b)
            assert answers(mixed, a, to, 3000), (a, b)


@pytest.mark.parametrize(("source", "sink"), [("one/left", "two/middle"), ("three/right", "two")])
def test_megabytes_arrive_as_they_were(mixed: Lab, source: str, sink: str) -> None:
    for family in (4, 6):
        got = measure.transfer(mixed, source, sink, address(mixed, sink, family), TRANSFER_BYTES)
        assert got["intact"]


def test_each_tunnel_runs_over_what_its_segment_has(mixed: Lab) -> None:
    (over4,), (over6,) = paths(mixed, "two", "one"), paths(mixed, "two", "three")
    assert (over4["local"], over4["segment"], over4["endpoint"]) == ("up0", "red", "172.31.1.11")
    assert (over6["local"], over6["segment"], over6["endpoint"]) == ("up1", "six", "fd00:6::12")


def test_nodes_without_a_common_segment_have_no_path(mixed: Lab) -> None:
    """And what they would say to each other leaves by nothing else."""
    for family in (4, 6):
        for source, node, sink in (
            ("one", "one", "three/right"),
            ("one/left", "one", "three"),
            ("three/right", "three", "one/left"),
        ):
            with dropping(mixed, node, "no_path"):
                assert ping(mixed, source, address(mixed, sink, family), answer_s=SILENCE_S) is None
    (row,) = (row for row in listing(mixed, "one", "nodes") if row["node"] == "three")
    assert row["paths"] == "0/0 up"


def test_the_tightest_uplink_of_the_fabric_sets_every_mtu(mixed: Lab) -> None:
    for where in places(mixed):
        device = "eth0" if "/" in where else "mfhost0"
        shown = build.run(mixed, where, ["cat", f"/proc/sys/net/ipv6/conf/{device}/mtu"])
        assert int(shown.stdout) == MTU, where
    assert {told(mixed, node)["mtu"] for node in ("one", "two", "three")} == {MTU}
    for family, headers in HEADERS.items():
        to = address(mixed, "three/right", family)
        assert ping(mixed, "two/middle", to, Packets(MTU - headers, whole=True)) is not None
        assert is_too_big(mixed, "two/middle", to, MTU - headers + 1)


def test_both_generations_of_etcd_serve(fabric: Lab, mixed: Lab) -> None:
    """One lab runs on the distribution's, the other on the newest that is there."""
    versions = [tuple(map(int, Store(lab).version().split(".")[:2])) for lab in (mixed, fabric)]
    if versions[0] == versions[1]:
        pytest.skip(f"there is only etcd {versions[0]} here")
    assert versions == [(3, 4), (3, 5)]
