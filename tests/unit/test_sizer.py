"""The search for path MTUs, turn after turn: what is asked of which path, and what comes of it."""

from dataclasses import dataclass, field

from meshfabric.model.addresses import parse_address
from meshfabric.probe.prober import Target
from meshfabric.probe.search import CONFIRM_S, MAX_DOUBTS
from meshfabric.probe.sizer import DOWN_S, PATHS_AT_ONCE, SEQUENCES, TURN_S, Look, Path, Sizer

OURS, THEIRS = parse_address("10.1.1.1"), parse_address("10.1.2.1")
FLOOR, CEILING = 1320, 1420
RED, BLUE = (Target(device, OURS, THEIRS, "n2", at) for at, device in enumerate(("mfwg00", "mfwg11")))
SEQUENCE = slice(28, 32)  # of a probe over IPv4: the first field behind the headers


@dataclass
class Wires:
    """Paths that carry so much, each; the datapath behind them, and what the sizer has told."""

    carries: dict[str, int] = field(default_factory=lambda: {"mfwg00": 9000, "mfwg11": 9000})
    down: set[str] = field(default_factory=set)
    silent: set[str] = field(default_factory=set)  # cut, and not given up yet
    next_plain: int = SEQUENCES - 5
    answered: dict[str, int] = field(default_factory=dict)
    padded: dict[str, int] = field(default_factory=dict)
    sent: list[tuple[str, int]] = field(default_factory=list)
    told: list[tuple[Path, int | None]] = field(default_factory=list)
    broken: bool = False

    def sendto(self, packet: bytes, address: tuple[str, int]) -> int:
        """The far node reflects what arrives, and it comes back."""
        if self.broken:
            raise OSError
        device, _ = address
        self.sent.append((device, len(packet)))
        if len(packet) <= self.carries[device] and device not in self.down | self.silent:
            self.padded[device] = int.from_bytes(packet[SEQUENCE], "big")
        return len(packet)

    def look(self, target: Target) -> Look:
        """The state of a path."""
        device = target.device
        padded, answered = self.padded.get(device, 0), self.answered.get(device, 0)
        return Look(device not in self.down, padded, self.next_plain, answered)

    def probe(self) -> None:
        """A plain probe on each path."""
        self.next_plain = (self.next_plain + 1) % SEQUENCES
        self.answered |= dict.fromkeys(self.carries.keys() - self.down - self.silent, self.next_plain)

    def found(self, path: Path, carried: int | None) -> None:
        """Noted."""
        self.told.append((path, carried))


class Stand:
    """A sizer and its wires, with a clock."""

    def __init__(self, *targets: Target, ceiling: int = CEILING) -> None:
        self.wires, self.now_s = Wires(), 0.0
        self.sizer = Sizer(FLOOR, self.wires.look, self.wires.found)
        self.aim(*targets, ceiling=ceiling)

    def aim(self, *targets: Target, ceiling: int = CEILING) -> None:
        self.sizer.aim(lambda: (ceiling, targets))

    def turn(self, times: int = 1) -> None:
        for _ in range(times):
            list(self.sizer.turn(self.wires, self.now_s))
            self.wires.probe()
            self.now_s += TURN_S


def test_a_path_as_promised_is_confirmed_now_and_then_and_nothing_is_told() -> None:
    stand = Stand(RED, BLUE)
    stand.turn(2)
    assert stand.wires.sent == [("mfwg00", CEILING), ("mfwg11", CEILING)]
    stand.turn(int(CONFIRM_S))
    assert stand.wires.sent[2:] == [("mfwg00", CEILING), ("mfwg11", CEILING)]
    assert stand.wires.told == []


def test_a_path_that_carries_less_is_found_out_and_the_other_is_left_alone() -> None:
    stand = Stand(RED, BLUE)
    stand.wires.carries["mfwg00"] = 1370
    stand.turn(MAX_DOUBTS + 1)
    assert stand.wires.told == [(RED.path, FLOOR)]
    stand.turn(20)
    assert stand.wires.told[-1] == (RED.path, 1360)
    assert {path for path, _ in stand.wires.told} == {RED.path}


def test_what_a_dead_path_loses_tells_nothing() -> None:
    stand = Stand(RED)
    stand.turn(2)
    stand.wires.down.add("mfwg00")
    stand.turn(100)
    assert stand.wires.told == []
    assert len(stand.wires.sent) == 1, "and it is not asked"


