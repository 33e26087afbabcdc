"""Probes: stamped as they leave, reflected without waking anybody, heard as they come back."""

import struct
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6

from meshfabric.model.tables import PathState, Reason, path_value
from tests.packet.frames import V4, V6, address, ip, udp
from tests.packet.oracle import NEXT, REDIRECT, SHOT
from tests.packet.rig import MARK, Rig, Scene
from tests.packet.world import AWAY, FAR

FAMILIES = pytest.mark.parametrize("family", [V4, V6], ids=["v4", "v6"])
STAMP_PORT, PROBE_PORT = 862, 50862
UDP_HEADER, STAMP_BYTES = 8, 44
INTERVAL_NS = 50_000_000
CAUTION = 1024  # answers
NS_PER_S = 10**9
# RFC 8762, figures 2 and 4
_ANSWER = struct.Struct(">IIIHHIIIIIHHB3x")


@dataclass(frozen=True)
class Answer:
    """A reflected probe's fields; times in ns of the reflector's or the sender's clock."""

    sequence: int
    sent_ns: int
    error: int
    received_ns: int
    sender_sequence: int
    sender_sent_ns: int
    sender_error: int
    sender_ttl: int


def _ns(seconds: int, fraction: int) -> int:
    return seconds * NS_PER_S + (fraction * NS_PER_S >> 32)


