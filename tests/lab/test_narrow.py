"""A workload that sends more than the fabric carries: it is told so, and its connections need not be.

near ──── red (MTU 1400) ──── far        The guest `wide` has an MTU of 9000, the pod `pod` what is planned.
wide                          pod
"""

from collections.abc import Iterator

import pytest

from meshfabric.lab import build, measure
from meshfabric.lab.state import Lab
from meshfabric.lab.workloads import DEVICE
from tests.features import requires
from tests.lab.places import ping
from tests.lab.whole import address, drops, put_right, raised_whole, told

pytestmark = requires("capabilities")

TEXT = """\
segments:
  - {name: red, ipv4: 172.31.1.0/24, mtu: 1400}
nodes:
  - {name: near, kind: vm, uplinks: [{name: up0, segment: red}]}
  - {name: far, kind: kubernetes, uplinks: [{name: up0, segment: red}]}
workloads:
  - {name: wide, node: near, kind: vm, labels: {app: wide}}
  - {name: pod, node: far, labels: {app: pod}}
"""
WIDE, POD = "near/wide", "far/pod"
MTU = 1400 - 60 - 40
"""Less the headers of IPv4, UDP and WireGuard, and what is kept back for IP-in-IP."""
WIDE_MTU = 9000
TRANSFER_BYTES = 20 << 20
FAMILIES = pytest.mark.parametrize("family", [4, 6])


@pytest.fixture(scope="module")
def standing_narrow() -> Iterator[Lab]:
    """Two nodes, and the guest's own MTU set by the guest."""
    with raised_whole(TEXT) as lab:
        yield lab


@pytest.fixture
def narrow(standing_narrow: Lab) -> Lab:
    """All well, and nothing learnt of any path."""
    lab = put_right(standing_narrow)
    for words in (f"link set {DEVICE} mtu {WIDE_MTU}", "route flush cache", "-6 route flush cache"):
        done = build.run(lab, WIDE, ["ip", *words.split()])
        assert done.returncode == 0, done.stderr
    return lab


def said(lab: Lab, to: str, *words: str) -> str:
    """What `ping` prints of a few echo requests from the guest."""
    return build.run(lab, WIDE, ["ping", "-n", "-W", "1", "-i", "0.2", *words, to]).stdout


@FAMILIES
@pytest.mark.parametrize("sink", [POD, "near"])
def test_the_sender_is_told_what_fits(narrow: Lab, sink: str, family: int) -> None:
    """By ICMP from the gateway; then its own kernel knows, and sends nothing that is too large."""
    assert told(narrow, "near")["mtu"] == MTU
    before = drops(narrow, "near", "too_big")
    printed = said(narrow, address(narrow, sink, family), "-c", "3", "-M", "do", "-s", "2000")
    if family == 4:
        assert f"From 169.254.1.1 icmp_seq=1 Frag needed and DF set (mtu = {MTU})" in printed
    else:
        assert f"From fe80::6d66%{DEVICE} icmp_seq=1 Packet too big: mtu={MTU}" in printed
    assert drops(narrow, "near", "too_big") - before == 1


@FAMILIES
def test_what_may_be_cut_up_is_cut_up_by_the_sender_once_it_knows(narrow: Lab, family: int) -> None:
    printed = said(narrow, address(narrow, POD, family), "-c", "4", "-M", "dont", "-s", "4000")
    assert f"4008 bytes from {address(narrow, POD, family)}: icmp_seq=4" in printed


@FAMILIES
@pytest.mark.parametrize("sink", [POD, "near"])
def test_the_first_hop_is_the_gateway(narrow: Lab, sink: str, family: int) -> None:
    """And there are no more: the second is the receiver."""
    to = address(narrow, sink, family)
    printed = said(narrow, to, "-c", "1", "-t", "1")
    if family == 4:
        assert "From 169.254.1.1 icmp_seq=1 Time to live exceeded" in printed
    else:
        assert f"From fe80::6d66%{DEVICE} icmp_seq=1 Time exceeded: Hop limit" in printed
    assert "1 received" in said(narrow, to, "-c", "1", "-t", "2")


@FAMILIES
@pytest.mark.parametrize(("source", "sink"), [(WIDE, POD), (POD, WIDE), (WIDE, "near")])
def test_a_connection_has_segments_that_fit_from_its_start(
    narrow: Lab, source: str, sink: str, family: int
) -> None:
    before = drops(narrow, "near", "too_big")
    assert ping(narrow, source, address(narrow, sink, family)) is not None
    got = measure.transfer(narrow, source, sink, address(narrow, sink, family), TRANSFER_BYTES)
    assert got["intact"]
    assert drops(narrow, "near", "too_big") == before, "nothing had to be lost to find it out"
