"""A pod floods a server with SYNs that are answered; another pod's connection goes on.

web --SYN, SYN, SYN ...--> client      client ──a connection in steady use── db
    \\__________ all on kube1 __________/                                     kube2
"""

import contextlib
import socket
import struct
from collections.abc import Iterator
from ipaddress import ip_address

from meshfabric.kernel import netns
from meshfabric.lab.state import Lab
from meshfabric.probe.packet import checksum
from tests.features import requires
from tests.lab.kernel import opened_map
from tests.lab.places import namespace
from tests.lab.streams import Flow, flowing
from tests.lab.whole import address, until

pytestmark = requires("capabilities")

NODE, FLOODER, SERVER = "kube1", "kube1/web", "kube1/client"
USED = Flow("kube1/client", "kube2/db", 4, "tcp")
PORTS = range(7200, 7204)
SOURCE_PORTS = range(1024, 61024)
"""Of each server port: 240,000 flows in all, more than both tables hold."""
NEW_FLOWS, FEW = 65536, 2000
TCP = 6
SYN, WORDS = 0x02, 5 << 4
_TCP = struct.Struct("!HHIIBBHHH")


def syn(pseudo: bytes, source_port: int, port: int) -> bytes:
    """A TCP segment of 20 bytes."""
    fields = (source_port, port, 1, 0, WORDS, SYN, 65535)
    return _TCP.pack(*fields, checksum(pseudo + _TCP.pack(*fields, 0, 0)), 0)


@contextlib.contextmanager
def listening(lab: Lab, where: str) -> Iterator[None]:
    """Somebody answers each SYN to `PORTS`."""
    to = address(lab, where)
    with contextlib.ExitStack() as stack:
        for port in PORTS:
            stack.enter_context(netns.run(namespace(lab, where), socket.create_server, (to, port)))
        yield


def flood(lab: Lab, source: str, sink: str) -> None:
    """A SYN from every port to every port."""
    ends = [ip_address(address(lab, place)).packed for place in (source, sink)]
    pseudo = b"".join(ends) + struct.pack("!HH", TCP, _TCP.size)
    raw = netns.run(namespace(lab, source), socket.socket, socket.AF_INET, socket.SOCK_RAW, TCP)
    with raw:
        raw.connect((address(lab, sink), 0))
        for port in PORTS:
            for source_port in SOURCE_PORTS:
                raw.send(syn(pseudo, source_port, port))


def held(lab: Lab, table: str) -> int:
    """How many flows a table of the node has."""
    with opened_map(lab, NODE, table) as flows:
        return len(list(flows.items()))


def test_a_connection_outlives_a_flood_that_is_answered(fabric: Lab) -> None:
    with listening(fabric, SERVER), flowing(fabric, USED) as streams:
        [used] = streams.connections
        until(lambda: used.heard > 0)
        flood(fabric, FLOODER, SERVER)
        assert held(fabric, "new_flows") > NEW_FLOWS // 2, "the flood was there"
        assert held(fabric, "flows") < FEW, "and went no further"
        so_far = used.heard
        until(lambda: used.heard > so_far)
    streams.assert_nothing_lost()