def _ntp(ns: int) -> bytes:
    return struct.pack(">II", ns // NS_PER_S, -(-(ns % NS_PER_S << 32) // NS_PER_S))


def read_answer(packet: bytes) -> Answer:
    """The STAMP fields behind the UDP header."""
    f = _ANSWER.unpack(payload(packet)[:STAMP_BYTES])
    return Answer(f[0], _ns(f[1], f[2]), f[3], _ns(f[5], f[6]), f[7], _ns(f[8], f[9]), f[10], f[12])


def payload(packet: bytes) -> bytes:
    """What is behind the UDP header of a plain packet."""
    return packet[(20 if packet[0] >> 4 == V4 else 40) + UDP_HEADER :]


def probe(
    source: str, destination: str, family: int, sequence: int = 1, size: int = STAMP_BYTES, ttl: int = 255
) -> bytes:
    """As its sender makes it: a sequence number, and time for somebody else to fill in."""
    data = udp(source, destination, STAMP_PORT, size, sport=PROBE_PORT, family=family, ttl=ttl)
    stamp = struct.pack(">I", sequence) + bytes(10) + bytes(30)
    return checked(data[: len(data) - size] + stamp[:size] + bytes(max(0, size - STAMP_BYTES)))


def answer_to(packet: bytes, source: str, family: int, sent_ns: int | None = None) -> bytes:
    """What a far reflector makes of a probe that left here."""
    asked = payload(packet)
    when = _ntp(sent_ns) if sent_ns is not None else asked[4:12]
    body = asked[:4] + _ntp(1) + b"\0\1\0\0" + _ntp(1) + asked[:4] + when + asked[12:14] + b"\0\0\xff\0\0\0"
    body += asked[STAMP_BYTES:]
    data = udp(source, "host", PROBE_PORT, len(body), sport=STAMP_PORT, family=family)
    return checked(data[: len(data) - len(body)] + body)


def checked(packet: bytes) -> bytes:
    """With all checksums computed anew by scapy."""
    layers = (IP if packet[0] >> 4 == V4 else IPv6)(packet)
    if layers.version == V4:
        del layers.chksum
    del layers.payload.chksum
    return bytes(layers)


def leave(rig: Rig, device: str, packet: bytes) -> bytes:
    """The probe as it enters the tunnel."""
    run = rig.run("to_overlay", packet, device)
    assert (run.action, run.counted) == (NEXT, {})
    return run.packet


@FAMILIES
def test_a_probe_is_stamped_as_it_leaves(scene: Scene, family: int) -> None:
    before = time.monotonic_ns()
    out = leave(scene.rig, "mfwg00", probe("host", "far", family, 7))
    after = time.monotonic_ns()
    sequence, seconds, fraction, error = struct.unpack_from(">IIIH", payload(out))
    assert (sequence, error) == (0, 1), "its sender's number is not asked"
    assert before <= _ns(seconds, fraction) <= after
    assert checked(out) == out, "the checksum is right"
    state = scene.rig.path(FAR, 0)
    assert state.sent == 1
    assert state.sent_ns == state.unanswered_ns == _ns(seconds, fraction)
    assert state.ifindex == scene.rig.ifindex["mfwg00"]


def test_the_oldest_unanswered_probe_counts(scene: Scene) -> None:
    leave(scene.rig, "mfwg00", probe("host", "far", V4))
    first = scene.rig.path(FAR, 0).unanswered_ns
    leave(scene.rig, "mfwg00", probe("host", "far", V4))
    state = scene.rig.path(FAR, 0)
    assert (state.sent, state.unanswered_ns) == (2, first)
    assert state.sent_ns > first


def test_each_node_and_tunnel_has_a_state_of_its_own(scene: Scene) -> None:
    """The second tunnel to far is the first one to away."""
    leave(scene.rig, "mfwg01", probe("host", "far", V4))
    assert [scene.rig.path(FAR, i).sent for i in (0, 1)] == [0, 1]
    leave(scene.rig, "mfwg01", probe("host", "away", V4))
    assert [scene.rig.path(AWAY, i).sent for i in (0, 1)] == [1, 0]


@FAMILIES
def test_a_padded_probe_tells_nothing_of_the_paths_life(scene: Scene, family: int) -> None:
    """It may be too large: lost, it must not look like a cut. When it comes back its number is noted."""
    _set(scene.rig, streak=5)
    before = scene.rig.path(FAR, 0)
    out = leave(scene.rig, "mfwg00", probe("host", "far", family, 0xABCDEF01, 1300))
    assert scene.rig.path(FAR, 0) == before
    run = scene.rig.run("from_overlay", answer_to(out, "far", family), "mfwg00")
    assert (run.action, run.reason) == (SHOT, Reason.PROBE_HEARD)
    assert scene.rig.path(FAR, 0) == before._replace(padded=0xABCDEF01)


def test_a_padded_probe_of_another_device_is_not_noted(scene: Scene) -> None:
    _set(scene.rig, ifindex=4711)
    before = scene.rig.path(FAR, 0)
    out = leave(scene.rig, "mfwg00", probe("host", "far", V4, 9, 1300))
    assert scene.rig.run("from_overlay", answer_to(out, "far", V4), "mfwg00").reason == Reason.MALFORMED
    assert scene.rig.path(FAR, 0) == before


def test_another_device_starts_anew(scene: Scene) -> None:
    before = PathState(*range(1, len(PathState._fields) + 1))._replace(ifindex=4711)
    scene.rig.set_path(FAR, 0, path_value(before))
    leave(scene.rig, "mfwg00", probe("host", "far", V4))
    state = scene.rig.path(FAR, 0)
    sent = state.sent_ns
    own = PathState(sent, before.traffic_ns, sent, sent=1, ifindex=scene.rig.ifindex["mfwg00"])
    assert state == own, "but for the traffic to the node, whichever way it takes"


STOPPED: dict[str, tuple[Callable[[], bytes], str, Reason]] = {
    "a workload's": (lambda: probe("alpha", "far", V4), "mfwg00", Reason.NOT_FROM_FABRIC),
    "to nobody": (lambda: probe("host", "nobody", V4), "mfwg00", Reason.NOT_FROM_FABRIC),
    "to a workload here": (lambda: probe("host", "alpha", V4), "mfwg00", Reason.NOT_FROM_FABRIC),
    "by a tunnel that does not lead there": (lambda: probe("host", "mute", V4), "mfwg00", Reason.NO_PATH),
    "without room for a stamp": (lambda: probe("host", "far", V4, size=43), "mfwg00", Reason.MALFORMED),
    "from another port": (
        lambda: udp("host", "far", STAMP_PORT, STAMP_BYTES, sport=1),
        "mfwg00",
        Reason.NOT_FROM_FABRIC,
    ),
    "an answer that is none of ours": (
        lambda: udp("host", "far", PROBE_PORT, STAMP_BYTES, sport=STAMP_PORT),
        "mfwg00",
        Reason.NOT_FROM_FABRIC,
    ),
}


@pytest.mark.parametrize("name", STOPPED)
def test_other_probes_do_not_leave(scene: Scene, name: str) -> None:
    packet, device, reason = STOPPED[name]
    run = scene.rig.run("to_overlay", packet(), device)
    assert (run.action, run.reason) == (SHOT, reason)
    assert scene.rig.path(FAR, 0).sent == 0


@FAMILIES
@pytest.mark.parametrize("size", [STAMP_BYTES, 200])
def test_a_question_is_reflected(scene: Scene, family: int, size: int) -> None:
    question = probe("far", "host", family, 0xCAFE, size, ttl=251)
    body = bytearray(question)
    start = len(question) - size
    body[start + 4 : start + 14] = _ntp(123456789) + b"\x80\x21"  # the sender's clock is its own affair
    question = checked(bytes(body))
    before = time.monotonic_ns()
    run = scene.rig.run("from_overlay", question, "mfwg01")
    after = time.monotonic_ns()
    assert (run.action, run.reason, run.mark) == (REDIRECT, Reason.PROBE_REFLECTED, MARK)
    answer = read_answer(run.packet)
    assert before <= answer.received_ns <= answer.sent_ns <= after
    sequence = 0 if size == STAMP_BYTES else 0xCAFE  # a padded one is not counted
    assert answer == Answer(sequence, answer.sent_ns, 1, answer.received_ns, 0xCAFE, 123456789, 0x8021, 251)
    _assert_turned(run.packet, question, family)


def _assert_turned(answer: bytes, question: bytes, family: int) -> None:
    layers = (IP if family == V4 else IPv6)(answer)
    assert (layers.src, layers.dst) == (address("host", family), address("far", family))
    assert (layers.payload.sport, layers.payload.dport) == (STAMP_PORT, PROBE_PORT)
    assert len(answer) == len(question)
    assert checked(answer) == answer, "the checksums are right"


def test_a_checksum_of_zero_stays_zero(scene: Scene) -> None:
    """IPv4 allows it (RFC 768): there is nothing to keep right."""
    question = bytearray(probe("far", "host", V4))
    question[26:28] = b"\0\0"
    run = scene.rig.run("from_overlay", bytes(question), "mfwg00")
    assert run.reason == Reason.PROBE_REFLECTED
    assert run.packet[26:28] == b"\0\0"


NOT_REFLECTED: dict[str, tuple[Callable[[], bytes], Reason]] = {
    "without room for a stamp": (lambda: probe("far", "host", V4, size=43), Reason.MALFORMED),
    "reflector to reflector, for ever": (
        lambda: udp("far", "host", STAMP_PORT, STAMP_BYTES, sport=STAMP_PORT),
        Reason.FORWARDED_TO_LOCAL,
    ),
    "from one of our own": (lambda: probe("alpha", "host", V4), Reason.SPOOFED_SOURCE),
    "from nobody": (lambda: probe("nobody", "host", V4), Reason.SPOOFED_SOURCE),
    "to a workload": (lambda: probe("far", "beta", V4), Reason.FORWARDED_TO_LOCAL),
    "an answer by a tunnel that does not lead there": (
        lambda: answer_to(probe("host", "mute", V4), "mute", V4),
        Reason.NO_PATH,
    ),
    "an answer nobody asked for": (
        lambda: answer_to(probe("host", "far", V4), "far", V4, sent_ns=time.monotonic_ns()),
        Reason.MALFORMED,
    ),
}


@pytest.mark.parametrize("name", NOT_REFLECTED)
def test_what_is_no_question_for_us(scene: Scene, name: str) -> None:
    packet, reason = NOT_REFLECTED[name]
    assert scene.rig.run("from_overlay", packet(), "mfwg00").reason == reason
    assert scene.rig.path(FAR, 0) == PathState()


@FAMILIES
def test_an_answer_is_heard(scene: Scene, family: int) -> None:
    began = time.monotonic_ns()
    out = leave(scene.rig, "mfwg00", probe("host", "far", family))
    run = scene.rig.run("from_overlay", answer_to(out, "far", family), "mfwg00")
    ended = time.monotonic_ns()
    assert (run.action, run.reason) == (SHOT, Reason.PROBE_HEARD)
    state = scene.rig.path(FAR, 0)
    assert (state.sent, state.heard, state.streak, state.flaps, state.unanswered_ns) == (1, 1, 1, 0, 0)
    assert began <= state.sent_ns <= state.heard_ns <= ended
    assert state.rtt_us == state.rtt_peak_us == (state.heard_ns - state.sent_ns) // 1000


def test_the_round_trip_peak_fades(scene: Scene) -> None:
    """By a 32nd with each answer, unless a later one is worse."""
    _set(scene.rig, rtt_peak_us=3_200_000)
    for wanted in (3_100_000, 3_003_125):
        out = leave(scene.rig, "mfwg00", probe("host", "far", V4))
        scene.rig.run("from_overlay", answer_to(out, "far", V4), "mfwg00")
        assert scene.rig.path(FAR, 0).rtt_peak_us == wanted


def _set(rig: Rig, **fields: int) -> None:
    """A healthy path over mfwg00, but for what is given."""
    healthy = PathState(streak=10, ifindex=rig.ifindex["mfwg00"])
    rig.set_path(FAR, 0, path_value(healthy._replace(**fields)))


def test_an_answer_to_an_earlier_probe_leaves_the_next_one_open(scene: Scene) -> None:
    """What left an interval after it is then the oldest without an answer."""
    first = leave(scene.rig, "mfwg00", probe("host", "far", V4, 1))
    asked_ns = scene.rig.path(FAR, 0).sent_ns
    leave(scene.rig, "mfwg00", probe("host", "far", V4, 2))
    scene.rig.run("from_overlay", answer_to(first, "far", V4), "mfwg00")
    assert scene.rig.path(FAR, 0).unanswered_ns == asked_ns + INTERVAL_NS


def test_an_answer_that_was_overtaken_proves_nothing_new(scene: Scene) -> None:
    first = leave(scene.rig, "mfwg00", probe("host", "far", V4, 1))
    second = leave(scene.rig, "mfwg00", probe("host", "far", V4, 2))
    leave(scene.rig, "mfwg00", probe("host", "far", V4, 3))
    scene.rig.run("from_overlay", answer_to(second, "far", V4), "mfwg00")
    state = scene.rig.path(FAR, 0)
    scene.rig.run("from_overlay", answer_to(first, "far", V4), "mfwg00")
    after = scene.rig.path(FAR, 0)
    assert after.unanswered_ns == state.unanswered_ns
    assert (after.heard, after.streak) == (2, 2)


def test_a_path_that_was_given_up_begins_again(scene: Scene) -> None:
    long_ago = time.monotonic_ns() - 30 * NS_PER_S
    _set(scene.rig, unanswered_ns=long_ago, sent_ns=long_ago, sent=3)
    for streak in (1, 2, 3):
        out = leave(scene.rig, "mfwg00", probe("host", "far", V4))
        scene.rig.run("from_overlay", answer_to(out, "far", V4), "mfwg00")
        state = scene.rig.path(FAR, 0)
        assert (state.streak, state.flaps) == (streak, 1)


@pytest.mark.parametrize("late", [True, False])
def test_who_gave_up_too_soon_is_more_patient_for_a_while(scene: Scene, late: bool) -> None:
    """An answer that only took long was no cut: its time is not forgotten with the next ones."""
    long_ago = time.monotonic_ns() - 30 * NS_PER_S
    _set(scene.rig, unanswered_ns=long_ago, sent_ns=time.monotonic_ns(), sent=3)
    question = probe("host", "far", V4, 0)
    out = (
        answer_to(question, "far", V4, long_ago)
        if late
        else answer_to(leave(scene.rig, "mfwg00", question), "far", V4)
    )
    scene.rig.run("from_overlay", out, "mfwg00")
    state = scene.rig.path(FAR, 0)
    assert (state.flaps, state.caution) == (1, CAUTION - 1 if late else 0)
    out = leave(scene.rig, "mfwg00", question)
    scene.rig.run("from_overlay", answer_to(out, "far", V4), "mfwg00")
    assert (scene.rig.path(FAR, 0).rtt_peak_us == state.rtt_peak_us) is late


def test_what_was_never_trusted_is_not_given_up(scene: Scene) -> None:
    """A first handshake may take long."""
    long_ago = time.monotonic_ns() - 30 * NS_PER_S
    _set(scene.rig, unanswered_ns=long_ago, sent_ns=long_ago, sent=3, streak=2)
    out = leave(scene.rig, "mfwg00", probe("host", "far", V4))
    scene.rig.run("from_overlay", answer_to(out, "far", V4), "mfwg00")
    assert (scene.rig.path(FAR, 0).streak, scene.rig.path(FAR, 0).flaps) == (1, 0)


def test_an_answer_from_before_an_hour(scene: Scene) -> None:
    now = time.monotonic_ns()
    _set(scene.rig, sent_ns=now, unanswered_ns=now)
    late = answer_to(probe("host", "far", V4), "far", V4, sent_ns=now - 61 * NS_PER_S)
    assert scene.rig.run("from_overlay", late, "mfwg00").reason == Reason.MALFORMED
    assert scene.rig.path(FAR, 0).heard == 0


def test_an_answer_to_what_was_never_asked(scene: Scene) -> None:
    """Later than the last probe: somebody made it up."""
    now = time.monotonic_ns()
    _set(scene.rig, sent_ns=now - 2 * NS_PER_S, unanswered_ns=now - 2 * NS_PER_S)
    forged = answer_to(probe("host", "far", V4), "far", V4, sent_ns=now - NS_PER_S)
    assert scene.rig.run("from_overlay", forged, "mfwg00").reason == Reason.MALFORMED
    assert scene.rig.path(FAR, 0).heard == 0


def test_pieces_of_a_probe_are_no_probe(scene: Scene) -> None:
    whole = probe("host", "far", V4)
    piece = bytes(ip("host", "far", flags="MF", proto=17, len=len(whole))) + whole[20:]
    assert scene.rig.run("to_overlay", piece, "mfwg00").reason == Reason.NOT_FROM_FABRIC
