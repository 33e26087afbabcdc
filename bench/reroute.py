"""How long traffic is out when one of two disjoint segments fails: ours beside BIRD, FRR and babeld.

    python -m bench.reroute [--runs N] [--of NAME...] [--failure NAME...] [--watch-s S]

    pod left ── node one ══ red, preferred: it fails ══ node two ── pod right
                         ══ blue ══════════════════════

In each trial datagrams go both ways each millisecond, beside a TCP transfer
(`crossing`); the preferred segment fails (`failures`); the traffic is watched; the
transfer must end while the segment still fails; then all is made good again. Of the
silences at the two receivers the longer one counts (`outage`). All contenders
(`contenders`) take turns on the same lab, a few trials of each failure at a time, so
that a noisy quarter of an hour on this machine is shared by all of them.

Leaves `build/bench/reroute.json`: `rows` as of every bench, and `trials`, each of them.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from bench import cell, crossing
from bench.contenders import PODS, Contender, check, contenders
from bench.failures import FAILURES, Failure, wait_settled
from bench.outage import Trial, judge, shown, table
from bench.rows import Row, at_least, at_most, ratio_at_most, row, save
from bench.rows import table as row_table
from meshfabric.lab.measure import Role, ended
from meshfabric.lab.state import Lab
from meshfabric.model.errors import MeshfabricError, TemporaryError

RUNS, TURN = 20, 5
"""Trials of each failure in all, and in one turn of a contender."""
WATCH_S = 2.0
FIRST_S = 1.0
"""Before a failure is over, so that traffic had time to leave."""
SETTLE_S = 60.0
RAISE_S, TRIAL_S = 10.0, 8.0
"""For the estimate alone: what a lab takes, and what a trial does beside being watched."""
OURS = "ours"
OURS_ALL = ("ours", "ours-stopped", "ours-killed")
SAME_INTERVAL = ("bird-10", "frr-10")
MEDIAN_GOAL_MS, WORST_GOAL_MS = 30, 60
INTERRUPTED = 130
S_PER_MIN = 60


class Wanted(NamedTuple):
    """What the command line asks for."""

    runs: int
    watch_s: float
    of: dict[str, Contender]
    failures: dict[str, Failure]

    @property
    def expected_s(self) -> float:
        """About how long all of it takes."""
        turns = -(-self.runs // TURN)
        each = len(self.failures) * (TRIAL_S + self.watch_s)
        return len(self.of) * (turns * RAISE_S + self.runs * each)


def asked(argv: Sequence[str]) -> Wanted:
    """What `argv` asks for; ends the program when that is not possible."""
    parser = argparse.ArgumentParser(prog="python -m bench.reroute", description=__doc__.partition("\n")[0])
    everybody = contenders()
    parser.add_argument("--runs", type=_count, default=RUNS, metavar="N", help="of each failure")
    for option, known in (("--of", everybody), ("--failure", FAILURES)):
        parser.add_argument(
            option, nargs="+", choices=known, default=list(known), metavar="NAME", help=", ".join(known)
        )
    parser.add_argument("--watch-s", type=float, default=WATCH_S, metavar="S", help="after each failure")
    given = parser.parse_args(argv)
    return Wanted(
        given.runs,
        given.watch_s,
        {name: one for name, one in everybody.items() if name in given.of},
        {name: one for name, one in FAILURES.items() if name in given.failure},
    )


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: at least 1")
    return number


def measure_all(wanted: Wanted) -> Iterator[Trial]:
    """Everybody in turn, until each has had all trials."""
    check(wanted.of.values())
    for done in range(0, wanted.runs, TURN):
        for name, contender in wanted.of.items():
            print(f"{name}, from trial {done + 1} of {wanted.runs}", file=sys.stderr, flush=True)
            yield from turn(name, contender, wanted, min(TURN, wanted.runs - done))


def turn(name: str, contender: Contender, wanted: Wanted, count: int) -> Iterator[Trial]:
    """So many trials of every failure, in one lab; in a new one when traffic does not come back."""
    left = [failure for _ in range(count) for failure in wanted.failures]
    while left:
        with contender.raised() as lab:
            addresses, fresh = contender.addresses(lab), True
            while left:
                try:
                    yield trial(lab, addresses, (name, left[0]), wanted.watch_s)
                except TemporaryError as doubt:
                    if fresh:
                        raise
                    print(f"{name}: {doubt}: a new lab", file=sys.stderr, flush=True)
                    break
                fresh = False
                left.pop(0)


def trial(lab: Lab, addresses: tuple[str, str], what: tuple[str, str], watch_s: float) -> Trial:
    """One failure under traffic, judged. `what` is the contender and the failure, by name."""
    failure = FAILURES[what[1]]
    left, right = addresses
    with ended(_end(lab, "right", right, left)) as far:
        far.wait_begun()
        with ended(_end(lab, "left", left, right)) as near:
            near.wait_begun()
            wait_settled(lab, SETTLE_S)
            try:
                since_ns = _fail(lab, failure, watch_s)
                ends = _stop(near, far)
            finally:
                failure.undo(lab)
    return judge(*what, ends, since_ns)


def _fail(lab: Lab, failure: Failure, watch_s: float) -> int:
    """Let it happen and watch; since when, as of `time.time_ns`."""
    if failure.back:
        failure.make(lab)
        time.sleep(FIRST_S)
    since_ns = time.time_ns()
    if failure.back:
        failure.undo(lab)
        wait_settled(lab, SETTLE_S)
    else:
        failure.make(lab)
        time.sleep(watch_s)
    return since_ns


def _end(lab: Lab, side: str, own: str, far: str) -> Role:
    where = PODS[side == "right"]
    return Role(lab, where, side, own, far, script=crossing.__file__)


def _stop(near: Role, far: Role) -> tuple[dict[str, Any], dict[str, Any]]:
    """Both at once: the connection needs both to come to its end."""
    near.stop()
    far.stop()
    return near.result(), far.result()


def rows_of(trials: Sequence[Trial]) -> Iterator[Row]:
    """The goals, as far as what they are about was measured."""
    titles = contenders()
    silent, back = (
        {name: [one for one in trials if (one.contender, one.failure) == (name, failure)] for name in titles}
        for failure in ("silent", "back")
    )
    for name in filter(silent.get, OURS_ALL):
        ours = [one.outage_ms for one in silent[name]]
        still = sum(not one.over for one in silent[name])
        title = f"silent, both ways: {titles[name].title}" + (f" ({still} still out)" if still else "")
        yield row(f"{title}, median", ours, "ms", goal=at_most(MEDIAN_GOAL_MS))
        yield row(f"{title}, worst", [max(ours)], "ms", goal=at_most(WORST_GOAL_MS))
        for other in filter(silent.get, SAME_INTERVAL):
            theirs = [one.outage_ms for one in silent[other]]
            beside = f"{title}, beside {titles[other].title}"
            yield row(beside, ours, "ms", beside=theirs, goal=ratio_at_most(1))
    for name in filter(back.get, OURS_ALL):
        lost = [float(max(one.lost for one in back[name]))]
        yield row(f"back again: {titles[name].title}, most lost", lost, "1", goal=at_most(0))
    for name in OURS_ALL:
        if ours_trials := [one for one in trials if one.contender == name]:
            finished = 100 * sum(one.finished for one in ours_trials) / len(ours_trials)
            yield row(f"TCP finished: {titles[name].title}", [finished], "%", goal=at_least(100))


def show(trials: Sequence[Trial]) -> list[Row]:
    """Print what was measured; the goals."""
    titles = {name: one.title for name, one in contenders().items()}
    print(table(trials, titles, {name: one.title for name, one in FAILURES.items()}, OURS))
    goals = list(rows_of(trials))
    print(f"\n{row_table(goals)}" if goals else "", flush=True)
    return goals


def run(wanted: Wanted) -> int:
    """Measure and report; the exit status. What was measured by an interruption is shown, not kept."""
    minutes = wanted.expected_s / S_PER_MIN
    print(f"{wanted.runs} trials of each failure: about {minutes:.0f} min", file=sys.stderr, flush=True)
    trials: list[Trial] = []
    try:
        for one in measure_all(wanted):
            print(f"  {one.failure}: {shown(one)}, {one.lost} lost", file=sys.stderr, flush=True)
            trials.append(one)
    except (KeyboardInterrupt, MeshfabricError) as cause:
        if trials:
            show(trials)
        print(f"bench reroute: {str(cause) or 'interrupted'}", file=sys.stderr)
        return INTERRUPTED if isinstance(cause, KeyboardInterrupt) else 1
    save("reroute", {"rows": show(trials), "trials": trials})
    return 0


if __name__ == "__main__":
    options = asked(sys.argv[1:])
    cell.enclose("reroute")
    sys.exit(run(options))