def test_a_path_that_dies_with_a_probe_under_way_is_asked_again_when_it_lives() -> None:
    stand = Stand(RED)
    stand.wires.carries["mfwg00"] = 0
    stand.turn()
    stand.wires.down.add("mfwg00")
    stand.turn(3)
    stand.wires.down.clear()
    stand.turn(int(DOWN_S / TURN_S) - 3 + MAX_DOUBTS)
    assert stand.wires.told == []
    stand.turn(1)
    assert stand.wires.told == [(RED.path, FLOOR)]


def test_what_a_path_loses_before_it_is_given_up_tells_nothing() -> None:
    """However long that takes: only a plain one that left later and comes back shows that it was the size."""
    stand = Stand(RED)
    stand.turn(int(CONFIRM_S))
    stand.wires.silent.add("mfwg00")
    stand.turn(10 * MAX_DOUBTS)
    stand.wires.silent.clear()
    stand.turn(2)
    assert stand.wires.told == []


def test_a_path_that_counts_its_probes_anew_is_asked_anew() -> None:
    stand = Stand(RED)
    stand.wires.carries["mfwg00"] = 1370
    stand.turn()
    stand.wires.next_plain = SEQUENCES // 2 + 1
    stand.turn(MAX_DOUBTS)
    assert stand.wires.told == []
    stand.turn(1)
    assert stand.wires.told == [(RED.path, FLOOR)]


def test_a_path_that_is_gone_is_told_of() -> None:
    stand = Stand(RED, BLUE)
    stand.wires.carries["mfwg00"] = 1370
    stand.turn(30)
    stand.wires.told.clear()
    stand.aim(BLUE)
    stand.turn()
    assert stand.wires.told == [(RED.path, None)]


def test_another_promise_is_tried() -> None:
    stand = Stand(RED)
    stand.turn(2)
    stand.aim(RED, ceiling=8960)
    stand.wires.sent.clear()
    stand.turn()
    assert stand.wires.sent == [("mfwg00", 8960)]


def test_an_answer_counts_for_the_size_that_was_asked() -> None:
    """The promise grows while a probe is out: that it comes back says nothing of more."""
    stand = Stand(RED)
    stand.wires.carries["mfwg00"] = CEILING
    stand.turn()
    stand.aim(RED, ceiling=8960)
    stand.turn(MAX_DOUBTS + 1)
    assert stand.wires.told[-1] == (RED.path, FLOOR)


def test_others_have_their_turn_among_many_paths() -> None:
    many = [RED._replace(device=f"mfwg{number}") for number in range(5 * PATHS_AT_ONCE)]
    stand = Stand(*many)
    stand.wires.carries = {target.device: 9000 for target in many}
    assert len(list(stand.sizer.turn(stand.wires, 0.0))) == 5
    assert len(stand.wires.sent) == len(many)


def test_where_the_promise_is_the_least_there_is_nothing_to_find() -> None:
    stand = Stand(RED, ceiling=FLOOR)
    stand.wires.carries["mfwg00"] = 0
    stand.turn(30)
    assert (stand.wires.sent, stand.wires.told) == ([], [])


def test_what_an_earlier_run_found_is_in_force_while_more_is_tried() -> None:
    stand = Stand(RED)
    stand.sizer.resume(RED.path, CEILING, 1376)
    stand.turn(2)
    assert stand.wires.sent == [("mfwg00", CEILING)]
    assert stand.wires.told == [(RED.path, None)], "as it came back"


def test_what_an_earlier_run_found_waits_for_its_path() -> None:
    wires = Wires()
    sizer = Sizer(FLOOR, wires.look, wires.found)
    sizer.resume(RED.path, CEILING, 1376)
    list(sizer.turn(wires, 0.0))
    sizer.aim(lambda: (CEILING, []))
    list(sizer.turn(wires, 1.0))
    assert (wires.sent, wires.told) == ([], [])
    wires.carries["mfwg00"] = 1376
    sizer.aim(lambda: (CEILING, [RED]))
    for turn in range(2, 20):
        list(sizer.turn(wires, turn))
    assert (wires.sent[0], wires.told) == (("mfwg00", CEILING), [])


def test_what_cannot_be_sent_is_counted_and_tried_again() -> None:
    stand = Stand(RED)
    stand.wires.broken = True
    stand.turn(10)
    assert stand.sizer.failures == 10
    assert stand.wires.told == []
