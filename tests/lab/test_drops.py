"""What the datapath lets nobody do, whatever policies say; each drop is counted under its name."""

import pytest
from scapy.layers.inet import ICMP, IP
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from meshfabric.lab import build
from meshfabric.lab.state import Lab
from meshfabric.lab.workloads import DEVICE
from tests.features import requires
from tests.lab.places import SILENCE_S, Packets, ping, send_frame
from tests.lab.whole import address, dropping, drops, told, until

pytestmark = requires("capabilities")

GATEWAY_MAC = "02:6d:66:00:00:01"
BURST = 20
FAMILIES = pytest.mark.parametrize("family", [4, 6])
SENDERS = pytest.mark.parametrize("source", ["kube1/web", "vm1/guest1"])


def framed(packet: Packet) -> Packet:
    """As a pod sends it: to the gateway."""
    return Ether(dst=GATEWAY_MAC) / packet


@FAMILIES
@SENDERS
def test_another_workloads_address_is_nobodys_to_use(fabric: Lab, source: str, family: int) -> None:
    """That of a neighbour on the node, of a pod elsewhere, and of the node itself."""
    node, sink = source.split("/")[0], address(fabric, "kube2/db", family)
    for other in ("kube1/client", "kube2/cache", node):
        spoofed = address(fabric, other, family)
        with dropping(fabric, node, "spoofed_source"):
            assert ping(fabric, source, sink, source=spoofed, answer_s=SILENCE_S) is None, other
    assert ping(fabric, source, sink) is not None


@FAMILIES
def test_an_address_from_outside_the_fabric_is_nobodys_either(fabric: Lab, family: int) -> None:
    stranger = "2001:db8::7" if family == 6 else "198.51.100.7"
    sink = address(fabric, "kube2/db", family)
    with dropping(fabric, "kube1", "spoofed_source"):
        assert ping(fabric, "kube1/web", sink, source=stranger, answer_s=SILENCE_S) is None


@FAMILIES
def test_a_packet_at_the_end_of_its_life_is_not_delivered(fabric: Lab, family: int) -> None:
    """Counted on the sender's node, which tells him: the fabric is one hop."""
    for sink in ("kube2/db", "kube1/client"):
        to = address(fabric, sink, family)
        with dropping(fabric, "kube1", "ttl_expired"):
            assert ping(fabric, "kube1/web", to, Packets(hops=1), answer_s=SILENCE_S) is None
        assert ping(fabric, "kube1/web", to, Packets(hops=2)) is not None


@FAMILIES
def test_an_address_that_nobody_holds_is_no_route(fabric: Lab, family: int) -> None:
    nobody = "fd6d:6600:0:4::99" if family == 6 else "10.64.4.99"
    with dropping(fabric, "kube1", "no_route"):
        assert ping(fabric, "kube1/web", nobody, answer_s=SILENCE_S) is None


def test_what_is_cut_short_or_no_ip_at_all_is_malformed_or_not_ip(fabric: Lab) -> None:
    near, far = address(fabric, "kube1/web"), address(fabric, "kube2/db")
    lying = framed(IP(src=near, dst=far, len=1000) / ICMP() / Raw(b"short"))
    alien = Ether(dst=GATEWAY_MAC, type=0x88B5) / Raw(b"local experiment")
    for frame, reason in ((lying, "malformed"), (alien, "not_ip")):
        with dropping(fabric, "kube1", reason, BURST):
            send_frame(fabric, "kube1/web", DEVICE, frame, BURST)


def test_multicast_stays_on_its_link(fabric: Lab) -> None:
    before = drops(fabric, "kube1", "link_scope")
    group = framed(IP(src=address(fabric, "kube1/web"), dst="224.0.0.5") / ICMP())
    send_frame(fabric, "kube1/web", DEVICE, group, BURST)
    until(lambda: drops(fabric, "kube1", "link_scope") - before >= BURST)


def test_a_fragment_without_its_first_is_dropped(fabric: Lab) -> None:
    near, far = address(fabric, "kube1/web"), address(fabric, "kube2/db")
    later = framed(IP(src=near, dst=far, frag=100, id=4242, proto=17) / Raw(bytes(64)))
    with dropping(fabric, "kube1", "fragment", BURST):
        send_frame(fabric, "kube1/web", DEVICE, later, BURST)


@FAMILIES
def test_who_does_not_keep_to_the_mtu_is_not_heard(fabric: Lab, family: int) -> None:
    """A guest is told its MTU, and may set another one; the receiver's device could not take that."""
    to = address(fabric, "vm1", family)
    try:
        set_guest_mtu(fabric, 1500)
        with dropping(fabric, "vm1", "too_big"):
            assert ping(fabric, "vm1/guest1", to, Packets(1400, whole=True), answer_s=SILENCE_S) is None
    finally:
        set_guest_mtu(fabric, told(fabric, "vm1")["mtu"])
    assert ping(fabric, "vm1/guest1", to, Packets(1300, whole=True)) is not None


def set_guest_mtu(lab: Lab, mtu: int) -> None:
    done = build.run(lab, "vm1/guest1", ["ip", "link", "set", DEVICE, "mtu", str(mtu)])
    assert done.returncode == 0, done.stderr


def test_nobody_else_speaks_into_a_workload_or_a_tunnel(fabric: Lab) -> None:
    """Packets that did not come by the fabric's programs, put on the devices by the node itself."""
    packet = IP(src=address(fabric, "kube2/db"), dst=address(fabric, "kube1/web")) / ICMP()
    attached = fabric.attached("web")
    assert attached is not None
    for device, frame in ((attached.device, framed(packet)), ("mfwg00", packet)):
        with dropping(fabric, "kube1", "not_from_fabric", BURST):
            send_frame(fabric, "kube1", device, frame, BURST)
