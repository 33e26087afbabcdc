"""The choice among paths over simulated minutes of random failures, by the rules of the datapath.

Each tunnel leads straight to the node that a packet is for, so no choice makes a loop; what can go
wrong is to stay with a path that fails, to leave one that does not, and to go to and fro between them.
"""

import heapq
import random
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshfabric.model.tables import Fault, Grade
from meshfabric.probe.health import chosen, grade
from tests.paths import Hearing, Limits, Path

MS, NS_PER_S = 10**6, 10**9
MINUTE_NS = 60 * NS_PER_S
STEPS = 4  # from silence to soundness: it answers, is not held, not lossy, not slow
DEVICE = 5
LEFT_AT_MOST = 6
"""Times in a minute that a path is left while another one is neither silent nor held."""
RETURN_S = 32 + 64 * 0.05 + 1
"""The longest hold, 64 probes, and some to know."""


class Weather(NamedTuple):
    """What a path does to packets: losses each way, and its round trip."""

    loss: float = 0.0
    rtt_ms: float = 1.0


CLEAR, CUT = Weather(), Weather(1.0)
LOSSY, SLOW = Weather(0.3), Weather(0.0, 401.0)
Seen = Callable[[int, list[int], int], None]


class Simulation:
    """Some paths to one node, probed at the same pace; time is what `run` makes of it."""

    def __init__(self, count: int, seed: int, limits: Limits | None = None) -> None:
        self.limits, self._chance, self.now_ns = limits or Limits(), random.Random(seed), 10**15
        self.paths = [Path() for _ in range(count)]
        self._answers = [0] * count
        self._under_way: list[tuple[int, int, Hearing]] = []

    def run(self, seconds: float, weather: list[Weather]) -> Iterator[tuple[int, list[int], int]]:
        """Give time, the grades of the paths, and which one is chosen, after each turn of probes."""
        end_ns = self.now_ns + int(seconds * NS_PER_S)
        while self.now_ns < end_ns:
            for at, one in enumerate(weather):
                self._probe(at, one)
            self.now_ns += self.limits.interval_ms * MS
            self._hear()
            states = (path.state for path in self.paths)
            grades = [grade(state, DEVICE, self.now_ns, self.limits.interval_ms) for state in states]
            yield self.now_ns, grades, chosen(grades)

    def _probe(self, at: int, weather: Weather) -> None:
        question = self.paths[at].asked(DEVICE, self.now_ns)
        if self._chance.random() < weather.loss:
            return
        answer = self._answers[at]
        self._answers[at] += 1
        if self._chance.random() < weather.loss:
            return
        heard_ns = self.now_ns + int(weather.rtt_ms * MS)
        hearing = Hearing(self.now_ns, heard_ns, 1, 1, question, answer)
        heapq.heappush(self._under_way, (heard_ns, at, hearing))

    def _hear(self) -> None:
        while self._under_way and self._under_way[0][0] <= self.now_ns:
            _, at, hearing = heapq.heappop(self._under_way)
            self.paths[at].heard_answer_to(DEVICE, hearing, self.limits)


class Journal:
    """When each path was left for another that was neither held nor silent."""

    def __init__(self) -> None:
        self.left: dict[int, list[int]] = {}
        self._last = 0

    def note(self, now_ns: int, grades: list[int], taken: int) -> None:
        if taken != self._last and grades[taken] < Fault.HELD and grades[self._last] > grades[taken]:
            self.left.setdefault(self._last, []).append(now_ns)
        self._last = taken

    def most_in_a_minute(self) -> int:
        return max((_densest(times) for times in self.left.values()), default=0)


def _densest(times: list[int]) -> int:
    return max(sum(begun <= one < begun + MINUTE_NS for one in times) for begun in times)


weathers = st.one_of(
    st.just(CLEAR),
    st.just(CUT),
    st.builds(Weather, st.floats(0, 1), st.floats(0.1, 600)),
)
spells = st.lists(
    st.tuples(st.sampled_from([0.2, 1.0, 5.0, 20.0]), st.lists(weathers, min_size=3, max_size=3)),
    min_size=1,
    max_size=12,
)


@settings(max_examples=200)
@given(st.integers(2, 3), spells, st.integers(0, 2**32))
def test_random_failures(count: int, spells: list[tuple[float, list[Weather]]], seed: int) -> None:
    """Never a path without life while another is known to live; never to and fro; back when all is well."""
    simulation, journal = Simulation(count, seed), Journal()
    for _ in simulation.run(1, [CLEAR] * count):
        pass
    for seconds, weather in spells:
        for moment in simulation.run(seconds, weather[:count]):
            _, grades, taken = moment
            assert grades[taken] == min(grades)
            assert (grades[taken] < Grade.SILENT) >= any(one < Grade.SILENT for one in grades)
            journal.note(*moment)
    assert journal.most_in_a_minute() <= LEFT_AT_MOST
    last = [taken for _, _, taken in simulation.run(RETURN_S, [CLEAR] * count)]
    assert last[-1] == 0
    switches = len([1 for one, other in pairwise(last) if one != other])
    assert switches <= STEPS * count, "all is well, so each path only gets better: a step moves at most once"


