"""What the bench of outages makes of its logs, and what it tells other routers."""

from typing import Any

import pytest

from bench import outage, reroute, routers
from bench.outage import Log, Outage, Trial

MS = 1_000_000
SIDE = routers.Side(
    0,
    "10.77.0.0/24",
    "10.77.0.1",
    (
        routers.Link("up0", "192.0.2.11", "192.0.2.12"),
        routers.Link("up1", "198.51.100.11", "198.51.100.12"),
    ),
)


def log(sent: int, missing: range = range(0), delay_ms: int = 0, late: range = range(0)) -> Log:
    """A datagram each ms from 0 on, all but the `missing` heard at once, the `late` after a delay."""
    return Log(
        [number * MS for number in range(sent)],
        [
            (number, (number + (delay_ms if number in late else 0)) * MS)
            for number in range(sent)
            if number not in missing
        ],
    )


@pytest.mark.parametrize("missing", [range(0), range(50, 51), range(50, 80)])
def test_an_outage_is_what_is_missing_beyond_the_pace(missing: range) -> None:
    assert outage.outage(log(100, missing), 10 * MS) == Outage(len(missing))
    assert outage.lost(log(100, missing), 10 * MS) == len(missing)


def test_only_the_longest_of_two_silences_counts() -> None:
    two = log(100, range(20, 30))
    both = Log(two.sent, [one for one in two.heard if one[0] not in range(50, 65)])
    assert outage.outage(both, 10 * MS) == Outage(15)
    assert outage.lost(both, 10 * MS) == 25


def test_what_was_before_the_failure_does_not_count() -> None:
    assert outage.outage(log(100, range(20, 40)), 50 * MS) == Outage(0)
    assert outage.lost(log(100, range(20, 40)), 50 * MS) == 0


def test_a_silence_under_way_when_the_failure_is_noted_counts_whole() -> None:
    assert outage.outage(log(100, range(20, 60)), 40 * MS) == Outage(40)


def test_silence_to_the_end_is_only_known_to_be_longer() -> None:
    assert outage.outage(log(100, range(60, 100)), 10 * MS) == Outage(39, over=False)
    assert outage.outage(Log([0, 1 * MS, 2 * MS], []), 0) == Outage(1, over=False)


def test_datagrams_that_come_late_are_an_outage_and_not_lost() -> None:
    slow = log(1000, delay_ms=200, late=range(500, 1000))
    assert outage.outage(slow, 400 * MS) == Outage(200)
    assert outage.lost(slow, 400 * MS) == 0


def test_datagrams_that_overtook_each_other_are_told_by_when_they_came() -> None:
    detour = log(1000, delay_ms=200, late=range(500, 530))
    assert outage.outage(detour, 400 * MS) == Outage(30)


def test_a_sender_that_stood_still_is_told_and_is_no_outage() -> None:
    sent = [0, 1 * MS, 26 * MS, 27 * MS]
    assert outage.pause_ms(Log(sent, []), 0) == 24
    assert outage.outage(Log(sent, list(enumerate(sent))), 0) == Outage(0)


def test_a_sender_that_stood_still_hides_no_outage() -> None:
    stood = [number * MS for number in range(50)] + [(number + 20) * MS for number in range(50, 100)]
    heard = [(number, when) for number, when in enumerate(stood) if number not in range(40, 60)]
    assert outage.outage(Log(stood, heard), 0) == Outage(40)


