"""What a path's state means, by the rule of the datapath (`bpf/lib/path.h`). Pure.

The datapath decides for itself, packet by packet; this is the same rule for
people and metrics.
"""

import math
from collections.abc import Sequence
from enum import StrEnum

from meshfabric.model.tables import ANSWERS_TO_TRUST, PROBES_TO_GIVE_UP, Fault, Grade, PathState

GRACE_SHARE = 10  # of an interval, for scheduling noise at both ends
PROBES_SEEN = 64  # by which losses are judged
NS_PER_US = 1000
NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000
US_PER_MS = 1000
PERCENT = 100


class Health(StrEnum):
    """`new`: never heard since its device exists. `slow`, `lossy` and `held` are up as well."""

    NEW = "new"
    UP = "up"
    SLOW = "slow"
    LOSSY = "lossy"
    HELD = "held"
    DOWN = "down"

    @property
    def answers(self) -> bool:
        """Whether packets get through."""
        return self not in (Health.NEW, Health.DOWN)


def grace_ns(interval_ms: int) -> int:
    """What the loader sets as `probe_grace_ns`."""
    return interval_ms * NS_PER_MS // GRACE_SHARE


def loss_limit(percent: float) -> int:
    """What the loader sets as `loss_limit`: of the probes seen at once, 0 where losses are no matter."""
    return math.ceil(PROBES_SEEN * percent / PERCENT)


def patience_ns(state: PathState, interval_ms: int) -> int:
    """How long the oldest unanswered probe may be out: grows with the queueing seen lately."""
    interval_ns, peak_ns = interval_ms * NS_PER_MS, state.rtt_peak_us * NS_PER_US
    return max(2 * interval_ns + max(peak_ns, grace_ns(interval_ms)), interval_ns + 2 * peak_ns)


def is_given_up(state: PathState, now_ns: int, interval_ms: int) -> bool:
    """Several probes in a row have no answer, and the oldest waits longer than our patience."""
    late = state.unanswered_ns and now_ns - state.unanswered_ns > patience_ns(state, interval_ms)
    return bool(late) and state.open_probes >= PROBES_TO_GIVE_UP + state.leniency


def grade(state: PathState, ifindex: int, now_ns: int, interval_ms: int) -> int:
    """A sum of `Fault`, or one of `Grade`: the path over device `ifindex`; another's state says nothing."""
    if state.ifindex != ifindex or state.streak < ANSWERS_TO_TRUST:
        return Grade.SILENT
    return Grade.SILENT if is_given_up(state, now_ns, interval_ms) else state.faults


def health(state: PathState, ifindex: int, now_ns: int, interval_ms: int) -> Health:
    """The same in one word."""
    if state.ifindex != ifindex or not state.heard:
        return Health.NEW
    found = grade(state, ifindex, now_ns, interval_ms)
    if found == Grade.SILENT:
        return Health.DOWN
    words = ((Fault.HELD, Health.HELD), (Fault.LOSSY, Health.LOSSY), (Fault.SLOW, Health.SLOW))
    return next((word for fault, word in words if found & fault), Health.UP)


def chosen(grades: Sequence[int]) -> int:
    """Which of the paths, in order of preference, carries traffic: the first with the least faults."""
    return grades.index(min(grades))


def carrying(grades: Sequence[int], sharing: int) -> list[int]:
    """Which of the paths carry traffic when the first so many share it: those of them that are sound."""
    return [at for at in range(sharing) if grades[at] == Grade.SOUND] or [chosen(grades)]


def hold_left_s(state: PathState, now_ns: int) -> float:
    """How long the path is still held, 0.0 if it is not."""
    left_ns = state.held_until_ns - now_ns if state.faults & Fault.HELD else 0
    return max(left_ns, 0) / NS_PER_S


def loss_percent(state: PathState) -> float:
    """Of the probes seen at once, up to the last that was answered."""
    return PERCENT * state.missing.bit_count() / PROBES_SEEN