@settings(max_examples=100)
@given(st.floats(0.0, 0.3), st.floats(0.1, 200), st.integers(0, 2**32))
def test_a_path_that_dies_is_left_at_once_whatever_it_was_like(loss: float, rtt_ms: float, seed: int) -> None:
    """Within as many probes as one that loses many is given, and the patience that it earned."""
    simulation = Simulation(2, seed)
    for _ in simulation.run(5, [Weather(loss, rtt_ms), CLEAR]):
        pass
    wait_s = (3 + 64 / 3 + 1) * 0.05 + 3 * rtt_ms / 1000 + 0.1
    for now_ns, _, taken in simulation.run(wait_s + 1, [CUT, CLEAR]):
        late = now_ns
        last = taken
    assert last == 1, late


@settings(max_examples=50)
@given(st.data(), st.integers(0, 2**32))
def test_the_worst_pattern_of_all(data: st.DataObject, seed: int) -> None:
    """A path that fails as soon as it is taken again, each time by another failure."""
    simulation, journal = Simulation(2, seed), Journal()
    weather = [CLEAR, CLEAR]
    for moment in simulation.run(300, weather):
        journal.note(*moment)
        _, grades, taken = moment
        if taken == 0 and grades[0] == 0 and weather[0] == CLEAR:
            weather[0] = data.draw(st.sampled_from([CUT, LOSSY, SLOW]))
        elif grades[0]:
            weather[0] = CLEAR
    assert journal.most_in_a_minute() <= LEFT_AT_MOST
    assert len(journal.left[0]) >= 300 / (32 + 64 * 0.05 + 5), "it is tried again, by the stated rule"


LEFT_WITHIN_S = {"lossy": (LOSSY, 2.0), "slow": (SLOW, 2.0), "cut": (CUT, 0.3)}


@pytest.mark.parametrize("name", LEFT_WITHIN_S)
@pytest.mark.parametrize("interval_ms", [10, 50])
def test_what_gets_worse_is_left_and_stays_left(name: str, interval_ms: int) -> None:
    worse, within_s = LEFT_WITHIN_S[name]
    times = []
    for seed in range(50):
        simulation = Simulation(2, seed, Limits(interval_ms=interval_ms))
        assert [taken for _, _, taken in simulation.run(2, [CLEAR, CLEAR])][-1] == 0
        begun_ns = simulation.now_ns
        on_it = [now_ns for now_ns, _, taken in simulation.run(30, [worse, CLEAR]) if taken == 0]
        times.append((max(on_it, default=begun_ns) - begun_ns) / NS_PER_S)
    times.sort()
    print(f"{name}, {interval_ms} ms: left for good after {times[25]:.2f} s, in 9 of 10 {times[45]:.2f} s")
    assert times[25] < 1.2
    assert times[-1] < within_s + 3


@pytest.mark.parametrize("loss", [0.0, 0.002, 0.005])
def test_a_good_path_is_not_left_for_noise(loss: float) -> None:
    """Of each way; the other way comes on top."""
    simulation = Simulation(2, 7)
    weather = [Weather(loss, 40.0), Weather(0.0, 20.0)]
    for now_ns, _, taken in simulation.run(1800, weather):
        assert taken == 0 or now_ns - 10**15 < NS_PER_S


def test_where_all_are_bad_traffic_stays() -> None:
    """With the same faults the order counts, and a path that loses many is not soon taken for dead."""
    simulation = Simulation(2, 3)
    for _ in simulation.run(1, [CLEAR, CLEAR]):
        pass
    for _ in simulation.run(60, [LOSSY, LOSSY]):
        pass
    taken = [one for _, _, one in simulation.run(600, [LOSSY, LOSSY])]
    switches = sum(one != other for one, other in pairwise(taken))
    print(f"{switches / 10:.1f} changes a minute")
    assert switches / 10 <= 2 * LEFT_AT_MOST


def test_with_no_limits_only_death_counts() -> None:
    simulation = Simulation(2, 1, Limits(losses=0, rtt_us=0, hold_ns=0))
    for _ in simulation.run(1, [CLEAR, CLEAR]):
        pass
    for _ in simulation.run(30, [Weather(0.1, 500.0), CLEAR]):
        assert not simulation.paths[0].faults
