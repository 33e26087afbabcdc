"""The ways in which a segment fails, each made and undone between the two nodes of a running lab.

    node one ── n0u0 ── bridge red ── n1u0 ── node two

    silent  the bridge's port to node one takes and gives nothing; carriers stay up
    oneway  what node one sends is dropped where it enters the bridge
    down    the far end of node one's link goes down: it loses its carrier, node two sees nothing
    loss    30% of the frames are lost, each way
    delay   frames take 200 ms longer, each way
    back    a silent failure is over: traffic goes back, from one good segment to another

`lab.impair` does loss and delay: netem, or a cable of its own where the kernel has
none. Which segment carries what is told by frames that its ports gave to the nodes.
"""

import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from bench import cell
from meshfabric.kernel import attach, netns
from meshfabric.kernel.bpf import Direction, Program
from meshfabric.lab import impair, underlay
from meshfabric.lab.impairment import NONE, Impairment
from meshfabric.lab.state import Lab
from meshfabric.model.errors import TemporaryError

NODES = ("one", "two")
RED, UPLINK = "red", "up0"
LOSS, DELAY = Impairment(loss_percent=30), Impairment(delay_ms=200)
SETTLED_SHARE = 0.8
"""Of all frames that come to a node, with probes and hellos on the other segment."""
SETTLED_FRAMES = 50
"""In each look, of a hundred datagrams."""
LOOK_S, LOOKS = 0.1, 5
_TX_PACKETS = 9  # in /proc/net/dev: 8 columns of what was received, then bytes, packets ... sent
_DROP = struct.pack("=BBhiBBhi", 0xB7, 0, 0, 2, 0x95, 0, 0, 0)  # return TC_ACT_SHOT (linux/pkt_cls.h)


class Failure(NamedTuple):
    """`make` it and undo it; `back` is one whose end is what is watched."""

    title: str
    make: Callable[[Lab], object]
    undo: Callable[[Lab], object]
    back: bool = False


def _cut(lab: Lab) -> None:
    underlay.cut(lab, NODES[0], UPLINK)


def _heal(lab: Lab) -> None:
    underlay.heal(lab, NODES[0], UPLINK)


def _drop_one_way(lab: Lab) -> None:
    pin = _pin(lab)
    pin.parent.mkdir(parents=True, exist_ok=True)
    netns.run(_namespace(lab), _attach_drop, _port(lab), pin)


def _attach_drop(port: str, pin: Path) -> None:
    index = socket.if_nametoindex(port)
    with Program.load(_DROP) as program:
        attach.attach(program, index, Direction.INGRESS, pin)


def _pass_one_way(lab: Lab) -> None:
    netns.run(_namespace(lab), attach.detach, _pin(lab))


def _unplug(lab: Lab) -> None:
    underlay.ip(lab.init, [f"link set {_port(lab)} down"])


def _plug(lab: Lab) -> None:
    underlay.ip(lab.init, [f"link set {_port(lab)} up"])


FAILURES = {
    "silent": Failure("silent, both ways", _cut, _heal),
    "oneway": Failure("silent, one way", _drop_one_way, _pass_one_way),
    "down": Failure("link down", _unplug, _plug),
    "loss": Failure(
        "30% lost", lambda lab: impair.impair(lab, RED, LOSS), lambda lab: impair.impair(lab, RED, NONE)
    ),
    "delay": Failure(
        "200 ms longer", lambda lab: impair.impair(lab, RED, DELAY), lambda lab: impair.impair(lab, RED, NONE)
    ),
    "back": Failure("back again", _cut, _heal, back=True),
}


def wait_settled(lab: Lab, timeout_s: float) -> None:
    """Until the traffic that flows goes by the preferred segment both ways, and has for half a second.

    Raises `TemporaryError` in time.
    """
    deadline, steady = time.monotonic() + timeout_s, 0
    before = _given(lab)
    while steady < LOOKS:
        if time.monotonic() > deadline:
            raise TemporaryError(f"traffic does not go by {RED}", place=lab.name)
        time.sleep(LOOK_S)
        now = _given(lab)
        steady = steady + 1 if all(map(_is_settled, before, now)) else 0
        before = now


def _is_settled(before: tuple[int, int], now: tuple[int, int]) -> bool:
    preferred, other = (late - early for early, late in zip(before, now, strict=True))
    return preferred >= SETTLED_FRAMES and preferred >= SETTLED_SHARE * (preferred + other)


def _given(lab: Lab) -> list[tuple[int, int]]:
    """For each node the frames that it got so far: by the preferred uplink, by the other."""
    lines = Path(f"/proc/{lab.init.pid}/net/dev").read_text().splitlines()
    rows = {name.strip(): words.split() for name, _, words in (line.partition(":") for line in lines)}
    ports = [[underlay.port_name(lab.topology, node, slot) for slot in (0, 1)] for node in NODES]
    return [(int(rows[red][_TX_PACKETS]), int(rows[blue][_TX_PACKETS])) for red, blue in ports]


def _port(lab: Lab) -> str:
    return underlay.port_name(lab.topology, NODES[0], 0)


def _pin(lab: Lab) -> Path:
    """In the cell's bpffs."""
    return cell.BPFFS / lab.name / "links" / attach.pin_name(_port(lab), Direction.INGRESS)


def _namespace(lab: Lab) -> Path:
    return Path(f"/proc/{lab.init.pid}/ns/net")