def ends(**changed: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    left, right = log(100, range(20, 25)), log(100, range(30, 40))
    tcp = {"ended": True, "bytes": 5, "sha256": "x"}
    return (
        {"sent": left.sent, "heard": right.heard, "tcp": tcp},
        {"sent": right.sent, "heard": left.heard, "tcp": tcp | changed},
    )


def test_the_worse_direction_counts() -> None:
    found = outage.judge("ours", "silent", ends(), 10 * MS)
    assert found == Trial("ours", "silent", 10.0, True, 10, True, 0.0)


@pytest.mark.parametrize("changed", [{"ended": False}, {"bytes": 4}, {"sha256": "y"}])
def test_a_transfer_is_finished_when_all_of_it_came(changed: dict[str, Any]) -> None:
    assert not outage.judge("ours", "silent", ends(**changed), 10 * MS).finished


def trials(contender: str, *outages: float, over: bool = True, failure: str = "silent") -> list[Trial]:
    return [Trial(contender, failure, ms, over, round(ms), over, 0.5) for ms in outages]


def test_a_median_with_an_open_end_is_open() -> None:
    assert outage.middle([*trials("a", 10, 20), *trials("a", 500, over=False)]) == Outage(20)
    assert outage.middle([*trials("a", 10), *trials("a", 500, 500, over=False)]) == Outage(500, False)
    assert outage.middle([*trials("a", 10), *trials("a", 500, over=False)]) == Outage(255, False)


@pytest.mark.parametrize(
    ("of", "beside", "said"),
    [
        (trials("a", 50), trials("b", 25), "2"),
        (trials("a", 500, over=False), trials("b", 25), "> 20"),
        (trials("a", 50), trials("b", 500, over=False), "< 0.1"),
        (trials("a", 500, over=False), trials("b", 500, over=False), ""),
        (trials("a", 50), trials("b", 0), ""),
    ],
)
def test_a_ratio_says_no_more_than_is_known(of: list[Trial], beside: list[Trial], said: str) -> None:
    assert outage.ratio(of, beside) == said


def test_the_table_has_a_block_for_each_failure_that_was_made() -> None:
    given = [
        *trials("a", 20, 30, 25),
        *trials("b", 2000, 2000, 2000, over=False),
        *trials("b", 7, failure="down"),
    ]
    shown = outage.table(
        given, {"a": "Ours", "b": "Other"}, {"silent": "Cut", "down": "Down", "loss": "Loss"}, "a"
    )
    assert [" ".join(line.split()) for line in shown.splitlines()] == [
        "outage, ms lost TCP finished times ours sender's pause, ms",
        "Cut",
        "Ours 25 [20 - 30] 25 [20 - 30] 3 of 3 1 0",
        "Other > 2,000 [> 2,000 - > 2,000] 2,000 [2,000 - 2,000] 0 of 3 > 80 0",
        "Down",
        "Other 7 [7 - 7] 7 [7 - 7] 1 of 1 0",
    ]
    assert len({len(line) for line in shown.splitlines() if "of" in line and "Ours" in line}) == 1


def test_goals_are_told_for_what_was_measured() -> None:
    given = [
        *trials("ours", 20, 30, 25),
        *trials("bird-10", 50, 50, 50),
        *trials("ours", 0, failure="back"),
    ]
    met = {one.name: (one.value, one.ratio, one.met) for one in reroute.rows_of(given)}
    assert list(met.values()) == [
        (25, None, True),
        (30, None, True),
        (25, 0.5, True),
        (0, None, True),
        (100, None, True),
    ]
    assert not list(reroute.rows_of(trials("bird-10", 50)))


def test_an_outage_that_did_not_end_meets_no_goal() -> None:
    told = list(reroute.rows_of(trials("ours-killed", 2000, over=False)))
    assert [one.met for one in told] == [False, False, False]
    assert "1 still out" in told[0].name


@pytest.mark.parametrize("name", list(routers.routers()))
def test_routers_are_told_of_both_links(name: str) -> None:
    files = routers.routers()[name].files(SIDE)
    assert all(any(link.far in text or link.device in text for text in files.values()) for link in SIDE.links)
    assert any(SIDE.prefix in text or routers.POD_DEVICE in text for text in files.values())


@pytest.mark.parametrize(
    ("name", "file", "said"),
    [
        ("bird-10", "bird.conf", "interval 10 ms; multiplier 3;"),
        ("bird-50", "bird.conf", "interval 50 ms; multiplier 3;"),
        ("frr-50", "bfdd.conf", "receive-interval 50"),
        ("frr-10", "bfdd.conf", "transmit-interval 10"),
        ("babeld-50", "babeld.conf", "hello-interval 0.05 "),
        ("babeld-10", "babeld.conf", "hello-interval 0.01 "),
    ],
)
def test_the_interval_is_in_the_configuration(name: str, file: str, said: str) -> None:
    assert said in routers.routers()[name].files(SIDE)[file]


def test_the_command_line_chooses() -> None:
    wanted = reroute.asked(["--runs", "3", "--of", "bird-10", "ours", "--failure", "down"])
    assert (wanted.runs, list(wanted.of), list(wanted.failures)) == (3, ["ours", "bird-10"], ["down"])
    assert reroute.asked([]).runs == reroute.RUNS
    assert wanted.expected_s < reroute.asked([]).expected_s


@pytest.mark.parametrize(
    "argv", [["--runs", "0"], ["--runs", "x"], ["--of", "quagga"], ["--failure", "rain"]]
)
def test_what_it_does_not_know_is_refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        reroute.asked(argv)
    assert argv[1] in capsys.readouterr().err
