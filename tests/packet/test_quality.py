"""What answers make of a path, held against the same judgement in Python, at times that the test makes up."""

import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path as File

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshfabric.kernel import loader
from meshfabric.kernel.bpf import SkbContext
from meshfabric.model import tables
from meshfabric.model.tables import FIRST_NODE, Fault, PathState, path_value
from tests.packet.arena import Arena, compile_extra
from tests.packet.rig import Rig, Scene
from tests.packet.world import FAR
from tests.paths import Hearing, Limits, Path

SOURCE = File(__file__).with_name("hear.bpf.c")
EVENT = struct.Struct("=II4QII")
ASKED, HEARD = 0, 1
AT, DEVICE, OTHER_DEVICE = (FAR - FIRST_NODE) * tables.MAX_PATHS, 7, 8
BEGUN_NS, MS = 10**15, 10**6
Happens = Callable[[int, int, Hearing], int]


@pytest.fixture(scope="module")
def happens(place: Arena, rig: Rig, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Happens]:
    """hear.bpf.c, which writes the rig's own maps."""
    built = compile_extra(SOURCE, tmp_path_factory.mktemp("hear"))
    with place.run(loader.load, [built], place.pins) as extra:
        assert "paths" in extra.adopted

        def happen(what: int, ifindex: int, hearing: Hearing) -> int:
            packet = EVENT.pack(what, ifindex, *hearing).ljust(64, b"\0")
            context = SkbContext(mark=AT).pack()
            return place.run(extra.programs["happens"].test_run, packet, ctx=context).retval

        yield happen


class Both:
    """One path, in the kernel and in Python. Each difference is told at once."""

    def __init__(self, rig: Rig, happens: Happens, state: PathState | None = None) -> None:
        self._rig, self._happens, self.model = rig, happens, Path(state)
        rig.set_path(FAR, 0, path_value(self.model.state))

    def ask(self, now_ns: int, ifindex: int = DEVICE) -> int:
        sequence = self._happens(ASKED, ifindex, Hearing(now_ns, 0, 0, 0, 0, 0))
        assert sequence == self.model.asked(ifindex, now_ns)
        self._compare()
        return sequence

    def hear(self, hearing: Hearing, ifindex: int = DEVICE) -> None:
        taken = self._happens(HEARD, ifindex, hearing)
        assert bool(taken) == self.model.heard_answer_to(ifindex, hearing, Limits())
        self._compare()

    def _compare(self) -> None:
        assert self._rig.path(FAR, 0) == self.model.state


conditions = st.tuples(
    st.sampled_from([1, 20, 80]),  # probes
    st.sampled_from([0.0, 0.1, 0.5, 1.0]),  # lost, each way
    st.sampled_from([1, 40, 280, 400]),  # round trip in ms
    st.sampled_from([0, 5, 100]),  # and up to so much more
    st.sampled_from([50, 50, 1000]),  # from probe to probe in ms
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(conditions, min_size=1, max_size=6), st.integers(0, 2**32))
def test_any_life_of_a_path(scene: Scene, happens: Happens, life: list[tuple], seed: int) -> None:  # type: ignore[type-arg]  # hypothesis says what is in it
    """Lost, late, overtaken, cut and back: after each probe and answer both say the same."""
    both, chance = Both(scene.rig, happens), random.Random(seed)
    now_ns, answers = BEGUN_NS, 0
    under_way: list[tuple[int, int, int, int]] = []
    for probes, loss, rtt_ms, more_ms, interval_ms in life:
        for _ in range(probes):
            now_ns += interval_ms * MS
            under_way.sort()
            while under_way and under_way[0][0] <= now_ns:
                heard_ns, asked_ns, question, answer = under_way.pop(0)
                half_ns = (heard_ns - asked_ns) // 2
                both.hear(Hearing(asked_ns, heard_ns, half_ns, half_ns + 3, question, answer))
            question = both.ask(now_ns)
            if chance.random() < loss:
                continue
            answers += 1
            if chance.random() >= loss:
                rtt_ns = int((rtt_ms + chance.random() * more_ms) * MS)
                under_way.append((now_ns + rtt_ns, now_ns, question, answers - 1))


