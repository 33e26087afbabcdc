"""Which path is chosen, why, and what a change of it costs: as events tell it, one step after the other."""

from typing import Any

import pytest

from meshfabric.compiler.paths import Pair
from meshfabric.model.tables import Fault, Grade, PathState, Turn
from meshfabric.observe.rows import PathSeen
from meshfabric.observe.switches import KEPT, Candidate, Choices, explain, outage_text

MS = 1_000_000
NODE = "far"


def candidate(
    device: str, *, works: bool = True, heard_ms: int = 5, draining: bool = False, generation: int = 0
) -> Candidate:
    slot = int(device[-1])
    pair = Pair(0, slot, slot, "", "", draining)
    grade = Grade.SOUND if works else Grade.SILENT
    return Candidate(device, pair, generation, grade, heard_ms * MS)


A, B = candidate("wg0"), candidate("wg1")


def choices(*paths: Candidate) -> Choices:
    made = Choices()
    assert made.follow(NODE, paths, 0) is None, "what is chosen first is no switch"
    return made


def down(at_ms: int, heard_ms: int) -> Turn:
    return Turn(at_ms * MS, heard_ms * MS, 0, 0, Grade.SILENT)


def up(at_ms: int) -> Turn:
    return Turn(at_ms * MS, at_ms * MS, 0, 0, Grade.SOUND)


def test_a_path_given_up_costs_the_time_since_its_last_answer() -> None:
    made = choices(A, B)
    switch = made.take(NODE, "wg0", down(120, 10))
    assert switch is not None
    assert (switch.at_ns, switch.old, switch.new, switch.why) == (120 * MS, "wg0", "wg1", "no answers")
    assert (switch.outage_ns, outage_text(switch)) == (110 * MS, "110 ms out")
    back = made.take(NODE, "wg0", up(500))
    assert back is not None
    assert (back.old, back.new, back.why, back.outage_ns) == ("wg1", "wg0", "came back", 0)
    assert made.counts == {NODE: 2}


def test_what_happens_in_reserve_is_no_switch() -> None:
    made = choices(A, B)
    assert made.take(NODE, "wg1", down(120, 10)) is None
    assert made.take(NODE, "wg1", up(500)) is None
    assert made.counts == {}


def test_nothing_works_until_the_first_comes_back() -> None:
    made = choices(A, B)
    made.take(NODE, "wg0", down(100, 10))
    lost = made.take(NODE, "wg1", down(200, 150))
    assert lost is not None, "the first is taken where none works"
    assert (lost.old, lost.new) == ("wg1", "wg0")
    back = made.take(NODE, "wg1", up(900))
    assert back is not None
    assert (back.old, back.new, back.outage_ns) == ("wg0", "wg1", 890 * MS)


def test_the_only_one_comes_back() -> None:
    made = choices(A)
    assert made.take(NODE, "wg0", down(100, 10)) is None
    back = made.take(NODE, "wg0", up(900))
    assert back is not None
    assert (back.old, back.new, back.why, back.outage_ns) == ("wg0", "wg0", "came back", 890 * MS)


def turn(at_ms: int, grade: int) -> Turn:
    return Turn(at_ms * MS, at_ms * MS, 0, 0, grade)


@pytest.mark.parametrize(
    ("grade", "why"), [(Fault.LOSSY | Fault.HELD, "loses too much"), (Fault.SLOW | Fault.HELD, "too slow")]
)
def test_a_path_that_got_worse_than_another_is_left_and_nothing_is_lost(grade: int, why: str) -> None:
    made = choices(A, B)
    switch = made.take(NODE, "wg0", turn(120, grade))
    assert switch is not None
    assert (switch.old, switch.new, switch.why, switch.outage_ns) == ("wg0", "wg1", why, 0)
    assert made.take(NODE, "wg0", turn(130, Fault.HELD)) is None, "it is held yet"
    back = made.take(NODE, "wg0", turn(140, Grade.SOUND))
    assert back is not None
    assert (back.old, back.new, back.why) == ("wg1", "wg0", "came back")


def test_one_that_is_held_is_not_taken_before_the_other_is_worse() -> None:
    made = choices(A, B)
    made.take(NODE, "wg0", down(100, 10))
    assert made.take(NODE, "wg0", turn(200, Fault.HELD)) is None
    worse = made.take(NODE, "wg1", down(300, 250))
    assert worse is not None
    assert (worse.new, worse.outage_ns) == ("wg0", 50 * MS)


def test_first_answers_are_no_return() -> None:
    made = choices(candidate("wg0", works=False, heard_ms=0), candidate("wg1", works=False, heard_ms=0))
    assert made.take(NODE, "wg1", up(30)) is None, "nothing was carried before"
    first = made.take(NODE, "wg0", up(40))
    assert first is not None
    assert (first.old, first.new, first.why, first.outage_ns) == ("wg1", "wg0", "answers now", 0)


def test_the_first_answer_of_the_only_one_is_no_switch() -> None:
    assert choices(candidate("wg0", works=False, heard_ms=0)).take(NODE, "wg0", up(30)) is None


