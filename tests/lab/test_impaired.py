"""Segments that delay, lose and slow down, by netem and by a cable: both do as the description says.

pear ── up0 ── red (20 ms) ── up0 ── plum
     ── up1 ── blue        ── up1 ──
"""

import signal
from collections.abc import Callable, Iterator

import pytest
from typer.testing import CliRunner

from meshfabric.cli.lab import lab_app
from meshfabric.kernel import features
from meshfabric.lab import build, capture, impair, measure, state, status, underlay
from meshfabric.lab.impairment import NONE, Impairment
from meshfabric.lab.state import Lab
from meshfabric.model.errors import InputError, UnsupportedError
from tests.features import requires
from tests.lab.small import fresh_name, is_silent, pings, raised, said, topology
from tests.lab.whole import DEADLINE_S, DRIFT, address, paths, raised_whole, until, wait_whole
from tests.patience import PATIENCE

pytestmark = requires("capabilities")

WAYS = [pytest.param("cable"), pytest.param("netem", marks=requires("netem"))]
DELAY_MS = int(20 * PATIENCE)
TEXT = f"""\
segments:
  - {{name: red, ipv4: 172.31.1.0/24, delay_ms: {DELAY_MS}}}
  - {{name: blue, ipv4: 172.31.2.0/24, ipv6: "fd00:b1::/64", mtu: 9000}}
nodes:
  - {{name: pear, uplinks: [{{name: up0, segment: red}}, {{name: up1, segment: blue}}]}}
  - {{name: plum, uplinks: [{{name: up0, segment: red}}, {{name: up1, segment: blue}}]}}
{DRIFT}impaired_by: """
PODS = """
workloads:
  - {name: web, node: pear}
  - {name: db, node: plum}
"""
RED, BLUE, BLUE6 = "172.31.1.12", "172.31.2.12", "fd00:b1::12"
RED_STORE = "172.31.1.1"
SLACK_MS = 15 * PATIENCE
"""How much later than due an echo may be when the machine has a moment for it."""
SILENCE_S = 5.0
"""For the last echoes of many; the others have come or were lost by then."""
SENT = 400
TRANSFER_BYTES = 2 << 20

Change = Callable[[Impairment], Lab]


@pytest.fixture(scope="module", params=WAYS)
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    with raised(fresh_name(), TEXT + request.param) as one:
        yield one


@pytest.fixture
def red(lab: Lab) -> Iterator[Change]:
    """Impairs the segment red; afterwards it is as the description says."""
    yield lambda given: impair.impair(lab, "red", given)
    impair.impair(lab, "red", Impairment(DELAY_MS))


def rtt_ms(lab: Lab, to: str, count: int = 10) -> float:
    """Of the quickest of some echoes from pear."""
    quickest = measure.ping(lab, "pear", to, count)
    assert quickest is not None
    return quickest


def demand_delay(lab: Lab, to: str, delay_ms: float) -> None:
    """No echo is earlier, and some time one is not much later."""

    def is_due() -> bool:
        rtt = rtt_ms(lab, to)
        assert rtt >= delay_ms
        return rtt < delay_ms + SLACK_MS

    until(is_due)


def answered(lab: Lab, to: str) -> int:
    argv = ["ping", "-n", "-q", "-c", str(SENT), "-i", "0.005", "-W", f"{SILENCE_S:g}", to]
    words = build.run(lab, "pear", argv).stdout.split()
    return int(words[words.index("received,") - 1])


def demand_rate(lab: Lab, size: int, least_mbit: float, most_mbit: float) -> None:
    """No transfer is quicker, and some time one is not slower."""

    def is_quick() -> bool:
        got = measure.transfer(lab, "pear", "plum", RED, size)
        print(f"{got['mbit_s']:.1f} Mbit/s")
        assert got["intact"]
        assert got["mbit_s"] < most_mbit
        return bool(got["mbit_s"] > least_mbit)

    until(is_quick)


def shown(lab: Lab) -> dict[str, str]:
    return {row["segment"]: row["impaired"] for row in status.overview(lab)["segments"]}


