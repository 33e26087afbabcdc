"""A probing session of each tunnel: what was lost, and jitter, told by the way on which it happened."""

import struct

import pytest

from meshfabric.model.tables import PathState, Reason
from tests.packet.frames import V4
from tests.packet.rig import Rig, Scene
from tests.packet.test_probes import (
    NS_PER_S,
    STAMP_BYTES,
    UDP_HEADER,
    answer_to,
    checked,
    leave,
    probe,
    read_answer,
)
from tests.packet.test_probes import _ns as ns
from tests.packet.test_probes import _ntp as ntp
from tests.packet.world import FAR

DAY_NS = 86_400 * NS_PER_S


def asked(rig: Rig, count: int) -> list[bytes]:
    """So many probes that left by mfwg00."""
    return [leave(rig, "mfwg00", probe("host", "far", V4)) for _ in range(count)]


def numbered(out: bytes, number: int, after_ns: int = 0) -> bytes:
    """The answer of a far node that counts its own: it was there `after_ns` later than the probe left."""
    answer = bytearray(answer_to(out, "far", V4))
    at = len(answer) - STAMP_BYTES
    seconds, fraction = struct.unpack_from(">II", out, 20 + UDP_HEADER + 4)
    there = ntp(ns(seconds, fraction) + after_ns)
    answer[at : at + 4] = number.to_bytes(4, "big")
    answer[at + 4 : at + 12] = answer[at + 16 : at + 24] = there
    return checked(bytes(answer))


def hear(rig: Rig, *answers: bytes) -> PathState:
    """They arrive, in this order."""
    for answer in answers:
        assert rig.run("from_overlay", answer, "mfwg00").reason == Reason.PROBE_HEARD
    return rig.path(FAR, 0)


ARRIVALS: dict[str, tuple[int, list[tuple[int, int]], tuple[int, int]]] = {
    # probes that left, what was heard as (probe, number of the answer), lost out and back
    "all": (3, [(0, 7), (1, 8), (2, 9)], (0, 0)),
    "two questions lost": (4, [(0, 7), (3, 8)], (2, 0)),
    "two answers lost": (4, [(0, 7), (3, 10)], (0, 2)),
    "one of each": (4, [(0, 7), (3, 9)], (1, 1)),
    "a node that counts nothing": (4, [(0, 0), (3, 3)], (0, 2)),
    "an answer overtaken by the next": (3, [(0, 7), (2, 9), (1, 8)], (0, 0)),
    "a question overtaken by the next": (3, [(0, 7), (2, 8), (1, 9)], (0, 0)),
    "the same answer twice": (2, [(0, 7), (1, 8), (1, 8)], (0, 0)),
    "a node that began anew": (4, [(0, 7), (2, 0), (3, 1)], (0, 0)),
    "before anything was heard": (4, [(3, 9)], (0, 0)),
    "numbers that wrap around": (2, [(0, 2**32 - 1), (1, 0)], (0, 0)),
}


@pytest.mark.parametrize("name", ARRIVALS)
def test_what_is_lost_is_told_by_the_way_it_was_lost_on(scene: Scene, name: str) -> None:
    count, arrivals, lost = ARRIVALS[name]
    out = asked(scene.rig, count)
    state = hear(scene.rig, *(numbered(out[at], number) for at, number in arrivals))
    assert (state.lost_out, state.lost_back) == lost


def test_an_answer_counts_for_all_probes_before_it(scene: Scene) -> None:
    out = asked(scene.rig, 5)
    assert scene.rig.path(FAR, 0).open_probes == 5
    assert hear(scene.rig, numbered(out[3], 0)).open_probes == 1
    assert hear(scene.rig, numbered(out[1], 1)).open_probes == 1, "an older one changes nothing"


def test_jitter_is_kept_for_each_way(scene: Scene) -> None:
    """A 16th of each change of the transit time, whatever the far clock says (RFC 3550, A.8)."""
    out = asked(scene.rig, 3)
    jitters = [
        hear(scene.rig, numbered(one, at, DAY_NS + extra)).jitter_out_ns
        for at, (one, extra) in enumerate(zip(out, (0, 1_600_000, 0), strict=True))
    ]
    assert jitters == [0, 100_000, 193_750]
    assert scene.rig.path(FAR, 0).jitter_back_ns > 0


def test_a_far_clock_that_was_set_is_no_jitter(scene: Scene) -> None:
    out = asked(scene.rig, 2)
    hear(scene.rig, numbered(out[0], 0))
    assert hear(scene.rig, numbered(out[1], 1, DAY_NS)).jitter_out_ns == 0


def test_answers_are_numbered_by_tunnel(scene: Scene) -> None:
    """RFC 8762, 4.3: whatever numbers the questions had."""
    for tunnel, numbers in (("mfwg00", (0, 1, 2)), ("mfwg01", (0,)), ("mfwg00", (3,))):
        for number in numbers:
            run = scene.rig.run("from_overlay", probe("far", "host", V4, 99), tunnel)
            assert read_answer(run.packet).sequence == number
