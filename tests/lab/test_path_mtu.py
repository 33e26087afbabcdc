"""A path that carries less than its uplinks promise, and tells nobody: its MTU is found and obeyed.

near ── red  (MTU 1500, nothing above 1400 bytes arrives) ── far     `wide`: a guest with an MTU of 9000
     ── blue (MTU 1500, dearer)                           ──
wide                                                         pod
"""

import errno
import signal
from collections.abc import Iterator

import pytest

from meshfabric.lab import agents, build, impair, measure, underlay
from meshfabric.lab.impairment import NONE, Impairment
from meshfabric.lab.state import Lab
from meshfabric.lab.workloads import DEVICE
from tests.features import requires
from tests.lab.places import Echo, answers, ping
from tests.lab.whole import active, address, drops, paths, put_right, raised_whole, resume, told, until

pytestmark = requires("capabilities", "tun")

HOLE_MTU = 1400
TEXT = f"""\
segments:
  - {{name: blue, ipv4: 172.31.2.0/24}}
  - {{name: red, ipv4: 172.31.1.0/24, black_hole_mtu: {HOLE_MTU}}}
nodes:
  - name: near
    kind: vm
    uplinks: [{{name: up0, segment: blue, cost: 10}}, {{name: up1, segment: red}}]
  - name: far
    kind: kubernetes
    uplinks: [{{name: up0, segment: blue, cost: 10}}, {{name: up1, segment: red}}]
workloads:
  - {{name: wide, node: near, kind: vm, labels: {{app: wide}}}}
  - {{name: pod, node: far, labels: {{app: pod}}}}
impaired_by: cable
"""
WIDE, POD = "near/wide", "far/pod"
HEADERS, IPIP, GRAIN = 60, 40, 16
MTU = 1500 - HEADERS - IPIP
FOUND = (HOLE_MTU - HEADERS) // GRAIN * GRAIN - IPIP
"""WireGuard pads to multiples of 16."""
SEARCH_S = 60.0
ANSWER_S = 1.0
WIDE_MTU = 9000
TRANSFER_BYTES = 20 << 20
FAMILIES = pytest.mark.parametrize("family", [4, 6])


@pytest.fixture(scope="module")
def standing() -> Iterator[Lab]:
    with raised_whole(TEXT) as lab:
        yield lab


@pytest.fixture
def holed(standing: Lab) -> Lab:
    """The hole is found from both sides, the guest has its own MTU and has learnt of no path."""
    lab = put_right(standing)
    lab = impair.impair(lab, "red", Impairment(black_hole_mtu=HOLE_MTU))
    until(lambda: mtus(lab, "near", "far") == mtus(lab, "far", "near") == [FOUND, MTU], SEARCH_S)
    for words in (f"link set {DEVICE} mtu {WIDE_MTU}", "route flush cache", "-6 route flush cache"):
        done = build.run(lab, WIDE, ["ip", *words.split()])
        assert done.returncode == 0, done.stderr
    return lab


def mtus(lab: Lab, node: str, far: str) -> list[int]:
    """Of the paths between the two, the preferred one first."""
    return [row["mtu"] for row in paths(lab, node, far)]


def told_mtu(lab: Lab, family: int) -> str:
    """What `ping` of too large a packet to the pod prints."""
    argv = ["ping", "-n", "-W", "1", "-c", "1", "-M", "do", "-s", "2000", address(lab, POD, family)]
    return build.run(lab, WIDE, argv).stdout


@FAMILIES
def test_the_sender_is_told_what_fits_the_path(holed: Lab, family: int) -> None:
    assert told(holed, "near")["mtu"] == MTU, "the workloads' own is as it was"
    assert str(FOUND) in told_mtu(holed, family)
    largest = FOUND - (28 if family == 4 else 48)
    argv = ["ping", "-n", "-c", "3", "-i", "0.2", "-M", "do", "-s", str(largest)]
    said = build.run(holed, WIDE, [*argv, address(holed, POD, family)]).stdout
    assert " 3 received" in said


@FAMILIES
@pytest.mark.parametrize(("source", "sink"), [(WIDE, POD), (POD, WIDE)])
def test_connections_have_segments_that_fit_the_path(holed: Lab, source: str, sink: str, family: int) -> None:
    before = drops(holed, "near", "too_big"), drops(holed, "far", "too_big")
    assert ping(holed, source, address(holed, sink, family)) is not None
    got = measure.transfer(holed, source, sink, address(holed, sink, family), TRANSFER_BYTES)
    print(f"{got['mbit_s']:.0f} Mbit/s")
    assert got["intact"]
    assert (drops(holed, "near", "too_big"), drops(holed, "far", "too_big")) == before


@FAMILIES
@pytest.mark.parametrize(("source", "sink"), [("near", "far"), (POD, "near")])
def test_datagrams_that_do_not_fit_are_cut_up_by_their_sender(
    holed: Lab, source: str, sink: str, family: int
) -> None:
    """Their first is refused, which is heard however strict the sender is about where packets come from."""
    strict = "echo 1 >/proc/sys/net/ipv4/conf/all/rp_filter"
    assert build.run(holed, source, ["sh", "-c", strict]).returncode == 0
    to = address(holed, sink, family)

    def arrives() -> bool:
        try:
            return answers(holed, source, to, 3 * MTU, answer_s=ANSWER_S)
        except OSError as error:
            if error.errno != errno.EMSGSIZE:
                raise
            return False

    with Echo(holed, sink):
        until(arrives)


def test_another_path_has_its_own(holed: Lab) -> None:
    underlay.cut(holed, "near", "up1")
    until(lambda: active(holed, "near", "far") == "up0")
    assert str(MTU) in told_mtu(holed, 4)


def test_an_agent_that_starts_knows_what_was_found(holed: Lab) -> None:
    agents.kill_agent(holed, "near", signal.SIGKILL)
    assert str(FOUND) in told_mtu(holed, 4), "nor does the datapath need one"
    resume(holed, "near")
    assert mtus(holed, "near", "far") == [FOUND, MTU]


def test_a_path_that_carries_more_is_used_for_more(holed: Lab) -> None:
    """After ten minutes, or at once when an agent starts."""
    impair.impair(holed, "red", NONE)
    agents.kill_agent(holed, "near", signal.SIGKILL)
    resume(holed, "near")
    until(lambda: mtus(holed, "near", "far") == [MTU, MTU], SEARCH_S)


def test_an_uplink_that_takes_less_says_so_to_all(holed: Lab) -> None:
    """No probe is needed for what an operator sets: the node's record tells every other."""
    underlay_mtu = 1450
    build.run(holed, "far", ["ip", "link", "set", "up0", "mtu", str(underlay_mtu)])
    try:
        wanted = underlay_mtu - HEADERS - IPIP
        until(lambda: told(holed, "near")["mtu"] == told(holed, "far")["mtu"] == wanted)
        until(lambda: mtus(holed, "near", "far") == [FOUND, wanted])
        until(lambda: f"mtu {wanted} " in build.run(holed, POD, ["ip", "link", "show", DEVICE]).stdout)
    finally:
        build.run(holed, "far", ["ip", "link", "set", "up0", "mtu", "1500"])
    until(lambda: mtus(holed, "near", "far")[1] == MTU, SEARCH_S)
