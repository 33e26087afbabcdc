"""Programs on devices, packets on the move: what a test-run cannot show.

All runs once for each kind of pair and each way to attach (`node`).
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import if_nametoindex

import pytest

from meshfabric.kernel.bpf import Direction, Link
from meshfabric.kernel.loader import load
from meshfabric.model.tables import Reason
from tests.features import requires
from tests.packet import world as fabric
from tests.packet.arena import compile_extra
from tests.packet.frames import POD_MAC, V4, V6, address, frame, tcp, udp
from tests.packet.node import PODS, TUNNELS, Node
from tests.packet.oracle import Oracle
from tests.packet.test_neighbour import _advertisement as advertisement
from tests.packet.test_neighbour import _request as arp_request
from tests.packet.test_neighbour import _solicitation as solicitation
from tests.patience import DEADLINE_S

FAMILIES = pytest.mark.parametrize("family", [V4, V6], ids=["v4", "v6"])
MINUTE_NS = 60 * 10**9
GUILE = Path(__file__).with_name("guile.bpf.c")
PORT = 0x1F00


def _until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.001)


@FAMILIES
def test_pod_to_pod_and_back(node: Node, family: int) -> None:
    """The first packet has the kernel ask for the gateway's link address."""
    with node.udp("alpha", family, 40000) as alpha, node.udp("beta", family, PORT) as beta:
        alpha.sendto(b"question", (address("beta", family), PORT))
        data, peer = beta.recvfrom(100)
        assert (data, peer[0]) == (b"question", address("alpha", family))
        beta.sendto(b"answer", peer)
        assert alpha.recv(100) == b"answer"
    assert (node.count(Reason.NEIGHBOUR_ANSWERED) > 0) is any(map(node.asks, PODS))


@FAMILIES
def test_pod_to_another_node_and_back(node: Node, family: int) -> None:
    far = address("far", family)
    with node.udp("alpha", family, 40000) as alpha:
        alpha.sendto(b"question", (far, 9))
        sent = node.tunnels["mfwg00"].read()
        assert sent[0] >> 4 == family
        assert sent.endswith(b"question")
        node.tunnels["mfwg00"].write(udp("far", "alpha", 40000, 5, sport=9, family=family))
        assert alpha.recv(100) == bytes(range(5))


def test_the_next_tunnel_takes_over(node: Node) -> None:
    with node.udp("alpha", V4, 40000) as alpha:
        for number, (silent, wanted) in enumerate(((False, "mfwg00"), (True, "mfwg01"), (False, "mfwg00"))):
            node.set_path(0, "mfwg00", time.monotonic_ns() - MINUTE_NS if silent else 0)
            alpha.sendto(bytes([number]), (address("far"), 9))
            assert node.tunnels[wanted].read()[-1] == number
    assert all(queue.is_empty() for queue in node.tunnels.values())


@FAMILIES
def test_a_guest_behind_its_tap(node: Node, family: int) -> None:
    with node.udp("alpha", family, 40000) as alpha:
        alpha.sendto(b"question", (address("guest", family), 53))
        data = node.guest.read()
        macs = (node.world.workloads[fabric.GUEST].mac + fabric.GATEWAY_MAC).replace(":", "")
        assert data[:12].hex() == macs
        assert data.endswith(b"question")
        node.guest.write(frame(udp("guest", "alpha", 40000, 3, sport=53, family=family)))
        assert alpha.recv(100) == bytes(range(3))


def test_a_guest_asks_for_the_gateway(node: Node) -> None:
    node.guest.write(arp_request())
    assert node.guest.read()[20:22] == b"\0\2"
    node.guest.write(solicitation())
    assert node.guest.read() == advertisement("fe80::aa", POD_MAC, 1)


def test_out_of_a_tunnel_to_a_guest(node: Node) -> None:
    node.tunnels["mfwg01"].write(udp("far", "guest", 53, 7))
    data = node.guest.read()
    wanted = Oracle(node.world).from_overlay(udp("far", "guest", 53, 7))
    assert data == wanted.packet


