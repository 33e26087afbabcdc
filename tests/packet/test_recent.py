"""Copies of busy flows: a short cut that must never lead anywhere else."""

import struct
import time
from collections.abc import Callable, Iterator

import pytest

from meshfabric.model.tables import Reason
from tests.packet.frames import V4, V6, frame, tcp, udp
from tests.packet.rig import Rig, Scene
from tests.packet.world import ALPHA, BETA

LOCAL = Reason.FORWARDED_TO_LOCAL
FAMILIES = pytest.mark.parametrize("family", [V4, V6], ids=["v4", "v6"])
SLOTS, SLOT_BYTES, KEY_WORDS = 262144, 64, 5
GENERATION_AT, PLACE_AT, TICK_AT, CHECK_AT = 40, 48, 52, 56
SPREAD_1, SPREAD_2, WORD = 0x9E3779B97F4A7C15, 0xFF51AFD7ED558CCD, 2**64
SPORT = 40000
TICK_NS, ENOUGH_NS = 1 << 32, 3 * 10**9  # a copy is good for a tick; no test takes this long


@pytest.fixture(autouse=True)
def no_copies(rig: Rig) -> None:
    """Other tests spoke of the same flows."""
    rig.forget_recent()


@pytest.fixture
def early_in_tick() -> None:
    """At a time when a copy that is made now is good for a while."""
    while time.clock_gettime_ns(time.CLOCK_MONOTONIC) % TICK_NS > TICK_NS - ENOUGH_NS:
        time.sleep(0.01)


def _spread(word: int) -> int:
    word = word * SPREAD_1 % WORD
    return word ^ word >> 32


def hash_of(key: bytes) -> int:
    """hash_key of recent.h, for a struct flow_key."""
    words: tuple[int, ...] = struct.unpack(f"={KEY_WORDS}Q", key)
    low, high = (_spread((words[at + 1] + _spread(words[at])) % WORD) for at in (0, 2))
    value = ((low ^ high * SPREAD_2 % WORD) + words[4]) % WORD
    value = (value ^ value >> 29) * SPREAD_2 % WORD
    return value ^ value >> 32


def home_slot(key: bytes) -> int:
    """Where its copy belongs."""
    return hash_of(key) % SLOTS


def _checked(copy: bytes) -> bytes:
    """With the check that belongs to what it says (check_of of recent.h)."""
    generations, places = struct.unpack_from("=2Q", copy, GENERATION_AT)
    check = (hash_of(copy[:GENERATION_AT]) ^ generations) * SPREAD_1 % WORD ^ places
    return copy[:CHECK_AT] + struct.pack("=Q", check)


def _talk(scene: Scene, family: int = V4, port: int = 0x1F00, sport: int = SPORT, turns: int = 2) -> None:
    """alpha asks, beta answers, often enough for the flow to be busy."""
    for _ in range(turns):
        for device, data in (
            ("mfp1", udp("alpha", "beta", port, sport=sport, family=family)),
            ("mfp2", udp("beta", "alpha", sport, sport=port, family=family)),
        ):
            assert scene.from_workload(device, frame(data)) == LOCAL


def _one_flow(rig: Rig) -> bytes:
    [key] = rig.maps["flows"].keys()
    return key


def _slot(rig: Rig, number: int) -> bytes:
    value = rig.maps["recent"].lookup(struct.pack("=I", number))
    assert value is not None
    return value


def _is_kept(rig: Rig, key: bytes) -> bool:
    home = home_slot(key)
    return any(_slot(rig, number).startswith(key) for number in (home, home ^ 1))


@FAMILIES
def test_a_busy_flow_is_kept_at_home(scene: Scene, family: int) -> None:
    _talk(scene, family)
    key = _one_flow(scene.rig)
    assert _slot(scene.rig, home_slot(key)).startswith(key)


def test_a_flow_without_answer_is_not(scene: Scene) -> None:
    for _ in range(3):
        assert scene.from_workload("mfp1", frame(udp("alpha", "beta", 0x1F00))) == LOCAL
    [key] = scene.rig.maps["new_flows"].keys()
    assert not _is_kept(scene.rig, key)


@FAMILIES
@pytest.mark.parametrize("bumped", [ALPHA, BETA])
def test_a_revoked_permission_ends_a_busy_flow(scene: Scene, family: int, bumped: int) -> None:
    _talk(scene, family)
    scene.change(lambda world: world.rules.clear(), bumped)
    data = udp("alpha", "beta", 0x1F00, family=family)
    assert scene.from_workload("mfp1", frame(data)) == Reason.POLICY_EGRESS


