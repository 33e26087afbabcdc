"""Paths to the far node in any state, and which of them a packet takes."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from meshfabric.model.tables import (
    FIRST_NODE,
    MAX_PATHS,
    Fault,
    PathState,
    node_value,
    number,
    path_value,
)
from tests.packet.rig import Rig
from tests.packet.world import FAR

NS_PER_S = 10**9
LONG_NS = 60 * NS_PER_S
SENT = 100
Chosen = Callable[..., str | None]
"""The tunnel that packets to the node at a place take; of a flow, if its key is given."""


@dataclass(frozen=True)
class State:
    """A path; ages in ns before now. `device` None: the right one, else an ifindex."""

    streak: int = 10
    unanswered_age_ns: int | None = None
    rtt_peak_us: int = 0
    device: int | None = None
    open_probes: int = 3
    faults: int = 0
    leniency: int = 0


UP, NEVER_HEARD, SILENT = State(), State(streak=0), State(unanswered_age_ns=LONG_NS)
WAITING = State(unanswered_age_ns=NS_PER_S, rtt_peak_us=LONG_NS // 1000)
AHEAD = State(unanswered_age_ns=-LONG_NS)
STRANGER = State(device=4711)
SLOW, LOSSY, HELD = (State(faults=fault) for fault in Fault)


def write(rig: Rig, index: int, device: str, state: State) -> None:
    """What is known of a path to the far node."""
    age = state.unanswered_age_ns
    unanswered = 0 if age is None else time.monotonic_ns() - age
    ifindex = rig.ifindex[device] if state.device is None else state.device
    value = PathState(
        unanswered,
        sent=SENT,
        answered=SENT - state.open_probes,
        rtt_peak_us=state.rtt_peak_us,
        streak=state.streak,
        ifindex=ifindex,
        faults=state.faults,
        leniency=state.leniency,
    )
    rig.set_path(FAR, index, path_value(value))


@contextlib.contextmanager
def positions(
    rig: Rig,
    devices: dict[int, str],
    mtus: dict[int, int] | None = None,
    *,
    backwards: bool = False,
    shares: Sequence[int] = (),
) -> Iterator[None]:
    """The tunnels to the far node, each at its position, and what fits there."""
    ifindexes = {at: rig.ifindex[device] for at, device in devices.items()}
    paths = [(ifindexes.get(at, 0), (mtus or {}).get(at, 0)) for at in range(MAX_PATHS)]
    value = node_value(paths, range(MAX_PATHS)[::-1] if backwards else (), shares)
    with rig.overwritten("nodes", number(FAR - FIRST_NODE), value):
        yield
