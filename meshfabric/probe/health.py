"""What a path's state means, by the rule of the datapath (`bpf/lib/path.h`). Pure.

The datapath decides for itself, packet by packet; this is the same rule for
people and metrics.
"""

from enum import StrEnum

from meshfabric.model.tables import PathState

ANSWERS_TO_TRUST = 3  # in a row before a path is used, or used again
PROBES_TO_GIVE_UP = 3  # in a row without an answer
GRACE_SHARE = 10  # of an interval, for scheduling noise at both ends
NS_PER_US = 1000
NS_PER_MS = 1_000_000


class Health(StrEnum):
    """`new`: never heard since its device exists."""

    NEW = "new"
    UP = "up"
    DOWN = "down"


def grace_ns(interval_ms: int) -> int:
    """What the loader sets as `probe_grace_ns`."""
    return interval_ms * NS_PER_MS // GRACE_SHARE


def patience_ns(state: PathState, interval_ms: int) -> int:
    """How long the oldest unanswered probe may be out: grows with the queueing seen lately."""
    interval_ns = interval_ms * NS_PER_MS
    return max(2 * interval_ns + grace_ns(interval_ms), interval_ns + 2 * state.rtt_peak_us * NS_PER_US)


def health(state: PathState, ifindex: int, now_ns: int, interval_ms: int) -> Health:
    """The state of the path over device `ifindex`; another device's state says nothing."""
    if state.ifindex != ifindex or not state.heard:
        return Health.NEW
    late = state.unanswered_ns and now_ns - state.unanswered_ns > patience_ns(state, interval_ms)
    late = late and state.open_probes >= PROBES_TO_GIVE_UP
    return Health.UP if state.streak >= ANSWERS_TO_TRUST and not late else Health.DOWN


def chosen(states: list[Health]) -> int:
    """Which of the paths, in order of preference, carries traffic: the first that is up, else the first."""
    return states.index(Health.UP) if Health.UP in states else 0
