"""From workloads to the world and back, under the node's address: each packet beside one made anew."""

from collections.abc import Callable

import pytest

from meshfabric.model.tables import Reason
from tests.packet.frames import ECHO_ID, FROM_PORT, V4, V6, echo, frame, tcp, udp
from tests.packet.oracle import NEXT, REDIRECT, SHOT
from tests.packet.outside import NODE, RANGE, REMOTE, open_to_world, translations
from tests.packet.rig import Rig, Run
from tests.packet.world import ALPHA, World, standard

WORLD, LOCAL = Reason.FORWARDED_TO_WORLD, Reason.FORWARDED_TO_LOCAL
FAMILIES = pytest.mark.parametrize("family", [V4, V6], ids=["v4", "v6"])
LINK = 14
Ask = Callable[..., bytes]


def _tcp(source: str, destination: str, **rest: int) -> bytes:
    return tcp(source, destination, rest.pop("port", 443), "S", **rest)


def _udp(source: str, destination: str, **rest: int) -> bytes:
    return udp(source, destination, rest.pop("port", 53), 100, **rest)


def _echo(source: str, destination: str, **rest: int) -> bytes:
    rest.pop("port", 0)
    return echo(
        source, destination, rest.pop("family"), identifier=rest.pop("sport", ECHO_ID), size=5, **rest
    )


def _tcp_answer(source: str, destination: str, to: int, **rest: int) -> bytes:
    return tcp(source, destination, to, "SA", sport=443, size=30, **rest)


def _udp_answer(source: str, destination: str, to: int, **rest: int) -> bytes:
    return udp(source, destination, to, 30, sport=53, **rest)


def _echo_answer(source: str, destination: str, to: int, **rest: int) -> bytes:
    return echo(source, destination, rest.pop("family"), reply=True, identifier=to, size=5, **rest)


KINDS: dict[str, tuple[Ask, Ask, int]] = {
    "tcp": (_tcp, _tcp_answer, FROM_PORT),
    "udp": (_udp, _udp_answer, FROM_PORT),
    "echo": (_echo, _echo_answer, ECHO_ID),
}
EACH_KIND = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def world(rig: Rig) -> World:
    """The standard world, open, with no flow yet."""
    made = open_to_world(standard())
    rig.reset(made)
    return made


def change(rig: Rig, world: World, edit: Callable[[World], object], *bumped: int) -> None:
    """As the agent does: entries first, generations last."""
    edit(world)
    rig.tables.write(world)
    world.bump(*bumped)
    rig.tables.write(world)


def guise_of(run: Run) -> int:
    """The port, or identifier, that the packet left with."""
    packet = run.packet[LINK:]
    at, protocol = (20, packet[9]) if packet[0] >> 4 == V4 else (40, packet[6])
    at += 4 if protocol in (1, 58) else 0
    return int.from_bytes(packet[at : at + 2], "big")


def leave(rig: Rig, packet: bytes, device: str = "mfp1", segment: int = 0) -> Run:
    return rig.run("from_workload", frame(packet), device, segment=segment)


def arrive(rig: Rig, packet: bytes, device: str = "up0") -> Run:
    return rig.run("from_uplink", frame(packet), device)


def left(run: Run) -> bool:
    return (run.action, run.reason, run.mark) == (REDIRECT, WORLD, 0)


def refused(run: Run, reason: Reason) -> bool:
    return (run.action, run.reason) == (SHOT, reason)


def ignored(run: Run, packet: bytes) -> bool:
    """It goes on to others, as it came."""
    return (run.action, run.counted, run.packet) == (NEXT, {}, frame(packet))


@FAMILIES
@EACH_KIND
def test_a_flow_leaves_as_the_node_and_its_answer_comes_back(
    rig: Rig, world: World, family: int, kind: str
) -> None:
    ask, answer, port = KINDS[kind]
    run = leave(rig, ask("alpha", REMOTE[family], family=family))
    assert left(run), run.counted
    guise = guise_of(run)
    assert guise in RANGE
    assert run.packet[LINK:] == ask(NODE[family], REMOTE[family], family=family, sport=guise, ttl=63)
    assert (rig.flow_count(), translations(rig)) == ((1, 0), (1, 0))
    back = arrive(rig, answer(REMOTE[family], NODE[family], guise, family=family))
    assert (back.action, back.reason) == (REDIRECT, LOCAL), back.counted
    assert back.packet[LINK:] == answer(REMOTE[family], "alpha", port, family=family, ttl=63)
    assert back.packet[:6].hex(":") == world.workloads[ALPHA].mac
    assert (rig.flow_count(), translations(rig)) == ((0, 1), (0, 1))
    again = leave(rig, ask("alpha", REMOTE[family], family=family))
    assert left(again)
    assert guise_of(again) == guise