DROPPED: dict[str, tuple[bytes, Reason]] = {
    "a tag": (
        bytes.fromhex("026d6600000102aabbccddee81000005") + frame(udp("alpha", "beta", PORT))[12:],
        Reason.NOT_IP,
    ),
    "denied": (frame(tcp("alpha", "beta", 22)), Reason.POLICY_INGRESS),
    "spoofed": (frame(udp("far", "beta", PORT)), Reason.SPOOFED_SOURCE),
}


@pytest.mark.parametrize("name", DROPPED)
def test_what_a_pod_sends_and_nobody_gets(node: Node, name: str) -> None:
    data, reason = DROPPED[name]
    before = node.count(reason)
    with node.raw("alpha", "eth0") as wire:
        wire.send(data)
    _until(lambda: node.count(reason) == before + 1, f"{reason.name} is not counted")


@FAMILIES
def test_frames_too_short_for_their_header(node: Node, family: int) -> None:
    """A test-run wants more bytes than a wire brings."""
    whole = frame(udp("alpha", "beta", PORT, family=family))
    shorter = range(14, 14 + (20 if family == V4 else 40))
    before = node.count(Reason.MALFORMED)
    with node.raw("alpha", "eth0") as wire:
        for length in shorter:
            wire.send(whole[:length])
    _until(lambda: node.count(Reason.MALFORMED) == before + len(shorter), "some are not counted")


@requires("tcx")
def test_where_a_pod_says_that_its_header_begins_does_not_matter(node: Node, tmp_path: Path) -> None:
    """Judged is what follows the Ethernet header: that goes into the tunnel, or nothing does."""
    judged, hidden = udp("alpha", "far", 9), address("nobody")
    before = node.count(Reason.MALFORMED)
    with _guile(node, tmp_path, "shift", frame(judged)), node.udp("alpha", V4, 40000) as alpha:
        alpha.sendto(b"hidden", (hidden, 9))
        if node.kinds["alpha"].endswith("netkit"):
            _until(lambda: node.count(Reason.MALFORMED) == before + 1, "it is not counted")
            assert node.tunnels["mfwg00"].is_empty()
        else:
            assert node.tunnels["mfwg00"].read().startswith(judged)


@requires("tcx")
@FAMILIES
def test_a_tag_beside_the_frame_is_seen(node: Node, tmp_path: Path, family: int) -> None:
    before = node.count(Reason.NOT_IP)
    with _guile(node, tmp_path, "tag"), node.udp("alpha", family, 40000) as alpha:
        alpha.sendto(b"question", (address("far", family), 9))
        _until(lambda: node.count(Reason.NOT_IP) > before, "it is not counted")
    assert node.tunnels["mfwg00"].is_empty()


@contextmanager
def _guile(node: Node, folder: Path, name: str, front: bytes = bytes(42)) -> Iterator[None]:
    """This program of guile.bpf.c has its way with what alpha sends; `shift` puts `front` before it."""
    built = compile_extra(GUILE, folder)
    pod, out = node.pods["alpha"], Direction.EGRESS
    index = pod.run(if_nametoindex, "eth0")
    with (
        node.place.run(load, [built], node.place.pins / "guile", None, {"front": front}) as made,
        pod.run(Link.create, made.programs[name], index, out) as link,
    ):
        yield
        link.detach()


@pytest.mark.parametrize("device", ["mfp1", "mfp3", "mfwg00"])
def test_what_the_node_itself_sends_stays_out(node: Node, device: str) -> None:
    packet = udp("alpha", "guest", 53)
    data = packet if device in TUNNELS else frame(packet)
    before = node.count(Reason.NOT_FROM_FABRIC)
    with node.raw("the node", device) as wire, pytest.raises(OSError, match="No buffer space"):
        wire.send(data)
    assert node.count(Reason.NOT_FROM_FABRIC) > before
    assert node.guest.is_empty()
    assert node.tunnels["mfwg00"].is_empty()
