"""Which tunnel a packet for another node takes: the first of the agent's order that works."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from scapy.layers.inet import TCP

from meshfabric.kernel import loader
from meshfabric.kernel.bpf import SkbContext
from meshfabric.model.tables import FIRST_NODE, MAX_PATHS, PathState, Reason, node_value, number, path_value
from tests.packet.arena import Arena, compile_extra
from tests.packet.frames import V4, V6, frame, ip, udp
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
    """Whatever is known of a position where no tunnel is any more."""
    _write(scene.rig, 0, "mfwg00", SILENT)
    _write(scene.rig, 1, "mfwg01", UP)
    with positions(scene.rig, {0: "mfwg00"}):
        assert chosen(FAR) == "mfwg00"


LAST = MAX_PATHS - 1
OLD, NEW = "mfwg00", "mfwg01"
ROTATED: dict[str, tuple[State, State, str]] = {
    "the new one was never heard": (UP, NEVER_HEARD, OLD),
    "the new one works": (UP, UP, NEW),
    "the new one fell silent": (UP, SILENT, OLD),
    "both fell silent": (SILENT, SILENT, NEW),
}


@pytest.mark.parametrize("name", ROTATED)
@pytest.mark.parametrize("old_at", [0, LAST], ids=["to odd keys", "to even keys"])
def test_tunnels_with_new_keys_are_taken_as_soon_as_they_work(
    scene: Scene, chosen: Chosen, name: str, old_at: int
) -> None:
    """They fill the positions from the other end, so that what is known of the old ones stays."""
    old, new, wanted = ROTATED[name]
    new_at = LAST - old_at
    _write(scene.rig, old_at, OLD, old)
    _write(scene.rig, new_at, NEW, new)
    with positions(scene.rig, {old_at: OLD, new_at: NEW}, backwards=bool(new_at)):
        assert chosen(FAR) == wanted


@pytest.mark.parametrize("backwards", [False, True])
def test_a_free_position_is_passed_over(scene: Scene, chosen: Chosen, backwards: bool) -> None:
    """Also one whose state says that the path over no device at all is well."""
    scene.rig.set_path(FAR, LAST if backwards else 0, path_value(PathState(streak=UP.streak)))
    _write(scene.rig, 4, "mfwg01", NEVER_HEARD)
    with positions(scene.rig, {3: "mfwg00", 4: "mfwg01"}, backwards=backwards):
        assert chosen(FAR) == ("mfwg01" if backwards else "mfwg00")
        _write(scene.rig, 3, "mfwg00", UP)
        assert chosen(FAR) == "mfwg00"


@contextlib.contextmanager
def positions(
    rig: Rig, devices: dict[int, str], mtus: dict[int, int] | None = None, *, backwards: bool = False
) -> Iterator[None]:
    """The tunnels to the far node, each at its position, and what fits there."""
    ifindexes = {at: rig.ifindex[device] for at, device in devices.items()}
    paths = [(ifindexes.get(at, 0), (mtus or {}).get(at, 0)) for at in range(MAX_PATHS)]
    value = node_value(paths, range(MAX_PATHS)[::-1] if backwards else ())
    with rig.overwritten("nodes", number(FAR - FIRST_NODE), value):
        yield


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


SIZES = {"the preferred path": (UP, UP, 1380), "the other one": (SILENT, UP, 1300)}
PREFERRED_MTU, OTHER_MTU = 1380, 1300


@pytest.fixture
def unlike(scene: Scene) -> Scene:
    """The second path to far is narrower than the first."""

    def narrow(world: World) -> None:
        world.nodes[FAR].mtu, world.nodes[FAR].other_mtu = PREFERRED_MTU, OTHER_MTU

    scene.change(narrow)
    return scene


@pytest.mark.parametrize("new_at", [0, LAST])
@pytest.mark.parametrize("name", SIZES)
def test_a_packet_has_to_fit_the_tunnel_with_new_keys(scene: Scene, name: str, new_at: int) -> None:
    new, old, mtu = SIZES[name]
    old_at = LAST - new_at
    _write(scene.rig, new_at, NEW, new)
    _write(scene.rig, old_at, OLD, old)
    mtus = {new_at: PREFERRED_MTU, old_at: OTHER_MTU}
    with positions(scene.rig, {new_at: NEW, old_at: OLD}, mtus, backwards=bool(new_at)):
        for length, reason in ((mtu, Reason.FORWARDED_TO_NODE), (mtu + 1, Reason.TOO_BIG)):
            data = udp("alpha", "far", 53, length - 28, family=V4)
            assert scene.rig.run("from_workload", frame(data), "mfp1").reason == reason


@pytest.mark.parametrize("family", [V4, V6])
@pytest.mark.parametrize("name", SIZES)
def test_a_packet_has_to_fit_the_path_that_it_takes(unlike: Scene, name: str, family: int) -> None:
    first, second, mtu = SIZES[name]
    _write(unlike.rig, 0, "mfwg00", first)
    _write(unlike.rig, 1, "mfwg01", second)
    for length, reason in ((mtu, Reason.FORWARDED_TO_NODE), (mtu + 1, Reason.TOO_BIG)):
        data = udp("alpha", "far", 53, length - (28 if family == V4 else 48), family=family)
        assert len(data) == length
        run = unlike.rig.run("from_workload", frame(data), "mfp1")
        assert run.reason == reason
        assert (run.told is Reason.TOO_BIG_TOLD) == (length > mtu)
    assert _told_mtu(run.packet, family) == mtu


def _told_mtu(complaint: bytes, family: int) -> int:
    at = 14 + (20 if family == V4 else 40) + 6
    return int.from_bytes(complaint[at : at + 2], "big")


@pytest.mark.parametrize("family", [V4, V6])
@pytest.mark.parametrize("name", SIZES)
def test_segments_fit_the_path_that_the_connection_begins_on(unlike: Scene, name: str, family: int) -> None:
    first, second, mtu = SIZES[name]
    _write(unlike.rig, 0, "mfwg00", first)
    _write(unlike.rig, 1, "mfwg01", second)
    head = ip("alpha", "far", family)
    syn = bytes(head / TCP(sport=40000, dport=80, flags="S", options=[("MSS", 8960)]))
    run = unlike.rig.run("from_workload", frame(syn), "mfp1")
    assert run.packet[14:].count(b"\x02\x04" + (mtu - (40 if family == V4 else 60)).to_bytes(2, "big")) == 1