class TestImpairments:
    """What is asked for is what befalls a crossing, and nothing else."""

    def test_a_round_trip_is_delayed_twice_and_one_to_the_store_once(self, lab: Lab) -> None:
        demand_delay(lab, RED, 2 * DELAY_MS)
        demand_delay(lab, RED_STORE, DELAY_MS)

    def test_another_segment_is_as_good_as_ever(self, lab: Lab) -> None:
        demand_delay(lab, BLUE, 0)
        assert answered(lab, BLUE6) == SENT

    def test_a_delay_alone_loses_nothing(self, lab: Lab) -> None:
        assert answered(lab, RED) == SENT

    def test_jitter_makes_round_trips_unlike_within_its_bounds(self, lab: Lab, red: Change) -> None:
        red(Impairment(DELAY_MS, jitter_ms=DELAY_MS))
        times: list[float] = []

        def are_unlike() -> bool:
            times.append(rtt_ms(lab, RED, 1))
            return max(times) - min(times) > 1 and min(times) < 4 * DELAY_MS

        until(are_unlike)

    def test_losses_are_as_many_as_asked_for(self, lab: Lab, red: Change) -> None:
        red(Impairment(loss_percent=20))
        assert 0.5 * SENT < answered(lab, RED) < 0.78 * SENT  # 0.64, there and back
        red(Impairment(loss_percent=100))
        assert is_silent(lab, "pear", RED)

    def test_no_more_than_the_rate_comes_through(self, lab: Lab, red: Change) -> None:
        red(Impairment(rate_mbit=10))
        demand_rate(lab, TRANSFER_BYTES, 4, 10.5)

    def test_a_fast_impaired_segment_carries_a_hundred_megabits(self, lab: Lab, red: Change) -> None:
        """In frames of its own MTU, which is what a cable has to keep up with."""
        red(Impairment(delay_ms=1, rate_mbit=100))
        demand_rate(lab, 10 * TRANSFER_BYTES, 20, 105)

    def test_frames_of_the_largest_size_cross(self, lab: Lab) -> None:
        changed = impair.impair(lab, "blue", Impairment(delay_ms=1))
        try:
            assert said(changed, "pear", f"ping -c 1 -W 2 -M do -s 8972 {BLUE} && echo whole").endswith(
                "whole"
            )
            assert rtt_ms(lab, BLUE6) >= 2
        finally:
            impair.impair(lab, "blue", NONE)


class TestLife:
    """Impairments come, change and go while the lab runs; cuts and captures are as on any segment."""

    def test_they_change_and_go_at_run_time(self, lab: Lab, red: Change) -> None:
        red(Impairment(3 * DELAY_MS))
        assert rtt_ms(lab, RED) >= 6 * DELAY_MS
        good = red(NONE)
        demand_delay(lab, RED, 0)
        assert shown(good)["red"] == ""
        assert "w-" not in said(lab, "underlay", "ip -br link show")
        assert "netem" not in said(lab, "underlay", "tc qdisc show")
        red(Impairment(DELAY_MS))
        assert rtt_ms(lab, RED) >= 2 * DELAY_MS

    def test_nothing_is_lost_by_a_change(self, lab: Lab, red: Change) -> None:
        with measure.stream(lab, "pear", "plum", RED) as stream:
            for given in (Impairment(1), Impairment(2 * DELAY_MS), Impairment(DELAY_MS, rate_mbit=50)):
                red(given)
                assert pings(lab, "pear", RED)
            result = stream.result()
        assert result["sent"] > 100
        assert result["lost"] == 0

    def test_the_status_says_what_befalls_a_segment_and_by_what(self, lab: Lab, red: Change) -> None:
        way = impair.way(lab.topology)
        assert shown(lab) == {"red": f"{DELAY_MS} ms by {way}", "blue": ""}
        changed = red(Impairment(10, 2, 0.5, 100))
        assert shown(changed)["red"] == f"10 ms ± 2 ms, 0.5% lost, 100 Mbit/s by {way}"
        assert shown(state.load(lab.name)) == shown(changed)

    def test_a_person_impairs_by_the_command_line(self, lab: Lab, red: Change) -> None:
        def told(*words: str) -> str:
            return CliRunner().invoke(lab_app, ["impair", "--name", lab.name, *words]).stderr.strip()

        way = impair.way(lab.topology)
        assert told("red", "--delay-ms", "50") == f"segment red: 50 ms by {way}"
        assert rtt_ms(lab, RED) >= 100
        assert told("red") == "segment red: good"
        demand_delay(lab, RED, 0)

    def test_an_unknown_segment_is_refused(self, lab: Lab) -> None:
        with pytest.raises(InputError, match=r"the lab has no segment 'rd' \(did you mean 'red'\?\)"):
            impair.impair(lab, "rd", NONE)

    def test_an_impaired_uplink_is_cut_and_healed_as_any_other(self, lab: Lab) -> None:
        underlay.cut(lab, "pear", "up0")
        try:
            assert underlay.cuts(lab) == [("pear", "up0")]
            assert is_silent(lab, "pear", RED)
            assert is_silent(lab, "plum", "172.31.1.11")
            assert said(lab, "pear", "cat /sys/class/net/up0/carrier") == "1"
        finally:
            underlay.heal(lab, "pear", "up0")
        assert pings(lab, "pear", RED)

    def test_a_capture_counts_every_packet_once(self, lab: Lab) -> None:
        assert pings(lab, "pear", RED)  # neighbours known from here on
        with capture.capture(lab, "red") as seen:
            assert pings(lab, "pear", RED, count=5)
            assert 10 <= seen.counts().total < 20


