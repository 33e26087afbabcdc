"""The search for a path's MTU: whatever the path carries is found, in few probes, and found again."""

from math import log2

from hypothesis import given
from hypothesis import strategies as st

from meshfabric.probe.search import CONFIRM_S, GRAIN, MAX_DOUBTS, MAX_PROBES, RAISE_S, Search, begin, resume

FLOOR = 1320
TURN_S = 1.0
ceilings = st.integers(FLOOR, 9000)
carried = st.integers(1000, 9200)


def most_probes(search: Search) -> int:
    """Before all is known: of the ceiling, and of one half after the other."""
    steps = max((search.ceiling - search.floor) / GRAIN, 1)
    return MAX_DOUBTS + MAX_PROBES * (2 + int(log2(steps)))


def probed(search: Search, carries: int, now_s: float) -> Search:
    """One probe."""
    return search.answered(now_s) if search.size <= carries else search.silent(now_s)


def settled(search: Search, carries: int, now_s: float = 0.0) -> tuple[Search, float, int]:
    """When nothing is left but to confirm and one confirmation came; until when, in how many probes."""
    probes = 0
    while True:
        now_s = max(now_s, search.due_s)
        was_over = search.is_over
        search = probed(search.at(now_s), carries, now_s)
        probes += 1
        if was_over and search.is_over and not search.lost:
            return search, now_s, probes
        assert probes < 1000


def best(search: Search, carries: int) -> int:
    """The most that could be found."""
    if carries >= search.ceiling:
        return search.ceiling
    return max(carries // GRAIN * GRAIN, search.floor)


@given(ceilings, carried)
def test_what_the_path_carries_is_found_in_few_probes(ceiling: int, carries: int) -> None:
    search, _, probes = settled(begin(FLOOR, ceiling), carries)
    assert search.fits == best(search, carries)
    assert probes <= most_probes(search) + MAX_DOUBTS


@given(ceilings, st.lists(carried, min_size=1, max_size=4))
def test_whatever_the_path_becomes_is_found_again(ceiling: int, becomes: list[int]) -> None:
    """Less as soon as it is confirmed no more, more after RAISE_S."""
    search, now_s = begin(FLOOR, ceiling), 0.0
    for carries in becomes:
        search, now_s, _ = settled(search, carries, now_s)
        assert search.fits <= max(carries, FLOOR)
        search, now_s, _ = settled(search, carries, max(now_s, min(now_s + RAISE_S, search.raise_s)))
        assert search.fits >= best(search, carries)


@given(ceilings, carried)
def test_nothing_that_failed_is_ever_in_force_but_the_floor(ceiling: int, carries: int) -> None:
    """Once the first was lost too often."""
    search = begin(FLOOR, ceiling)
    for turn in range(most_probes(search)):
        search = probed(search, carries, turn * TURN_S)
        assert turn < MAX_DOUBTS - 1 or search.fits <= max(carries, FLOOR)


@given(ceilings)
def test_what_fits_is_confirmed_and_no_more(ceiling: int) -> None:
    search = begin(FLOOR, ceiling).answered(100.0)
    assert (search.size, search.fits, search.due_s) == (ceiling, ceiling, 100.0 + CONFIRM_S)
    assert search.at(100.0 + 2 * RAISE_S) == search, "there is nothing to raise it to"


def test_a_lossy_path_is_no_black_hole() -> None:
    search = begin(FLOOR, 1420)
    for turn in range(50):
        lost = turn % MAX_DOUBTS < MAX_DOUBTS - 1
        search = search.silent(turn) if lost else search.answered(turn)
        assert search.fits == 1420


def test_a_black_hole_leaves_the_floor_until_more_is_found() -> None:
    search = begin(FLOOR, 1420)
    for turn in range(MAX_DOUBTS):
        search = search.silent(turn)
    assert (search.fits, search.size) == (FLOOR, 1376)
    search = search.answered(9.0)
    assert (search.fits, search.size) == (1376, 1408)


def test_a_floor_that_does_not_pass_stays_in_force() -> None:
    search, _, _ = settled(begin(FLOOR, 1420), FLOOR)
    for turn in range(3 * MAX_DOUBTS):
        search = search.silent(1000.0 + turn)
    assert search.fits == FLOOR


def test_another_ceiling() -> None:
    whole = begin(FLOOR, 1420).answered(0.0)
    assert whole.under(1420) == whole
    assert whole.under(8920) == begin(FLOOR, 8920), "who carried all of it is trusted"
    less = settled(begin(FLOOR, 1420), 1380)[0]
    assert less.fits == 1376
    assert less.under(8920) == resume(FLOOR, 8920, 1376)
    assert (less.under(8920).size, less.under(8920).fits) == (8920, 1376)
    assert less.under(1340).fits == 1340
