"""The kernel probes by itself: a cut costs little whoever runs, and a full tunnel is not taken for a cut.

pear ── up0 ── red  ── up0 ── plum      probed each 10 ms
     ── up1 ── blue ── up1 ──
"""

import signal
import statistics
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.busy import crowded
from meshfabric.lab import agents, measure, underlay
from meshfabric.lab.process import enter
from meshfabric.lab.state import Lab
from tests.features import requires
from tests.lab.losing import losing
from tests.lab.streams import Flow, flowing
from tests.lab.whole import PAIR, address, paths, put_right, raised_whole, told, until
from tests.patience import PATIENCE

pytestmark = requires("capabilities", "delay")

TEXT = f"{PAIR}probe: {{interval_ms: 10, hold_s: 0}}"
NODES = ("pear", "plum")
FLOWS = (Flow("pear/web", "plum/db"), Flow("plum/db", "pear/web", 6))
BACK_S = 1.0 * PATIENCE  # three answers, 10 ms apart, and room for a machine that is busy
CUTS = 3
OUTAGE_MS = 300 * PATIENCE
"""For sanity; what is reached is printed."""
FILLED_BYTES = 256 << 20
HOGS = 4


@pytest.fixture(scope="module")
def standing() -> Iterator[Lab]:
    with raised_whole(TEXT) as lab:
        yield lab


@pytest.fixture
def lab(standing: Lab) -> Lab:
    """All well, and the kernel probes on both nodes."""
    return probing(standing)


@pytest.fixture(scope="module", params=[10, 50], ids=["10 ms", "50 ms"])
def standing_crowded(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """At the default pace, and at the fast one where the kernel encrypts; both slower where the machine is.

    wireguard-go has to wait for a CPU, on a busy machine for longer than the 21 ms after which probes that
    fast are given up: nobody could tell that from a cut.
    """
    if request.param == 10:
        requires("wireguard")
    pace = f"interval_ms: {round(request.param * PATIENCE)}"
    with raised_whole(TEXT.replace("interval_ms: 10", pace)) as lab:
        yield lab


@pytest.fixture
def crowded_lab(standing_crowded: Lab) -> Lab:
    """The same, for crowds."""
    return probing(standing_crowded)


def probing(lab: Lab) -> Lab:
    """All well, and the kernel probes on both nodes."""
    put_right(lab)
    until(lambda: all(probed_by_kernel(lab, node) for node in NODES))
    return lab


def probed_by_kernel(lab: Lab, node: str) -> bool:
    """Whether the agent has said so since it was started."""
    return any(event["name"] == "probes by the kernel" for event in told(lab, node)["events"])


@pytest.mark.parametrize("number", [None, signal.SIGSTOP, signal.SIGKILL], ids=["run", "stopped", "killed"])
def test_a_cut_costs_little_whatever_the_agents_do(lab: Lab, number: signal.Signals | None) -> None:
    for node in NODES if number else ():
        agents.kill_agent(lab, node, number or signal.SIGKILL)
    outages = [outage for _ in range(CUTS) for outage in outages_of_a_cut(lab)]
    print(f"outages in ms: {' '.join(f'{one:.0f}' for one in sorted(outages))}")
    print(f"median {statistics.median(outages):.0f} ms, longest {max(outages):.0f} ms")
    assert max(outages) < OUTAGE_MS


def outages_of_a_cut(lab: Lab) -> list[float]:
    """Of each flow, when the preferred uplink is cut; then it is healed, and used again."""
    with flowing(lab, *FLOWS) as streams:
        until(streams.all_pass)
        time.sleep(BACK_S)
        underlay.cut(lab, "pear", "up0")
        until(streams.all_came_back)
        underlay.heal(lab, "pear", "up0")
        time.sleep(BACK_S)
    with flowing(lab, *FLOWS) as after:
        until(after.all_pass)
        underlay.cut(lab, "pear", "up1")  # where nothing is any more
        time.sleep(BACK_S)
        underlay.heal(lab, "pear", "up1")
        time.sleep(BACK_S)
    after.assert_nothing_lost()
    return [one.outage_ms for one in streams.datagrams]


@pytest.mark.parametrize("hogs", [0, HOGS])
def test_a_full_tunnel_is_no_cut(crowded_lab: Lab, hogs: int) -> None:
    lab, before = crowded_lab, flaps(crowded_lab)
    with crowded(hogs):
        for sink, source in (("plum/db", "pear/web"), ("pear/web", "plum/db")):
            got = measure.transfer(lab, source, sink, address(lab, sink), FILLED_BYTES)
            print(f"{source} to {sink} beside {hogs} others: {got['mbit_s']:.0f} Mbit/s")
    assert flaps(lab) == before


def flaps(lab: Lab) -> dict[tuple[str, str], int]:
    """How often each path was given up so far."""
    return {
        (node, row["device"]): row["flaps"]
        for node in NODES
        for far in NODES
        for row in paths(lab, node, far)
    }


def test_who_dies_in_one_direction_is_noticed_at_both_ends(lab: Lab) -> None:
    """What pear sends by red is lost; what plum sends there arrives."""
    with losing(lab, "pear", "up0"):
        until(lambda: all(paths(lab, near, far)[0]["state"] == "down" for near, far in (NODES, NODES[::-1])))
        with flowing(lab, *FLOWS) as streams:
            until(streams.all_pass)
        streams.assert_nothing_lost()
    until(lambda: all(paths(lab, near, far)[0]["state"] == "up" for near, far in (NODES, NODES[::-1])))
    lost = paths(lab, "pear", "plum")[0]
    assert lost["lost_out"] > lost["lost_back"]


def test_wireshark_reads_the_probes(lab: Lab, tmp_path: Path) -> None:
    """Both ways, out of the tunnel, as TWAMP's test packets (RFC 8762, 4.6)."""
    captured = tmp_path / "probes.pcap"
    argv = ["timeout", "3", "tcpdump", "-q", "-U", "-i", "mfwg00", "-w", str(captured), "udp port 862"]
    with flowing(lab, *FLOWS):
        subprocess.run(enter(lab.node("pear"), argv, ("net",)), check=False, capture_output=True)
    fields = ("ip.src", "udp.srcport", "twamp.test.seq_number", "_ws.malformed", "_ws.expert.severity")
    argv = ["tshark", "-r", str(captured), "-d", "udp.port==862,twamp.test", "-T", "fields"]
    said = subprocess.run(
        [*argv, *(word for field in fields for word in ("-e", field)), "-o", "udp.check_checksum:TRUE"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    rows = [line.split("\t") for line in said.splitlines()]
    assert {row[1] for row in rows} == {"50862", "862"}, "questions and answers"
    assert [row for row in rows if not row[2].isdecimal() or row[3] or row[4]] == []