def test_a_dead_cable_is_an_unplugged_one_until_it_is_made_again() -> None:
    with raised(fresh_name(), TEXT + "cable") as lab:
        process = lab.process(impair.ROLE, "red")
        assert process is not None
        process.signal(signal.SIGKILL)
        assert process.wait(DEADLINE_S)
        assert shown(lab)["red"] == "unplugged: its cable is dead"
        assert is_silent(lab, "pear", RED)
        impair.impair(lab, "red", Impairment(DELAY_MS))
        assert rtt_ms(lab, RED) >= 2 * DELAY_MS


def test_a_cable_ends_with_its_lab() -> None:
    with raised(fresh_name(), TEXT + "cable") as lab:
        process = lab.process(impair.ROLE, "red")
        assert process is not None
        assert process.alive
    until(lambda: not process.alive)


def test_netem_is_refused_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = features.Feature("netem", False, "no such queue", False)
    monkeypatch.setattr(features, "netem", lambda: absent)
    with pytest.raises(
        UnsupportedError, match=r"this kernel has no netem: no such queue \(impaired_by: auto, "
    ):
        impair.check(topology(TEXT + "netem"))
    assert impair.way(topology(TEXT + "auto")) == "cable"


def test_netem_makes_no_black_hole(monkeypatch: pytest.MonkeyPatch) -> None:
    present = features.Feature("netem", True, "", False)
    monkeypatch.setattr(features, "netem", lambda: present)
    holed = TEXT.replace("delay_ms", "black_hole_mtu: 1400, delay_ms")
    with pytest.raises(UnsupportedError, match=r"netem has no black_hole_mtu \(impaired_by: cable\)"):
        impair.check(topology(holed + "auto"))
    impair.check(topology(holed + "cable"))


@pytest.mark.parametrize("way", WAYS)
def test_a_fabric_lives_on_an_impaired_segment(way: str) -> None:
    """Its probes tell the delay, and packets take the preferred path, however long."""
    with raised_whole(TEXT + way + PODS) as lab:
        wait_whole(lab)
        far, near = paths(lab, "pear", "plum")
        assert (far["segment"], near["segment"]) == ("red", "blue")
        assert far["rtt_ms"] >= 2 * DELAY_MS
        quickest = measure.ping(lab, "pear/web", address(lab, "plum/db"), 10)
        assert quickest is not None
        assert quickest >= 2 * DELAY_MS
        impair.impair(lab, "red", Impairment(loss_percent=100))
        ends = (("pear", "plum"), ("plum", "pear"))  # each judges for itself
        until(lambda: all(paths(lab, *one)[0]["state"] == "down" for one in ends))
        assert measure.ping(lab, "pear/web", address(lab, "plum/db"), 10) is not None
