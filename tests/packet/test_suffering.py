"""A connection that suffers on the path that is its share takes another one, and stays there."""

import time
from collections.abc import Iterator

import pytest
from scapy.layers.inet import TCP
from scapy.packet import Raw

from meshfabric.model.addresses import parse_address
from meshfabric.model.tables import FLOW_KEY, SHARES, Reason, number
from tests.packet.arena import Arena
from tests.packet.choice import LOSSY, SILENT, UP, Chosen, State, positions, write
from tests.packet.frames import V4, V6, address, frame, ip
from tests.packet.rig import Rig, Run, Scene
from tests.packet.world import FAR

PATHS = {0: "mfwg00", 1: "mfwg01", 2: "mfwg10"}
HERE, THERE = 40000, 443
APART_S = 0.13
"""More than lies between two repeats that are taken for two."""
AT_ONCE_S = 0.09
WINDOWS = 4
ACKS = 6
HOW = {"A": "A", "E": "AE"}
"""Flags of an acknowledgement, which may tell of congestion."""


class Connection:
    """Between alpha and the far node, over paths that are shared."""

    def __init__(self, rig: Rig, chosen: Chosen, family: int = V4, port: int = HERE) -> None:
        self._rig, self._chosen, self._family, self._port = rig, chosen, family, port
        self.send(0, flags="S")
        self.hear(0, flags="SA")

    def send(self, sequence: int, size: int = 0, flags: str = "A") -> bool:
        """A segment of ours; whether it made the connection move."""
        head = ip("alpha", "far", self._family)
        made = head / TCP(sport=self._port, dport=THERE, seq=sequence, flags=flags) / Raw(bytes(size))
        return _moves(self._rig.run("from_workload", frame(bytes(made)), "mfp1"), Reason.FORWARDED_TO_NODE)

    def hear(self, sequence: int, size: int = 0, flags: str = "A") -> bool:
        """A segment of the other end's."""
        head = ip("far", "alpha", self._family)
        made = head / TCP(sport=THERE, dport=self._port, seq=sequence, flags=flags) / Raw(bytes(size))
        return _moves(self._rig.run("from_overlay", bytes(made), "mfwg00"), Reason.FORWARDED_TO_LOCAL)

    def send_again(self, sequence: int, size: int, times: int = 2) -> list[bool]:
        """As after timeouts; which of them made it move."""
        return [self._later().send(sequence, size) for _ in range(times)]

    def hear_again(self, sequence: int, size: int, times: int = 2) -> list[bool]:
        return [self._later().hear(sequence, size) for _ in range(times)]

    @property
    def tunnel(self) -> str | None:
        """Where its packets leave."""
        ends = sorted(parse_address(address(name, self._family)) for name in ("alpha", "far"))
        ports = (self._port.to_bytes(2, "big"), THERE.to_bytes(2, "big"))
        return self._chosen(FAR, FLOW_KEY.pack(*ends, *ports, 6))

    def _later(self) -> "Connection":
        time.sleep(APART_S)
        return self


def _moves(run: Run, passed: Reason) -> bool:
    assert passed in run.counted
    return Reason.FLOW_MOVED in run.counted


@pytest.fixture
def shared(scene: Scene, place: Arena) -> Iterator[Rig]:
    """Three sound paths to the far node, all flows shared among them; nobody is watched yet."""
    rig = scene.rig
    missing = [name for name in PATHS.values() if name not in rig.ifindex]
    rig.ifindex.update(place.devices(missing))
    watched = rig.maps["watched"]
    watched.update_batch((number(at), bytes(watched.value_size)) for at in range(watched.max_entries))
    fare(rig)
    with positions(rig, PATHS, shares=[0, 1, 2, *[0, 1, 2] * SHARES][:SHARES]):
        yield rig


def fare(rig: Rig, **unlike: State) -> None:
    """All paths are up, but for what is given."""
    for at, device in PATHS.items():
        write(rig, at, device, unlike.get(device, UP))


@pytest.mark.parametrize("family", [V4, V6])
def test_who_sends_the_same_again_and_again_is_moved_once(shared: Rig, chosen: Chosen, family: int) -> None:
    connection = Connection(shared, chosen, family)
    before = connection.tunnel
    assert not connection.send(1, 100)
    assert connection.send_again(1, 100) == [False, True]
    after = connection.tunnel
    assert after != before
    assert connection.send_again(1, 100) == [False, False], "what moved needs time to show how it fares"
    assert not connection.send(101, 100)
    assert connection.tunnel == after


def test_who_hears_the_same_again_and_again_is_moved(shared: Rig, chosen: Chosen) -> None:
    connection = Connection(shared, chosen)
    before = connection.tunnel
    assert not connection.hear(1, 100)
    assert connection.hear_again(1, 100) == [False, True]
    assert connection.tunnel != before


