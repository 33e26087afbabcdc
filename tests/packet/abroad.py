"""Conversations with the world, as the tests lead them: what is asked, answered, and made of it."""

from collections.abc import Callable
from typing import Any

import pytest

from meshfabric.kernel import links
from meshfabric.model.tables import Reason
from tests.packet.frames import ECHO_ID, FROM_PORT, V4, V6, echo, frame, tcp, udp
from tests.packet.oracle import NEXT, REDIRECT, SHOT
from tests.packet.outside import RANGE
from tests.packet.rig import Rig, Run
from tests.packet.world import World

WORLD, LOCAL = Reason.FORWARDED_TO_WORLD, Reason.FORWARDED_TO_LOCAL
FAMILIES = pytest.mark.parametrize("family", [V4, V6], ids=["v4", "v6"])
LINK = 14
Ask = Callable[..., bytes]


def _tcp(source: str, destination: str, **rest: Any) -> bytes:
    return tcp(source, destination, 443, **rest)


def _udp(source: str, destination: str, **rest: Any) -> bytes:
    return udp(source, destination, 53, 100, **rest)


def _echo(source: str, destination: str, sport: int = ECHO_ID, **rest: Any) -> bytes:
    return echo(source, destination, identifier=sport, size=5, **rest)


def _tcp_answer(source: str, destination: str, to: int, **rest: Any) -> bytes:
    return tcp(source, destination, to, "SA", sport=443, size=30, **rest)


def _udp_answer(source: str, destination: str, to: int, **rest: Any) -> bytes:
    return udp(source, destination, to, 30, sport=53, **rest)


def _echo_answer(source: str, destination: str, to: int, **rest: Any) -> bytes:
    return echo(source, destination, reply=True, identifier=to, size=5, **rest)


KINDS: dict[str, tuple[Ask, Ask, int]] = {
    "tcp": (_tcp, _tcp_answer, FROM_PORT),
    "udp": (_udp, _udp_answer, FROM_PORT),
    "echo": (_echo, _echo_answer, ECHO_ID),
}
"""What is asked, what is answered, and the asking port (or identifier)."""
EACH_KIND = pytest.mark.parametrize("kind", KINDS)


def change(rig: Rig, world: World, edit: Callable[[World], object], *bumped: int) -> None:
    """As the agent does: entries first, generations last."""
    edit(world)
    rig.tables.write(world)
    world.bump(*bumped)
    rig.tables.write(world)


def guise_of(run: Run) -> int:
    """The port, or identifier, that the packet left with: one of the node's range."""
    assert left(run), run.counted
    packet = run.packet[LINK:]
    at, protocol = (20, packet[9]) if packet[0] >> 4 == V4 else (40, packet[6])
    at += 4 if protocol in (1, 58) else 0
    guise = int.from_bytes(packet[at : at + 2], "big")
    assert guise in RANGE
    return guise


def leave(rig: Rig, packet: bytes, device: str = "mfp1", segment: int = 0) -> Run:
    return rig.run("from_workload", frame(packet), device, segment=segment)


def arrive(rig: Rig, packet: bytes, device: str = "up0") -> Run:
    return rig.run("from_uplink", addressed(rig, packet, device), device)


def addressed(rig: Rig, packet: bytes, device: str = "up0") -> bytes:
    """As a frame for the uplink's own link address."""
    return bytes.fromhex(rig.arena.run(links.mac_of, device).replace(":", "")) + frame(packet)[6:]


def left(run: Run) -> bool:
    return (run.action, run.reason, run.mark) == (REDIRECT, WORLD, 0)


def delivered(run: Run) -> bytes:
    """The packet that the workload got."""
    assert (run.action, run.reason) == (REDIRECT, LOCAL), run.counted
    return run.packet[LINK:]


def refused(run: Run, reason: Reason) -> bool:
    return (run.action, run.reason) == (SHOT, reason)


def ignored(run: Run, packet: bytes) -> bool:
    """It goes on to others, as it came."""
    return (run.action, run.counted, run.packet[6:]) == (NEXT, {}, frame(packet)[6:])
