"""What is told of a path: once when it is given up, once when it is trusted again, with the right moments."""

import time
from collections.abc import Iterator

import pytest

from meshfabric.kernel.ring import Ring
from meshfabric.model.tables import Fault, Grade, PathState, Turn, path_value, read_turn
from tests.packet.frames import V4
from tests.packet.rig import Scene
from tests.packet.test_probes import INTERVAL_NS, NS_PER_S, answer_to, leave, probe
from tests.packet.world import FAR

TRUSTED_AFTER = 3
PATIENCE_NS = 2 * INTERVAL_NS + INTERVAL_NS // 10


class Told:
    """What the datapath says of far's first path."""

    def __init__(self, scene: Scene, ring: Ring) -> None:
        self.scene, self._ring = scene, ring

    def new(self) -> list[Turn]:
        """Since the last time."""
        return [read_turn(record) for record in self._ring.read()]

    def ask(self) -> bytes:
        """A probe leaves."""
        return leave(self.scene.rig, "mfwg00", probe("host", "far", V4))

    def answer(self, asked: bytes) -> None:
        self.scene.rig.run("from_overlay", answer_to(asked, "far", V4), "mfwg00")

    def silent_for(self, age_ns: int, sent: int) -> PathState:
        """A path that was trusted, and `sent` probes without an answer; the last left an interval ago."""
        now = time.monotonic_ns()
        state = PathState(
            unanswered_ns=now - age_ns,
            sent_ns=now - INTERVAL_NS,
            sent=sent,
            heard=9,
            streak=9,
            ifindex=self.scene.rig.ifindex["mfwg00"],
            heard_ns=now - age_ns - 1000,
        )
        self.scene.rig.set_path(FAR, 0, path_value(state))
        return state


@pytest.fixture
def told(scene: Scene) -> Iterator[Told]:
    ring = Ring(scene.rig.maps["turns"])
    ring.read()
    yield Told(scene, ring)
    ring.close()


def test_a_path_that_is_trusted_is_told_once(told: Told) -> None:
    for answers in range(1, TRUSTED_AFTER + 3):
        told.answer(told.ask())
        heard_ns = told.scene.rig.path(FAR, 0).heard_ns
        own = told.scene.rig.ifindex["mfwg00"]
        wanted = [Turn(heard_ns, heard_ns, FAR, own, Grade.SOUND)] if answers == TRUSTED_AFTER else []
        assert told.new() == wanted


@pytest.mark.parametrize("age_ns", [5 * INTERVAL_NS // 2, 60 * INTERVAL_NS])
def test_a_path_that_falls_silent_is_told_once_as_the_next_probe_leaves(told: Told, age_ns: int) -> None:
    """Whether patience ran out last, or the last of the probes that it takes left after that."""
    state = told.silent_for(age_ns, sent=3)
    told.ask()
    at_ns = max(state.unanswered_ns + PATIENCE_NS, state.sent_ns)
    assert told.new() == [Turn(at_ns, state.heard_ns, FAR, state.ifindex, Grade.SILENT)]
    told.ask()
    assert told.new() == []


@pytest.mark.parametrize(("age_ns", "sent"), [(INTERVAL_NS, 3), (30 * NS_PER_S, 1)])
def test_one_that_is_not_given_up_is_not_told(told: Told, age_ns: int, sent: int) -> None:
    told.silent_for(age_ns, sent)
    out = told.ask()
    told.answer(out)
    assert told.new() == []


def test_what_was_never_trusted_is_not_told(told: Told) -> None:
    told.silent_for(30 * NS_PER_S, sent=5)
    state = told.scene.rig.path(FAR, 0)
    told.scene.rig.set_path(FAR, 0, path_value(state._replace(streak=2)))
    told.ask()
    assert told.new() == []


def test_an_answer_that_comes_before_the_next_probe_tells_both(told: Told) -> None:
    """Packets took another path meanwhile, if there were any."""
    state = told.silent_for(3 * INTERVAL_NS, sent=3)
    late = answer_to(probe("host", "far", V4, 2), "far", V4, sent_ns=state.sent_ns)
    told.scene.rig.run("from_overlay", late, "mfwg00")
    assert [turn.grade for turn in told.new()] == [Grade.SILENT]
    for _ in range(TRUSTED_AFTER - 1):
        told.answer(told.ask())
    assert [turn.grade for turn in told.new()] == [Fault.HELD]
    assert told.scene.rig.path(FAR, 0).flaps == 1