@FAMILIES
def test_nobody_else_may_use_it(scene: Scene, family: int) -> None:
    _talk(scene, family)
    asked = udp("alpha", "beta", 0x1F00, family=family)
    answered = udp("beta", "alpha", SPORT, sport=0x1F00, family=family)
    for device, data in (("mfp2", asked), ("mfp3", asked), ("mfp1", answered)):
        assert scene.from_workload(device, frame(data)) == Reason.SPOOFED_SOURCE
    assert scene.from_overlay("mfwg00", asked) == Reason.SPOOFED_SOURCE
    assert scene.from_overlay("mfwg00", answered) == Reason.SPOOFED_SOURCE


def test_the_end_of_a_busy_connection_is_noted(scene: Scene) -> None:
    """FIN takes the long way: four minutes later nothing is known of it."""
    for flags in ("S", "A", "A"):
        assert scene.from_workload("mfp1", frame(tcp("alpha", "beta", 8080, flags))) == LOCAL
        assert scene.from_workload("mfp2", frame(tcp("beta", "alpha", SPORT, "A", sport=8080))) == LOCAL
    assert scene.from_workload("mfp1", frame(tcp("alpha", "beta", 8080, "FA"))) == LOCAL
    scene.age(241)
    closed = tcp("beta", "alpha", SPORT, "A", sport=8080)
    assert scene.from_workload("mfp2", frame(closed)) == Reason.POLICY_EGRESS


def _rewrite(scene: Scene, change: Callable[[bytearray], bytes]) -> None:
    """Change the copy of the one flow, and let nothing but the copy know of it."""
    [key] = scene.rig.maps["flows"].keys()
    changed = change(bytearray(_slot(scene.rig, home_slot(key))))
    scene.rig.maps["recent"].update(struct.pack("=I", home_slot(key)), changed)
    scene.rig.maps["flows"].delete(key)
    scene.oracle.flows.clear()


ANSWER = udp("beta", "alpha", SPORT, sport=0x1F00)


@pytest.mark.parametrize("at", [GENERATION_AT, GENERATION_AT + 4, PLACE_AT, PLACE_AT + 2, TICK_AT, 56, 63])
def test_a_torn_copy_is_worth_nothing(scene: Scene, at: int) -> None:
    """As when two CPUs write one slot at once: the flow itself is asked, and there is none."""

    def tear(copy: bytearray) -> bytes:
        copy[at] ^= 3
        return bytes(copy)

    _talk(scene)
    _rewrite(scene, tear)
    assert scene.from_workload("mfp2", frame(ANSWER)) == Reason.POLICY_EGRESS


def test_an_old_copy_is_worth_nothing(scene: Scene) -> None:
    """Of the tick before, and otherwise right."""

    def age(copy: bytearray) -> bytes:
        tick = int.from_bytes(copy[TICK_AT : TICK_AT + 2], "little")
        copy[TICK_AT : TICK_AT + 2] = ((tick - 1) % 2**16).to_bytes(2, "little")
        return _checked(bytes(copy))

    _talk(scene)
    _rewrite(scene, age)
    assert scene.from_workload("mfp2", frame(ANSWER)) == Reason.POLICY_EGRESS


@pytest.mark.usefixtures("early_in_tick")
def test_a_whole_copy_is_believed(scene: Scene) -> None:
    """The counterpart: without the flow, for the rest of its tick."""
    _talk(scene)
    known = dict(scene.oracle.flows)
    _rewrite(scene, lambda copy: _checked(bytes(copy)))
    scene.oracle.flows.update(known)
    assert scene.from_workload("mfp2", frame(ANSWER)) == LOCAL
    assert scene.rig.flow_count() == (0, 0), "nothing but the copy answered"


def _sharing(rig: Rig, home: int) -> Iterator[tuple[int, int]]:
    """Ports of other flows between alpha and beta whose home is the same, or beside."""
    [key] = rig.maps["flows"].keys()
    for port in range(0x1F00, 0x2000):
        for sport in range(1024, 65536):
            other = key[:32] + struct.pack(">HH", sport, port) + key[36:]
            if other != key and home_slot(other) | 1 == home | 1:
                yield port, sport


@pytest.mark.usefixtures("early_in_tick")
def test_more_busy_flows_than_a_home_has_room(scene: Scene) -> None:
    """They take turns in two slots, and all of them go on."""
    _talk(scene)
    sharing = _sharing(scene.rig, home_slot(_one_flow(scene.rig)))
    flows = [(0x1F00, SPORT), next(sharing), next(sharing)]
    for _ in range(3):
        for port, sport in flows:
            _talk(scene, port=port, sport=sport, turns=1)
    keys = list(scene.rig.maps["flows"].keys())
    assert len(keys) == 3
    assert sum(_is_kept(scene.rig, key) for key in keys) == 2