def test_a_syn_without_an_answer_is_moved(shared: Rig, chosen: Chosen) -> None:
    connection = Connection(shared, chosen)
    moved = []
    for _ in range(2):
        time.sleep(APART_S)
        moved.append(connection.send(0, flags="S"))
    assert moved == [False, True]


def test_another_connection_of_the_same_ends_begins_anew(shared: Rig, chosen: Chosen) -> None:
    connection = Connection(shared, chosen)
    for sequence in (5000, 100, 9000):
        time.sleep(APART_S)
        assert not connection.send(sequence, flags="S")


@pytest.mark.parametrize("newer", [1, 1000])
def test_what_gets_on_is_not_moved(shared: Rig, chosen: Chosen, newer: int) -> None:
    connection = Connection(shared, chosen)
    connection.send(1, 100)
    for turn in range(3):
        assert connection.send_again(1, 100, times=1) == [False]
        assert not connection.send(101 + turn * newer, newer)


def test_repeats_at_once_are_one(shared: Rig, chosen: Chosen) -> None:
    """Tried until this machine was quick enough for them to be at once."""
    for port in range(HERE, HERE + 100):
        connection = Connection(shared, chosen, port=port)
        connection.send(1, 100)
        begun = time.monotonic()
        moved = [connection.send(1, 100) for _ in range(3)]
        if time.monotonic() - begun < AT_ONCE_S:
            assert moved == [False] * 3
            return
    pytest.fail("this machine never was quick")


def test_acknowledgements_alone_say_nothing(shared: Rig, chosen: Chosen) -> None:
    connection = Connection(shared, chosen)
    connection.send(1, 100)
    assert connection.send_again(101, 0, times=3) == [False] * 3
    assert connection.hear_again(1, 0, times=3) == [False] * 3


@pytest.mark.parametrize(("told", "moves"), [("E", True), ("EEA", True), ("EAAAAA", False)])
def test_who_is_told_of_congestion_again_and_again_is_moved(
    shared: Rig, chosen: Chosen, told: str, moves: bool
) -> None:
    connection = Connection(shared, chosen)
    before, moved = connection.tunnel, []
    for _ in range(WINDOWS):
        time.sleep(APART_S)
        moved += [connection.hear(1, flags=HOW[told[at % len(told)]]) for at in range(ACKS)]
    assert sum(moved) == moves
    assert (connection.tunnel != before) == moves


def test_a_few_acknowledgements_tell_of_no_congestion(shared: Rig, chosen: Chosen) -> None:
    connection = Connection(shared, chosen)
    for _ in range(WINDOWS):
        time.sleep(APART_S)
        assert not any(connection.hear(1, flags="AE") for _ in range(2))


def test_it_is_not_moved_to_a_path_that_is_not_sound(shared: Rig, chosen: Chosen) -> None:
    connection = Connection(shared, chosen)
    own = connection.tunnel
    fare(shared, **{name: LOSSY for name in PATHS.values() if name != own})
    connection.send(1, 100)
    assert connection.send_again(1, 100, times=3) == [False] * 3
    assert connection.tunnel == own


def test_a_path_that_is_silent_is_no_place_to_have_moved_to(shared: Rig, chosen: Chosen) -> None:
    connection = Connection(shared, chosen)
    first = connection.tunnel
    connection.send(1, 100)
    connection.send_again(1, 100)
    second = connection.tunnel
    assert second is not None
    fare(shared, **{second: SILENT})
    assert connection.tunnel == first, "the one of its hash, where there is no other"
    fare(shared)
    assert connection.tunnel == second, "it had moved for a reason"


def test_a_path_that_is_not_shared_any_more_is_no_place_to_have_moved_to(shared: Rig, chosen: Chosen) -> None:
    connection = Connection(shared, chosen)
    connection.send(1, 100)
    connection.send_again(1, 100)
    moved_to = connection.tunnel
    (gone,) = (at for at, name in PATHS.items() if name == moved_to)
    left = [at for at in PATHS if at != gone]
    with positions(shared, PATHS, shares=left * (SHARES // 2)):
        assert connection.tunnel != moved_to


def test_two_that_want_one_place_do_not_take_it_from_each_other(shared: Rig, chosen: Chosen) -> None:
    """Only the first is watched, until it was silent for a while."""
    first = Connection(shared, chosen)
    watched = shared.maps["watched"]
    ((key, value),) = ((key, value) for key, value in watched.items() if any(value))
    other = bytes([value[0] ^ 1]) + value[1:]
    watched.update(key, other)
    first.send(1, 100)
    assert first.send_again(1, 100) == [False, False]
    assert watched.lookup(key) == other


def test_where_nothing_is_shared_nobody_is_watched(shared: Rig, chosen: Chosen) -> None:
    with positions(shared, PATHS):
        connection = Connection(shared, chosen)
        connection.send(1, 100)
        assert connection.send_again(1, 100) == [False, False]
    assert not any(any(value) for _, value in shared.maps["watched"].items())
