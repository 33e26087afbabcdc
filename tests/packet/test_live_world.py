"""To the world and back, on the move: what sockets, neighbours and devices have to do with it.

    alpha (pod) ---+                           +-- up0 ==== eth0  the world, with sockets
                   +-- the node's programs ----+
    guest (TAP) ---+                           (mfhost1: the host's device, whose packets may be forwarded)

The pods' kernels leave checksums and segments to their devices, as programs in test-runs cannot.
"""

import contextlib
import hashlib
import os
import socket
import subprocess
import threading
from collections.abc import Iterator

import pytest

from meshfabric.kernel import links
from meshfabric.kernel.attach import attach, pin_name
from meshfabric.kernel.bpf import Direction
from meshfabric.model.tables import Direction as Way
from meshfabric.model.tables import Reason
from tests.packet import outside
from tests.packet import world as fabric
from tests.packet.arena import Namespace
from tests.packet.frames import V4, V6, address, frame, udp
from tests.packet.node import SOCKET, Node, ip
from tests.packet.outside import NODE, RANGE, REMOTE, ROUTER, open_to_world
from tests.packet.world import Rule
from tests.patience import DEADLINE_S, until

FAMILIES = pytest.mark.parametrize("family", [V4, V6], ids=["v4", "v6"])
PORT, LENGTH = {V4: "24", V6: "64"}, 2 << 20
SERVICE = 7007
OWN_PORT = 40007


@pytest.fixture(scope="module")
def world(built: Node) -> Iterator[Namespace]:
    """What is outside, joined to the node."""
    made = Namespace()
    built.place.run(links.ensure_veth, "up0", "eth0", made.netns)
    built.place.run(links.ensure_veth, "mfhost1", "mfhost0")
    for family in (V4, V6):
        nodad = " nodad" if family == V6 else ""
        ip(made, f"-{family} addr add {ROUTER[family]}/{PORT[family]} dev eth0{nodad}")
        ip(made, f"-{family} addr add {REMOTE[family]} dev lo")
        ip(built.place, f"-{family} addr add {NODE[family]}/{PORT[family]} dev up0{nodad}")
    ip(made, "link set eth0 up")
    for device in ("up0", "mfhost0", "mfhost1"):
        built.place.run(links.set_up, device)
    for family in (V4, V6):
        ip(built.place, f"-{family} route add default via {ROUTER[family]}")
    built.place.run(links.ensure_sysctls, "mfhost1", links.HOST_SYSCTLS)
    for device in ("up0", "mfhost1"):
        found = built.place.run(links.find, device)
        assert found is not None
        built.ifindex[device] = found.index
    for program, direction in (("from_uplink", Direction.INGRESS), ("to_uplink", Direction.EGRESS)):
        pin = built.place.pins / "links" / pin_name("up0", direction)
        built.place.run(attach, built.datapath.programs[program], built.ifindex["up0"], direction, pin)
    yield made
    made.close()


@pytest.fixture
def abroad(world: Namespace, node: Node) -> Namespace:
    """As if nothing had been said; alpha and guest may speak to the world."""
    open_to_world(node.world)
    node.world.rules.append(Rule(fabric.ID_GUEST, outside.ANY_WORLD, Way.EGRESS))
    node.tables.write(node.world)
    for name in ("nat", "new_nat"):
        node.datapath.maps[name].delete_batch(list(node.datapath.maps[name].keys()))
    return world


def listening(where: Namespace, family: int, kind: int) -> socket.socket:
    """A socket of the world's, bound to the service."""

    def make() -> socket.socket:
        made = socket.socket(SOCKET[family], kind)
        made.settimeout(DEADLINE_S)
        made.bind((REMOTE[family], SERVICE))
        if kind == socket.SOCK_STREAM:
            made.listen()
        return made

    return where.run(make)


@FAMILIES
def test_a_datagram_and_its_answer(node: Node, abroad: Namespace, family: int) -> None:
    with node.udp("alpha", family, 40000) as alpha, listening(abroad, family, socket.SOCK_DGRAM) as far:
        for size in (1, 1000):
            question = os.urandom(size)
            alpha.sendto(question, (REMOTE[family], SERVICE))
            data, sender, *_ = far.recvfrom(10000)
            assert data == question
            assert (sender[0], sender[1] in RANGE) == (NODE[family], True)
            far.sendto(question[::-1], sender)
            assert alpha.recv(10000) == question[::-1]
    assert node.count(Reason.CLEAR_EGRESS) == 0


