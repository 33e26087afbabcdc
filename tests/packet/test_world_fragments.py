"""Pieces of datagrams, to the world and back: put together they are what was meant, checksum and all."""

import pytest
from scapy.layers.inet import IP
from scapy.layers.inet import fragment as cut4
from scapy.layers.inet6 import UDP, IPv6, IPv6ExtHdrFragment
from scapy.layers.inet6 import fragment6 as cut6
from scapy.packet import Raw

from meshfabric.model.tables import Reason
from tests.packet.abroad import FAMILIES, LINK, arrive, delivered, ignored, leave, left, refused
from tests.packet.frames import FROM_PORT, V4, address
from tests.packet.outside import NODE, RANGE, REMOTE
from tests.packet.rig import Rig
from tests.packet.world import World

PIECE = 800
BODY = bytes(index % 251 for index in range(2000))


def pieces(source: str, destination: str, family: int, ttl: int = 64, **ports: int) -> list[bytes]:
    """A datagram of BODY, in several."""
    ends = {"src": address(source, family), "dst": address(destination, family)}
    if family == V4:
        whole = IP(**ends, id=77, ttl=ttl) / UDP(**ports) / Raw(BODY)
        return [bytes(piece) for piece in cut4(IP(bytes(whole)), PIECE)]
    whole = IPv6(**ends, hlim=ttl) / UDP(**ports) / Raw(BODY)
    head = IPv6(**ends, hlim=ttl) / IPv6ExtHdrFragment(id=77) / IPv6(bytes(whole))[UDP]
    return [bytes(piece) for piece in cut6(head, PIECE + 100)]


@FAMILIES
def test_a_datagram_in_pieces_leaves_and_is_answered_in_pieces(rig: Rig, abroad: World, family: int) -> None:
    asked = pieces("alpha", REMOTE[family], family, sport=FROM_PORT, dport=53)
    runs = [leave(rig, piece) for piece in asked]
    assert len(runs) > 2
    assert all(map(left, runs)), [run.counted for run in runs]
    ports = runs[0].packet[LINK + (20 if family == V4 else 48) :]
    guise = int.from_bytes(ports[:2], "big")
    assert guise in RANGE
    meant = pieces(NODE[family], REMOTE[family], family, 63, sport=guise, dport=53)
    assert [run.packet[LINK:] for run in runs] == meant
    answers = pieces(REMOTE[family], NODE[family], family, sport=53, dport=guise)
    heard = pieces(REMOTE[family], "alpha", family, 63, sport=53, dport=FROM_PORT)
    assert [delivered(arrive(rig, piece)) for piece in answers] == heard


@FAMILIES
def test_a_piece_that_overtakes_its_first_goes_nowhere(rig: Rig, abroad: World, family: int) -> None:
    first, later, *_ = pieces("alpha", REMOTE[family], family, sport=FROM_PORT, dport=53)
    assert refused(leave(rig, later), Reason.FRAGMENT)
    run = leave(rig, first)
    assert left(run)
    ports = run.packet[LINK + (20 if family == V4 else 48) :]
    guise = int.from_bytes(ports[:2], "big")
    _, later, *_ = pieces(REMOTE[family], NODE[family], family, sport=53, dport=guise)
    assert ignored(arrive(rig, later), later), "the host's stack cannot know either"


@pytest.mark.parametrize("port", [53, 22])
@FAMILIES
def test_pieces_for_the_node_itself_are_none_of_ours(rig: Rig, abroad: World, family: int, port: int) -> None:
    for piece in pieces(REMOTE[family], NODE[family], family, sport=53, dport=port):
        assert ignored(arrive(rig, piece), piece)