@pytest.mark.parametrize(
    ("after", "why", "outage_ns"),
    [
        ([B, candidate("wg0", draining=True)], "drained", 0),
        ([B], "path gone", None),
        ([B, A], "order changed", 0),
        ([candidate("wg0", works=False), B], "no answers", 95 * MS),
        ([candidate("wg2", generation=1), A, B], "new keys", 0),
    ],
)
def test_why_an_order_chooses_otherwise(after: list[Candidate], why: str, outage_ns: int | None) -> None:
    switch = choices(A, B).follow(NODE, after, 100 * MS)
    assert switch is not None
    assert (switch.why, switch.outage_ns, switch.old) == (why, outage_ns, "wg0")


def test_an_order_taken_back() -> None:
    switch = choices(B, candidate("wg0", draining=True)).follow(NODE, [A, B], 100 * MS)
    assert switch is not None
    assert (switch.old, switch.new, switch.why) == ("wg1", "wg0", "not drained any more")


@pytest.mark.parametrize(("heard_ms", "why"), [(5, "came back"), (0, "answers now")])
def test_one_that_is_seen_to_work_before_that_is_told(heard_ms: int, why: str) -> None:
    made = choices(candidate("wg0", works=False, heard_ms=heard_ms), B)
    switch = made.follow(NODE, [A, B], 100 * MS)
    assert switch is not None
    assert (switch.new, switch.why, switch.outage_ns) == ("wg0", why, 0)
    assert made.take(NODE, "wg0", up(90)) is None


def test_a_node_that_goes_and_comes_is_no_switch() -> None:
    made = choices(A, B)
    assert made.follow(NODE, [], 1) is None
    assert made.take(NODE, "wg0", down(100, 10)) is None
    assert made.follow(NODE, [B], 2) is None


def test_the_last_are_kept_and_all_are_counted() -> None:
    made = choices(A, B)
    for turn in range(KEPT):
        made.take(NODE, "wg0", down(turn, 0))
        made.take(NODE, "wg0", up(turn))
    assert (len(made.kept[NODE]), made.counts[NODE]) == (KEPT, 2 * KEPT)
    assert [one.number for one in made.kept[NODE]] == list(range(KEPT + 1, 2 * KEPT + 1))


FAULTS = {"lossy": Fault.LOSSY | Fault.HELD, "slow": Fault.SLOW, "held": Fault.HELD}


def seen(device: str, health: str, *, active: bool = False, **pair: Any) -> PathSeen:
    slot = int(device[-1])
    made = Pair(0, slot, slot, "", "")._replace(**pair)
    state = PathState(heard_ns=1_000_000_000, rtt_us=350_000, faults=FAULTS.get(health, 0))
    return PathSeen("far", made, device, 0, state, health, active, None, 0, 0, 7.25, 12.5)


def returning(device: str, *, silent: bool) -> PathSeen:
    path = seen(device, "down")
    return path._replace(state=path.state._replace(streak=2, sent=9, answered=6 if silent else 9))


@pytest.mark.parametrize(
    ("paths", "reasons"),
    [
        ([seen("wg0", "up", active=True)], ["the only one"]),
        (
            [seen("wg0", "up", active=True), seen("wg1", "up", cost=3), seen("wg2", "up")],
            ["preferred", "in reserve: costs 3 more", "in reserve: configured later"],
        ),
        (
            [seen("wg0", "down"), seen("wg1", "up", active=True), seen("wg2", "new")],
            ["no answer for 2.5 s", "next best: wg0 is down", "never answered yet"],
        ),
        (
            [seen("wg0", "up", active=True)._replace(generation=None), seen("wg1", "up")],
            ["preferred", "in reserve: encrypts"],
        ),
        (
            [seen("wg0", "up", active=True), seen("wg1", "up", draining=True)],
            ["preferred", "draining"],
        ),
        (
            [seen("wg0", "down"), seen("wg1", "up", active=True, draining=True)],
            ["no answer for 2.5 s", "draining, and no other works"],
        ),
        (
            [seen("wg0", "lossy"), seen("wg1", "slow", active=True), seen("wg2", "held")],
            [
                "loses 12% of its probes",
                "none is better: slow: 350 ms there and back",
                "held for 7.2 s yet",
            ],
        ),
        (
            [seen("wg0", "up", active=True), seen("wg1", "up", active=True), seen("wg2", "lossy")],
            ["one of 2 that share", "one of 2 that share", "loses 12% of its probes"],
        ),
        (
            [seen("wg0", "down", active=True), seen("wg1", "down")],
            ["none works, this is the first: no answer for 2.5 s", "no answer for 2.5 s"],
        ),
        (
            [returning("wg0", silent=False), returning("wg1", silent=True), seen("wg2", "up", active=True)],
            ["answers again: 2 of 3", "no answer for 2.5 s", "next best: wg0 is down"],
        ),
    ],
)
def test_each_path_says_why(paths: list[PathSeen], reasons: list[str]) -> None:
    assert explain(paths, 3_500_000_000) == reasons
    other = [path._replace(node="other") for path in paths]
    assert explain([*paths, *other], 3_500_000_000) == [*reasons, *reasons]