@FAMILIES
def test_pieces_that_are_too_large_for_the_workload_are_cut_smaller_the_next_time(
    node: Node, abroad: Namespace, family: int
) -> None:
    """The world sends them by its own MTU until it is told."""
    told = node.count(Reason.TOO_BIG_TOLD)
    with node.udp("alpha", family, 40000) as alpha, listening(abroad, family, socket.SOCK_DGRAM) as far:
        alpha.sendto(bytes(5000), (REMOTE[family], SERVICE))
        data, sender, *_ = far.recvfrom(10000)
        assert len(data) == 5000
        far.sendto(data, sender)
        until(lambda: node.count(Reason.TOO_BIG_TOLD) > told)
        until(lambda: _hears(alpha, far, sender, data))


def _hears(alpha: socket.socket, far: socket.socket, sender: tuple[str, int], data: bytes) -> bool:
    with contextlib.suppress(OSError):  # of what it has been told just now
        far.sendto(data, sender)
    alpha.settimeout(0.2)
    try:
        return alpha.recv(10000) == data
    except TimeoutError:
        return False


@FAMILIES
def test_megabytes_there_and_back(node: Node, abroad: Namespace, family: int) -> None:
    """In segments that devices cut and sum up."""
    body = os.urandom(LENGTH)
    heard: list[str] = []

    def serve() -> None:
        with listening(abroad, family, socket.SOCK_STREAM) as far:
            ready.set()
            link, _ = far.accept()
            with link:
                heard.append(hashlib.sha256(_all_of(link)).hexdigest())
                link.sendall(body)

    ready = threading.Event()
    thread = threading.Thread(target=serve)
    thread.start()
    ready.wait(DEADLINE_S)
    with node.pods["alpha"].run(socket.socket, SOCKET[family], socket.SOCK_STREAM) as near:
        near.settimeout(DEADLINE_S)
        near.connect((REMOTE[family], SERVICE))
        near.sendall(body)
        near.shutdown(socket.SHUT_WR)
        assert _all_of(near) == body
    thread.join(DEADLINE_S)
    assert heard == [hashlib.sha256(body).hexdigest()]


def _all_of(link: socket.socket) -> bytes:
    """Up to the end that the other side sets."""
    link.settimeout(DEADLINE_S)
    parts = []
    while part := link.recv(1 << 20):
        parts.append(part)
    return b"".join(parts)


@FAMILIES
def test_an_echo(node: Node, abroad: Namespace, family: int) -> None:
    argv = ["ping", "-n", "-q", "-c", "2", "-i", "0.05", "-W", f"{DEADLINE_S:g}", "-s", "900", REMOTE[family]]
    done = node.pods["alpha"].run(subprocess.run, argv, capture_output=True, text=True)
    assert ", 0% packet loss" in done.stdout, done.stdout + done.stderr


@FAMILIES
def test_nobody_listens_and_alpha_is_told(node: Node, abroad: Namespace, family: int) -> None:
    with node.udp("alpha", family, 40000) as alpha:
        alpha.connect((REMOTE[family], SERVICE + 1))
        alpha.send(b"anybody?")
        with pytest.raises(ConnectionRefusedError):
            alpha.recv(10)


@FAMILIES
def test_a_guest_behind_its_tap(node: Node, abroad: Namespace, family: int) -> None:
    with listening(abroad, family, socket.SOCK_DGRAM) as far:
        node.guest.write(frame(udp("guest", REMOTE[family], SERVICE, 9, family=family)))
        data, sender, *_ = far.recvfrom(100)
        assert data == bytes(range(9))
        assert sender[0] == NODE[family]
        far.sendto(b"answer", sender)
        heard = node.guest.read()
        assert heard.endswith(b"answer")
        assert socket.inet_pton(SOCKET[family], address("guest", family)) in heard


@FAMILIES
def test_the_node_itself_speaks_with_the_world_as_before(node: Node, abroad: Namespace, family: int) -> None:
    """By sockets of its own, whose ports are others."""
    near = node.place.run(socket.socket, SOCKET[family], socket.SOCK_DGRAM)
    with near, listening(abroad, family, socket.SOCK_DGRAM) as far:
        near.bind(("", OWN_PORT))  # and no tunnel's, from which an agent keeps sockets
        near.settimeout(DEADLINE_S)
        near.sendto(b"question", (REMOTE[family], SERVICE))
        _, sender, *_ = far.recvfrom(100)
        far.sendto(b"answer", sender)
        assert near.recv(100) == b"answer"
