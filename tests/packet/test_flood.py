"""A flood harms its like: established flows stay, whatever others begin, and new ones are forwarded."""

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from meshfabric.kernel.bpf import SkbContext
from meshfabric.model.tables import Reason
from tests.packet.arena import arena, compile_extra
from tests.packet.flood import REDIRECT, SENDERS, SOURCE, Asked, crowd, pour, streams
from tests.packet.frames import V4, V6, echo, frame, tcp, udp
from tests.packet.rig import SIZES, Rig, Scene
from tests.packet.world import ALPHA, BETA, HOST

LOCAL = Reason.FORWARDED_TO_LOCAL
NEW_FLOWS = 65536  # as maps.h has it
SHARE = 32768  # largest_share of settings.h
ROOM = SIZES["flows"]
FLOOD = 300_000
ESTABLISHED = 1000
SPORT, PORT = 20000, 8080
TCP_LEAST_S = 2 * 3600 + 4 * 60
SWEEP_PAUSE_S = 10
SWEEP = struct.Struct("=QQ")  # when it began, in ns


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The flood's object."""
    return compile_extra(SOURCE, tmp_path_factory.mktemp("flood"))


@pytest.fixture(scope="module")
def whole(compiled: Path) -> Iterator[Rig]:
    """A rig with tables as large as they are."""
    with arena() as place, place.load() as datapath:
        yield Rig(place, datapath)


def _to(port: int, kind: Callable[..., bytes], family: int, *flags: str) -> Asked:
    return lambda source, destination: kind(source, destination, port, *flags, family=family)


def _from(port: int, kind: Callable[..., bytes], family: int, *flags: str) -> Asked:
    return lambda source, destination: kind(source, destination, SPORT, *flags, sport=port, family=family)


def _echo(family: int, reply: bool = False) -> Asked:
    return lambda source, destination: echo(source, destination, family, reply)


Flood = tuple[tuple[Asked, int], tuple[Asked, int] | None]
FROM_PORT, TO_PORT, IDENTIFIER = 0, 2, 4  # where a flow's number goes in the transport header
FLOODS: dict[str, Callable[[int], Flood]] = {
    "SYN": lambda family: ((_to(PORT, tcp, family, "S"), FROM_PORT), None),
    "SYN, answered by a listener": lambda family: (
        (_to(PORT, tcp, family, "S"), FROM_PORT),
        (_from(PORT, tcp, family, "SA"), TO_PORT),
    ),
    "SYN, refused": lambda family: (
        (_to(PORT, tcp, family, "S"), FROM_PORT),
        (_from(PORT, tcp, family, "RA"), TO_PORT),
    ),
    "UDP": lambda family: ((_to(53, udp, family), FROM_PORT), None),
    "UDP, answered": lambda family: (
        (_to(53, udp, family), FROM_PORT),
        (_from(53, udp, family), TO_PORT),
    ),
    "echo, answered": lambda family: (
        (_echo(family), IDENTIFIER),
        (_echo(family, True), IDENTIFIER),
    ),
}
RUNS = [*((name, V4) for name in FLOODS), ("SYN, answered by a listener", V6), ("echo, answered", V6)]
SETTLING = {"UDP, answered", "echo, answered"}


def _send(rig: Rig, sender: int, packet: bytes) -> bool:
    """Whether it is forwarded; without the counters of `Rig.run`, for there are thousands."""
    context = SkbContext(ifindex=rig.ifindex[SENDERS[sender]]).pack()
    run = rig.arena.run(rig.programs["from_workload"].test_run, frame(packet), ctx=context)
    return run.retval == REDIRECT


def _connect(rig: Rig, sport: int, family: int) -> None:
    assert _send(rig, ALPHA, tcp("alpha", "beta", PORT, "S", sport=sport, family=family))
    assert _send(rig, BETA, tcp("beta", "alpha", sport, "SA", sport=PORT, family=family))
    assert _send(rig, ALPHA, tcp("alpha", "beta", PORT, "A", sport=sport, family=family))


