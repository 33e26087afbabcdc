"""Which tunnel a packet for another node takes: the first of the agent's order that works."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from meshfabric.kernel import loader
from meshfabric.kernel.bpf import SkbContext
from meshfabric.model.tables import FIRST_NODE, PathState, node_value, number, path_value
from tests.packet.arena import Arena, compile_extra
from tests.packet.rig import Rig, Scene
from tests.packet.world import FAR, MUTE, World

NS_PER_S = 10**9
LONG_NS = 60 * NS_PER_S
QUICK_NS = NS_PER_S // 20  # less than the patience of any path
SENT = 100
SOURCE = Path(__file__).with_name("choose.bpf.c")
Chosen = Callable[[int], str | None]


@pytest.fixture(scope="module")
def chosen(place: Arena, rig: Rig, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chosen]:
    """The tunnel to the node at a place, by choose.bpf.c, which looks at the rig's own maps."""
    built = compile_extra(SOURCE, tmp_path_factory.mktemp("choose"))
    names = {index: name for name, index in rig.ifindex.items()}
    with place.run(loader.load, [built], place.pins) as extra:
        assert "paths" in extra.adopted

        def choose(node: int) -> str | None:
            context = SkbContext(mark=node).pack()
            return names.get(place.run(extra.programs["chosen"].test_run, bytes(64), ctx=context).retval)

        yield choose


@dataclass(frozen=True)
class State:
    """A path; ages in ns before now. `device` None: the right one, else an ifindex."""

    streak: int = 10
    unanswered_age_ns: int | None = None
    rtt_peak_us: int = 0
    device: int | None = None
    open_probes: int = 3


UP, NEVER_HEARD, SILENT = State(), State(streak=0), State(unanswered_age_ns=LONG_NS)
WAITING = State(unanswered_age_ns=NS_PER_S, rtt_peak_us=LONG_NS // 1000)
AHEAD = State(unanswered_age_ns=-LONG_NS)
STRANGER = State(device=4711)

CASES: dict[str, tuple[State, State, str]] = {
    "both work": (UP, UP, "mfwg00"),
    "nothing was ever heard": (NEVER_HEARD, NEVER_HEARD, "mfwg00"),
    "the first was never heard": (NEVER_HEARD, UP, "mfwg01"),
    "the first answered twice so far": (State(streak=2), UP, "mfwg01"),
    "the first answered three times": (State(streak=3), UP, "mfwg00"),
    "the first fell silent": (SILENT, UP, "mfwg01"),
    "two probes in a row got lost": (State(unanswered_age_ns=LONG_NS, open_probes=2), UP, "mfwg00"),
    "both fell silent": (SILENT, SILENT, "mfwg00"),
    "the second fell silent": (UP, SILENT, "mfwg00"),
    "the first fell silent, the second was never heard": (SILENT, NEVER_HEARD, "mfwg00"),
    "an answer is due, but round trips are long": (WAITING, UP, "mfwg00"),
    "the oldest open probe is yet to be sent": (AHEAD, UP, "mfwg00"),
    "the first state is of another device": (STRANGER, UP, "mfwg01"),
    "the second state is of another device": (SILENT, STRANGER, "mfwg00"),
}


@pytest.mark.parametrize("name", CASES)
def test_choice(scene: Scene, chosen: Chosen, name: str) -> None:
    first, second, wanted = CASES[name]
    _write(scene.rig, 0, "mfwg00", first)
    _write(scene.rig, 1, "mfwg01", second)
    assert chosen(FAR) == wanted


def _write(rig: Rig, index: int, device: str, state: State) -> None:
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
    )
    rig.set_path(FAR, index, path_value(value))


def test_the_agents_order_counts(scene: Scene, chosen: Chosen) -> None:
    _write(scene.rig, 0, "mfwg01", UP)
    _write(scene.rig, 1, "mfwg00", UP)

    def turn(world: World) -> None:
        world.nodes[FAR].tunnels = ["mfwg01", "mfwg00"]

    scene.change(turn)
    assert chosen(FAR) == "mfwg01"


def test_only_tunnels_in_use_are_considered(scene: Scene, chosen: Chosen) -> None:
    """Whatever stands behind the last one, and however well it is."""
    _write(scene.rig, 0, "mfwg00", SILENT)
    _write(scene.rig, 1, "mfwg01", UP)
    value = bytearray(node_value([scene.rig.ifindex[name] for name in ("mfwg00", "mfwg01")]))
    value[:4] = number(1)
    with scene.rig.overwritten("nodes", number(FAR - FIRST_NODE), bytes(value)):
        assert chosen(FAR) == "mfwg00"


def test_a_node_without_tunnels(scene: Scene, chosen: Chosen) -> None:
    assert chosen(MUTE) is None


PATIENCE = {
    "within two intervals and the grace": (0, 0.0, True),
    "beyond": (0, 2.0, False),
    "twice the peak is added": (10_000_000, 15.0, True),
    "and no more": (10_000_000, 25.0, False),
}


@pytest.mark.parametrize("name", PATIENCE)
def test_patience(scene: Scene, chosen: Chosen, name: str) -> None:
    peak_us, waited_s, usable = PATIENCE[name]

    def waiting() -> str | None:
        _write(scene.rig, 0, "mfwg00", State(unanswered_age_ns=int(waited_s * NS_PER_S), rtt_peak_us=peak_us))
        return chosen(FAR)

    _write(scene.rig, 1, "mfwg01", UP)
    assert _quickly(waiting) == ("mfwg00" if usable else "mfwg01")


def _quickly(ask: Callable[[], str | None]) -> str | None:
    """The answer when nobody stood still on the way to it."""
    while True:
        begun, answer = time.monotonic_ns(), ask()
        if time.monotonic_ns() - begun < QUICK_NS:
            return answer
