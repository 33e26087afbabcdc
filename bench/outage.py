"""What a failure did to the traffic: from the logs of both ends to one line of a table (pure).

    sent   |1|2|3|4|5|6|7|8|9|      a datagram each millisecond
    heard  |1|2|         |7|8|9|    the outage: the longest time between two that came, beyond the pace
              ^ failure

An outage that has not ended when the watch does is only known to be longer: it is
shown with a `>`. Of the two directions the worse one counts.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import median
from typing import Any, NamedTuple

import msgspec

PACE_NS = 1_000_000
NS_PER_MS = 1_000_000
WHOLE_FROM = 10
"""Ratios from here on are shown without a fraction."""
HEAD = ("", "outage, ms", "lost", "TCP finished", "times ours", "sender's pause, ms")


class Log(msgspec.Struct, frozen=True):
    """One direction: when each datagram was sent, and which came when (ns of one clock)."""

    sent: Sequence[int]
    heard: Sequence[tuple[int, int]]


class Outage(NamedTuple):
    """In ms; `over` is False when the watch ended first."""

    ms: float
    over: bool = True


class Trial(msgspec.Struct, frozen=True):
    """What one failure did: the worse direction's outage, the most datagrams lost in one direction.

    `finished`: the TCP transfer came to its end, whole, while the segment was still failing.
    `pause_ms` is the longest that a sender stood still, see `outage`.
    """

    contender: str
    failure: str
    outage_ms: float
    over: bool
    lost: int
    finished: bool
    pause_ms: float


def outage(log: Log, since_ns: int) -> Outage:
    """The longest silence beyond the pace from `since_ns` on; the one under way then counts whole.

    The pace is the sender's own, up to the datagram that ends the silence: had it stood still
    before that one, as on a busy machine, the network is not to blame.
    """
    came = sorted((when, number) for number, when in log.heard)
    points = [when for when, _ in came]
    first = bisect_right(points, since_ns)
    begun = points[first - 1] if first else since_ns
    longest, last = 0, begun
    for when, number in came[first:]:
        longest, last = max(longest, when - last - _pace_ns(log, number)), when
    silent = log.sent[-1] - last - PACE_NS if log.sent else 0
    return Outage(silent / NS_PER_MS, over=False) if silent > longest else Outage(longest / NS_PER_MS)


def lost(log: Log, since_ns: int) -> int:
    """Datagrams that were sent from then on and never came."""
    came = {number for number, _ in log.heard}
    return sum(when >= since_ns and number not in came for number, when in enumerate(log.sent))


def pause_ms(log: Log, since_ns: int) -> float:
    """The longest time between two that were sent, beyond the pace."""
    sent = [when for when in log.sent if when >= since_ns]
    longest = max((b - a for a, b in pairwise(sent)), default=0)
    return max(longest - PACE_NS, 0) / NS_PER_MS


def judge(
    contender: str, failure: str, ends: tuple[Mapping[str, Any], Mapping[str, Any]], since_ns: int
) -> Trial:
    """What the two ends of a `crossing` told, the sender of the transfer first."""
    left, right = ends
    logs = (Log(left["sent"], right["heard"]), Log(right["sent"], left["heard"]))
    worst = max((outage(log, since_ns) for log in logs), key=lambda one: (one.ms, not one.over))
    gave, got = left["tcp"], right["tcp"]
    whole = (
        gave["ended"] and got["ended"] and (gave["bytes"], gave["sha256"]) == (got["bytes"], got["sha256"])
    )
    return Trial(
        contender,
        failure,
        worst.ms,
        worst.over,
        max(lost(log, since_ns) for log in logs),
        whole,
        max(pause_ms(log, since_ns) for log in logs),
    )


def middle(trials: Sequence[Trial]) -> Outage:
    """The median; not over if a value that it is taken from is not."""
    ordered = sorted(trials, key=lambda one: (one.outage_ms, not one.over))
    upper = ordered[len(ordered) // 2]
    return Outage(median(one.outage_ms for one in ordered), upper.over)


def table(
    trials: Sequence[Trial], contenders: Mapping[str, str], failures: Mapping[str, str], ours: str
) -> str:
    """One block for each failure, one line for each contender: titles by name, in their order."""
    lines: list[tuple[str, ...]] = [HEAD]
    for failure, title in failures.items():
        of_failure = [one for one in trials if one.failure == failure]
        lines += [(title, *[""] * (len(HEAD) - 1))] if of_failure else []
        base = [one for one in of_failure if one.contender == ours]
        for contender, name in contenders.items():
            found = [one for one in of_failure if one.contender == contender]
            lines += [(f"  {name}", *_cells(found, base))] if found else []
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def shown(one: Trial) -> str:
    """Its outage, with the unit."""
    return f"{_figure(Outage(one.outage_ms, one.over))} ms"


def ratio(trials: Sequence[Trial], base: Sequence[Trial]) -> str:
    """Median beside median; `>` or `<` where one of them is not over, nothing where that says nothing."""
    above, below = middle(trials), middle(base)
    if not below.ms or (not above.over and not below.over):
        return ""
    sign = "> " if not above.over else "< " if not below.over else ""
    times = above.ms / below.ms
    return f"{sign}{times:,.0f}" if times >= WHOLE_FROM else f"{sign}{times:.2g}"


def _cells(found: Sequence[Trial], base: Sequence[Trial]) -> tuple[str, ...]:
    spread = sorted((one.outage_ms, not one.over) for one in found)
    least, most = (Outage(ms, not unfinished) for ms, unfinished in (spread[0], spread[-1]))
    losses = [one.lost for one in found]
    return (
        f"{_figure(middle(found))} [{_figure(least)} - {_figure(most)}]",
        f"{median(losses):,.0f} [{min(losses):,} - {max(losses):,}]",
        f"{sum(one.finished for one in found)} of {len(found)}",
        ratio(found, base) if base else "",
        f"{max(one.pause_ms for one in found):,.0f}",
    )


def _figure(one: Outage) -> str:
    return f"{'' if one.over else '> '}{one.ms:,.0f}"


def _pace_ns(log: Log, number: int) -> int:
    return log.sent[number] - log.sent[number - 1] if number else 0