def _answers(rig: Rig, sport: int, family: int) -> bool:
    """Nobody but a known flow allows beta to speak."""
    return _send(rig, BETA, tcp("beta", "alpha", sport, "A", sport=PORT, family=family))


@pytest.mark.parametrize(("name", "family"), RUNS)
def test_established_flows_outlive(whole: Rig, compiled: Path, name: str, family: int) -> None:
    whole.reset(crowd())
    ports = range(SPORT, SPORT + ESTABLISHED)
    for sport in ports:
        _connect(whole, sport, family)
    with streams(whole, compiled, family, *FLOODS[name](family)) as made:
        pour(made, FLOOD)
    whole.forget_recent()
    assert all(_answers(whole, sport, family) for sport in ports)
    new, settled = whole.flow_count()
    assert settled == (SHARE if name in SETTLING else ESTABLISHED)
    assert whole.shares() == {ALPHA: settled}
    assert new <= NEW_FLOWS


def _host_asks_guest() -> list[tuple[str, bytes]]:
    """A handshake: devices and what comes from them."""
    return [
        ("mfhost1", tcp("host", "guest", PORT, "S", sport=SPORT)),
        ("mfp3", tcp("guest", "host", SPORT, "SA", sport=PORT)),
        ("mfhost1", tcp("host", "guest", PORT, "A", sport=SPORT)),
    ]


def test_one_workload_leaves_room_for_others(whole: Rig, compiled: Path) -> None:
    """The host's connection settles though alpha's share is used up, and gives its seat back."""
    whole.reset(crowd())
    with streams(whole, compiled, V4, *FLOODS["UDP, answered"](V4)) as made:
        pour(made, FLOOD)
    for device, data in _host_asks_guest():
        assert whole.run("from_workload", frame(data), device).reason == LOCAL
    assert whole.shares() == {ALPHA: SHARE, HOST: 1}
    over = frame(tcp("guest", "host", SPORT, "R", sport=PORT))
    assert whole.run("from_workload", over, "mfp3").reason == LOCAL
    assert whole.shares() == {ALPHA: SHARE}


@pytest.fixture
def full(scene: Scene, compiled: Path) -> Rig:
    """A small table of established flows without room for another, all of them answered UDP."""
    scene.rig.reset(crowd())
    scene.rig.maps["sweeps"].update(bytes(4), bytes(16))
    with streams(scene.rig, compiled, V4, *FLOODS["UDP, answered"](V4)) as made:
        pour(made, ROOM + 1000)
    assert scene.rig.flow_count()[1] == ROOM
    return scene.rig


def test_who_finds_no_room_is_forwarded(full: Rig) -> None:
    _connect(full, SPORT, V4)
    for _ in range(3):
        full.forget_recent()
        assert _answers(full, SPORT, V4)
        assert _send(full, ALPHA, tcp("alpha", "beta", PORT, "A", sport=SPORT))
    assert full.flow_count()[1] == ROOM


def test_who_finds_no_room_is_remembered_as_established(full: Rig) -> None:
    """A silence of an hour does it no harm, as long as nobody floods."""
    _connect(full, SPORT, V4)
    full.age_flows(3600)
    assert _answers(full, SPORT, V4)


def _forget_the_last_sweep(rig: Rig) -> None:
    begun, rest = SWEEP.unpack(rig.maps["sweeps"].lookup(bytes(4)) or b"")
    earlier_ns = begun - (SWEEP_PAUSE_S + 1) * 10**9
    rig.maps["sweeps"].update(bytes(4), SWEEP.pack(earlier_ns, rest))


def test_what_is_silent_for_too_long_makes_room(full: Rig) -> None:
    _connect(full, SPORT, V4)
    full.age_flows(301)
    _connect(full, SPORT + 1, V4)
    assert full.flow_count()[1] == ROOM, "not so soon after the last sweep"
    _forget_the_last_sweep(full)
    _connect(full, SPORT + 2, V4)
    assert full.flow_count()[1] == 1
    assert _send(full, ALPHA, tcp("alpha", "beta", PORT, "A", sport=SPORT))
    assert full.flow_count()[1] == 2, "and who waits for it takes it"
    assert full.shares() == {ALPHA: 2}