def steadily(both: Both, first: int, count: int, rtt_ms: int = 1, every: int = 1) -> int:
    """So many probes, each `every`-th of them answered at once; the number after them."""
    for number in range(first, first + count):
        now_ns = BEGUN_NS + number * 500 * MS
        both.ask(now_ns)
        if number % every == 0:
            both.hear(Hearing(now_ns, now_ns + rtt_ms * MS, 1, 1, number, number))
    return first + count


def test_losses_are_a_fault_from_seven_of_64_on_until_one_is_left(scene: Scene, happens: Happens) -> None:
    both = Both(scene.rig, happens)
    at = steadily(both, 0, 4)
    at = steadily(both, at, 12, every=2)
    assert both.model.faults == 0
    at = steadily(both, at, 1, every=2)
    at = steadily(both, at, 2)
    assert both.model.missing.bit_count() == 6
    at = steadily(both, at, 2, every=2)
    assert both.model.faults == Fault.LOSSY | Fault.HELD
    at = steadily(both, at, 50)
    assert both.model.faults == Fault.LOSSY, "its second is over"
    steadily(both, at, 64)
    assert both.model.faults == 0


def test_sixteen_long_round_trips_are_a_fault_until_64_are_clearly_shorter(
    scene: Scene, happens: Happens
) -> None:
    both = Both(scene.rig, happens)
    at = steadily(both, 0, 4)
    at = steadily(both, at, 15, rtt_ms=301)
    at = steadily(both, at, 1, rtt_ms=299)
    at = steadily(both, at, 15, rtt_ms=301)
    assert both.model.faults == 0
    at = steadily(both, at, 1, rtt_ms=301)
    assert both.model.faults == Fault.SLOW | Fault.HELD
    at = steadily(both, at, 70, rtt_ms=226)
    assert both.model.faults == Fault.SLOW
    at = steadily(both, at, 63, rtt_ms=225)
    assert both.model.faults == Fault.SLOW
    steadily(both, at, 1, rtt_ms=225)
    assert both.model.faults == 0
    assert both.model.rtt_peak_us == 225_000, "a cut would be noticed as before"


def test_answers_that_were_held_up_together_are_one_long_round_trip(scene: Scene, happens: Happens) -> None:
    both = Both(scene.rig, happens)
    for number in range(100):
        both.ask(BEGUN_NS + number * 50 * MS)
    heard_ns = BEGUN_NS + 5000 * MS
    for number in range(90):
        at_ns = heard_ns + number * MS // 10
        both.hear(Hearing(BEGUN_NS + number * 50 * MS, at_ns, 1, 1, number, number))
    assert (both.model.late, both.model.faults) == (1, 0)


def test_each_fall_within_a_minute_holds_twice_as_long(scene: Scene, happens: Happens) -> None:
    both = Both(scene.rig, happens)
    now_ns, number, holds = BEGUN_NS, 0, []
    for pause_s in (1, 10, 10, 10, 10, 10, 10, 10, 150):
        for step_ms in [50] * 3 + [pause_s * 1000] + [50] * 3:
            now_ns += step_ms * MS
            both.ask(now_ns)
            number += 1
        both.hear(Hearing(now_ns, now_ns + MS, 1, 1, number - 1, number))
        for _ in range(80):
            now_ns += 500 * MS
            both.ask(now_ns)
            both.hear(Hearing(now_ns, now_ns + MS, 1, 1, number, number))
            number += 1
        holds.append(both.model.hold_ns // 10**9)
    assert holds[0] == 0, "what was never trusted is not left"
    assert holds[1:8] == [1, 2, 4, 8, 16, 32, 32]
    assert holds[8] == 1, "a minute of standing is enough to be forgiven"
