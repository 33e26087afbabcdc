"""Which path carries a node's traffic: why that one, and each change of it (pure).

The datapath chooses for each packet: of the best that there are the first in the agent's
order. What it tells of paths that get better or worse (`Turn`), and what the agent orders
anew, makes the same choice here, one step after the other, so that no change is missed
however late it is read. Where paths are shared, this is about what is not: the flows of
a path that fails.

    orders --follow--+
                     +--> the choice, by node --> a Switch for each change of it
    turns  --take----+
"""

from collections import deque
from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from meshfabric.compiler.paths import Pair
from meshfabric.model.tables import ANSWERS_TO_TRUST, PROBES_TO_GIVE_UP, Fault, Grade, Turn
from meshfabric.observe.rows import US_PER_MS, PathSeen, Row

KEPT = 20
NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000


class Candidate(NamedTuple):
    """A path to a node, of those in order of preference; `heard_ns`: when it last answered."""

    device: str
    pair: Pair
    generation: int | None
    grade: int
    heard_ns: int

    @property
    def works(self) -> bool:
        """Whether packets get through, well or not."""
        return self.grade < Grade.SILENT


class Switch(NamedTuple):
    """Traffic to a node left one path for another; equal: nothing else worked meanwhile.

    `at_ns` of the monotonic clock. `outage_ns`: from the last answer over the old path until packets took the
    new one; 0 if the old one worked, None if nobody knows.
    """

    at_ns: int
    node: str
    old: str
    new: str
    why: str
    outage_ns: int | None
    number: int = 0  # counted since the agent's start


class Choices:
    """What is chosen towards each node, and the last switches of each."""

    def __init__(self) -> None:
        self._paths: dict[str, list[Candidate]] = {}
        self.kept: dict[str, deque[Switch]] = {}
        self.counts: dict[str, int] = {}

    def follow(self, node: str, paths: Sequence[Candidate], now_ns: int) -> Switch | None:
        """The paths to a node are these from now on, in this order; none: it is a stranger."""
        before = self._paths.pop(node, [])
        old, new = chosen(before), chosen(paths)
        if paths:
            self._paths[node] = list(paths)
        if old is None or new is None or old.device == new.device or not _has_worked(old):
            return None
        there, was = _of(paths, old.device), _of(before, new.device)
        outage_ns = _outage_ns(old, there, now_ns) if there else None
        return self._keep(Switch(now_ns, node, old.device, new.device, _why(old, there, was, new), outage_ns))

    def take(self, node: str, device: str, turn: Turn) -> Switch | None:
        """A path got better or worse."""
        before = self._paths.get(node, [])
        after = [_turned(path, turn) if path.device == device else path for path in before]
        old, new = chosen(before), chosen(after)
        if old is None or new is None:
            return None
        self._paths[node] = after
        same = old.device == new.device
        mended = same and new.works and not old.works
        if not _has_worked(old) or (same and not mended):
            return None
        there = next(path for path in after if path.device == old.device)
        outage_ns = _outage_ns(old, there, turn.at_ns)
        why = _better(new) if device == new.device else _fault(turn.grade)
        return self._keep(Switch(turn.at_ns, node, old.device, new.device, why, outage_ns))

    def _keep(self, switch: Switch) -> Switch:
        numbered = switch._replace(number=sum(self.counts.values()) + 1)
        self.kept.setdefault(switch.node, deque(maxlen=KEPT)).append(numbered)
        self.counts[switch.node] = self.counts.get(switch.node, 0) + 1
        return numbered


def _turned(path: Candidate, turn: Turn) -> Candidate:
    """That it works again does not tell when it had last answered before."""
    if turn.grade == Grade.SILENT:
        return path._replace(grade=turn.grade, heard_ns=turn.heard_ns)
    return path._replace(grade=turn.grade)


def _fault(grade: int) -> str:
    if grade >= Grade.SILENT:
        return "no answers"
    return "loses too much" if grade & Fault.LOSSY else "too slow" if grade & Fault.SLOW else "held"


def _has_worked(path: Candidate) -> bool:
    """Else nothing was carried there that could be carried elsewhere now."""
    return path.works or bool(path.heard_ns)


def _outage_ns(old: Candidate, there: Candidate, now_ns: int) -> int | None:
    """How long packets went where nothing answered, if they did; `there` is the old path as it is now."""
    if old.works and there.works:
        return 0
    silent = old if not old.works else there
    return max(now_ns - silent.heard_ns, 0) if silent.heard_ns else None