@pytest.mark.parametrize(("silent_s", "kept"), [(TCP_LEAST_S - 1, True), (TCP_LEAST_S + 1, False)])
def test_of_silent_connections_the_rfc_decides(
    scene: Scene, compiled: Path, silent_s: int, kept: bool
) -> None:
    """RFC 5382, REQ-5: two hours and four minutes are the least, also where others find no room."""
    rig = scene.rig
    rig.reset(crowd())
    rig.maps["sweeps"].update(bytes(4), bytes(16))
    for sport in range(SPORT, SPORT + 3):
        _connect(rig, sport, V4)
    rig.age_flows(silent_s)
    with streams(rig, compiled, V4, *FLOODS["UDP, answered"](V4)) as made:
        pour(made, ROOM + 1000)
    assert _answers(rig, SPORT, V4) == kept


def test_whoever_uses_up_his_share_shortens_nobody_elses_silence(whole: Rig, compiled: Path) -> None:
    """Though what alpha itself has left idle goes, and all that is silent for longer than it may be."""
    whole.reset(crowd())
    whole.maps["sweeps"].update(bytes(4), bytes(16))
    _connect(whole, SPORT, V4)
    for device, data in _host_asks_guest():
        assert whole.run("from_workload", frame(data), device).reason == LOCAL
    whole.age_flows(TCP_LEAST_S + 1)
    with streams(whole, compiled, V4, *FLOODS["UDP, answered"](V4)) as made:
        pour(made, SHARE + 1000)
    assert whole.shares() == {ALPHA: SHARE, HOST: 1}
    assert not _answers(whole, SPORT, V4)


@pytest.mark.parametrize("end", ["FA", "RA"])
def test_what_is_over_makes_room_at_once(scene: Scene, end: str) -> None:
    scene.rig.reset(crowd())
    _connect(scene.rig, SPORT, V4)
    assert scene.rig.flow_count() == (0, 1)
    assert _send(scene.rig, ALPHA, tcp("alpha", "beta", PORT, end, sport=SPORT))
    assert scene.rig.flow_count() == ((0, 1) if end == "FA" else (1, 0)), "one end may still send"
    assert scene.rig.shares() == ({ALPHA: 1} if end == "FA" else {})
    assert _send(scene.rig, BETA, tcp("beta", "alpha", SPORT, end, sport=PORT))
    assert scene.rig.flow_count() == (1, 0)
    assert _send(scene.rig, ALPHA, tcp("alpha", "beta", PORT, "A", sport=SPORT))
    assert _answers(scene.rig, SPORT, V4), "for its last words"
    assert scene.rig.flow_count() == (1, 0)
    _connect(scene.rig, SPORT, V4)
    assert (scene.rig.flow_count(), scene.rig.shares()) == ((0, 1), {ALPHA: 1})


def test_a_flow_that_is_judged_again_is_counted_once(scene: Scene) -> None:
    _connect(scene.rig, SPORT, V4)
    for _ in range(3):
        scene.change(lambda world: None, ALPHA)
        assert _answers(scene.rig, SPORT, V4)
        assert scene.rig.shares() == {ALPHA: 1}


def test_a_connection_from_elsewhere_is_counted_to_the_workload_here(scene: Scene) -> None:
    """beta answers far."""
    for sent in (tcp("far", "beta", 80), None, tcp("far", "beta", 80, "A")):
        if sent:
            assert scene.from_overlay("mfwg00", sent) == LOCAL
        else:
            answer = frame(tcp("beta", "far", 40000, "SA", sport=80))
            assert scene.from_workload("mfp2", answer) == Reason.FORWARDED_TO_NODE
    assert scene.rig.shares() == {BETA: 1}