def chosen(paths: Sequence[Candidate]) -> Candidate | None:
    """By the datapath's rule: the first of the best."""
    return min(paths, key=lambda path: path.grade, default=None)


def _of(paths: Sequence[Candidate], device: str) -> Candidate | None:
    return next((path for path in paths if path.device == device), None)


def _better(was: Candidate) -> str:
    return "came back" if was.heard_ns else "answers now"


def _why(old: Candidate, there: Candidate | None, was: Candidate | None, new: Candidate) -> str:
    """What made the paths, as they were ordered anew or looked at, choose otherwise; `there` is the old one
    as it is now, `was` the new one as it was before.
    """
    if there is None:
        return "new keys" if _has_other_keys(old, new) else "path gone"
    if there.pair.draining and not old.pair.draining:
        return "drained"
    if there.grade > old.grade:
        return _fault(there.grade)
    if was and was.pair.draining and not new.pair.draining:
        return "not drained any more"
    if was and new.grade < was.grade:
        return _better(was)  # before its turn was read
    return "new keys" if _has_other_keys(old, new) else "order changed"


def _has_other_keys(one: Candidate | PathSeen, other: Candidate | PathSeen) -> bool:
    """Tunnels without encryption have none."""
    return None not in (one.generation, other.generation) and one.generation != other.generation


def explain(paths: Sequence[PathSeen], now_ns: int) -> list[str]:
    """Why each path carries traffic or does not; those to one node stand together, in order of preference."""
    return [reason for _, group in groupby(paths, _node) for reason in _reasons(list(group), now_ns)]


def _node(path: PathSeen) -> str:
    return path.node


def _reasons(paths: Sequence[PathSeen], now_ns: int) -> list[str]:
    at = next((index for index, path in enumerate(paths) if path.active), 0)
    return [_reason(paths, index, at, now_ns) for index in range(len(paths))]


def _reason(paths: Sequence[PathSeen], index: int, active: int, now_ns: int) -> str:
    path = paths[index]
    if not path.answers:
        silence = _silence(path, now_ns)
        return f"none works, this is the first: {silence}" if path.active else silence
    if path.active:
        return _why_active(paths, index)
    if path.health != "up":
        return _trouble(path)
    if path.pair.draining:
        return "draining"
    if _has_other_keys(path, paths[active]):
        return "in reserve: keys of another epoch"
    if paths[active].generation is None and path.generation is not None:
        return "in reserve: encrypts"
    dearer = path.pair.cost - paths[active].pair.cost
    return f"in reserve: costs {dearer} more" if dearer > 0 else "in reserve: configured later"


def _why_active(paths: Sequence[PathSeen], index: int) -> str:
    path, sharers = paths[index], sum(one.active for one in paths)
    if path.health != "up":
        return f"none is better: {_trouble(path)}"
    if path.pair.draining:
        return "draining, and no other works"
    if sharers > 1:
        return f"one of {sharers} that share"
    if index:
        return f"next best: {paths[0].device} is {paths[0].health}"
    return "preferred" if len(paths) > 1 else "the only one"


def _trouble(path: PathSeen) -> str:
    if path.state.faults & Fault.LOSSY:
        return f"loses {path.loss_percent:.0f}% of its probes"
    if path.state.faults & Fault.SLOW:
        return f"slow: {path.state.rtt_us / US_PER_MS:.0f} ms there and back"
    return f"held for {path.held_s:.1f} s yet"


def _silence(path: PathSeen, now_ns: int) -> str:
    if path.health == "new":
        return "never answered yet"
    if 0 < path.state.streak < ANSWERS_TO_TRUST and path.state.open_probes < PROBES_TO_GIVE_UP:
        return f"answers again: {path.state.streak} of {ANSWERS_TO_TRUST}"
    return f"no answer for {(now_ns - path.state.heard_ns) / NS_PER_S:.1f} s"


def outage_text(switch: Switch) -> str:
    """What a switch cost, for a journal."""
    if switch.outage_ns is None:
        return "outage unknown"
    return f"{switch.outage_ns / NS_PER_MS:.0f} ms out" if switch.outage_ns else "nothing lost"


def switch_row(switch: Switch, names: dict[str, str], time: str) -> Row:
    """A switch as people are shown it; `names` of the uplinks by device, where they are known."""
    return {
        "number": switch.number,
        "time": time,
        "node": switch.node,
        "from": switch.old,
        "from_uplinks": names.get(switch.old, ""),
        "to": switch.new,
        "to_uplinks": names.get(switch.new, ""),
        "why": switch.why,
        "outage_ms": None if switch.outage_ns is None else round(switch.outage_ns / NS_PER_MS, 1),
    }
