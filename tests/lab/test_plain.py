"""A trusted segment without encryption: there alone, and between those alone who both say so.

iron ── up0 ── red, encryption off ── up1 ── gold      lead is in red too, and says that it encrypts
     ── up1 ── blue                ── up0 ──
"""

import signal
import socket
import struct
from collections.abc import Iterator

import pytest
from msgspec.structs import replace
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from meshfabric.compiler.plain import plain_vni
from meshfabric.lab import agents, measure, underlay
from meshfabric.lab.capture import capture
from meshfabric.lab.state import Lab
from meshfabric.lab.topology import read
from meshfabric.lab.underlay import port_name
from meshfabric.model.settings import DatapathSettings
from tests.features import requires
from tests.lab.places import opened, send_frame
from tests.lab.scrape import text_of
from tests.lab.small import said
from tests.lab.streams import Flow, flowing
from tests.lab.whole import (
    DRIFT,
    active,
    address,
    dropping,
    log_of,
    paths,
    put_right,
    raised_whole,
    resume,
    told,
    until,
    wait_whole,
)

pytestmark = requires("capabilities", "vxlan")

TEXT = f"""\
segments:
  - {{name: red, ipv4: 172.31.1.0/24, encryption: off}}
  - {{name: blue, ipv4: 172.31.2.0/24}}
nodes:
  - {{name: iron, uplinks: [{{name: up0, segment: red}}, {{name: up1, segment: blue, cost: 10}}]}}
  - {{name: gold, uplinks: [{{name: up0, segment: blue, cost: 10}}, {{name: up1, segment: red}}]}}
  - name: lead
    uplinks: [{{name: up0, segment: red, encryption: on}}, {{name: up1, segment: blue, cost: 10}}]
workloads:
  - {{name: web, node: iron}}
  - {{name: db, node: gold}}
  - {{name: lone, node: lead}}
{DRIFT}"""
ENCRYPTING = TEXT.replace("{name: up1, segment: red}", "{name: up1, segment: red, encryption: on}")
IRON_RED, GOLD_RED, LEAD_RED, NOBODY_RED = (f"172.31.1.{host}" for host in (11, 12, 13, 99))
PORT = DatapathSettings().plain_port
BURST = 20
TRANSFER_BYTES = 4 << 20
OPEN = [("mfpl01", "off"), ("mfwg10", "on"), ("mfwg01", "on")]
"""From iron to gold: in clear, by the other segment, and what encrypts on the same one."""


@pytest.fixture(scope="module")
def standing() -> Iterator[Lab]:
    with raised_whole(TEXT) as lab:
        yield lab


@pytest.fixture
def lab(standing: Lab) -> Lab:
    put_right(standing)
    until(lambda: in_clear(standing))
    return standing


def in_clear(lab: Lab) -> bool:
    """Whether iron and gold speak so with each other."""
    return sends_in_clear(lab, "iron", "gold") and sends_in_clear(lab, "gold", "iron")


def sends_in_clear(lab: Lab, node: str, far: str) -> bool:
    """Whether a node's traffic to another goes so, whatever the other's agent does."""
    return any(row["active"] and row["encryption"] == "off" for row in paths(lab, node, far))


def kinds(lab: Lab, node: str, far: str) -> list[tuple[str, str]]:
    return [(row["device"], row["encryption"]) for row in paths(lab, node, far)]


def forged(source: str, inner: str, to: str, vni: int) -> Packet:
    """A datagram of VXLAN-GPE to iron, with a packet from `inner` in it."""
    version = 6 if ":" in inner else 4
    head = struct.pack("!BxxBI", 0x0C, 1 if version == 4 else 2, vni << 8)  # VNI and next protocol are given
    packet = (IPv6 if version == 6 else IP)(src=inner, dst=to) / UDP(sport=1, dport=2) / Raw(b"forged")
    outer = Ether(dst="ff:ff:ff:ff:ff:ff") / IP(src=source, dst=IRON_RED) / UDP(sport=4000, dport=PORT)
    return outer / Raw(head + bytes(packet))


def to_iron(lab: Lab, frame: Packet) -> Packet:
    """The frame, to iron's own link address in red."""
    frame[Ether].dst = said(lab, "iron", "cat /sys/class/net/up0/address")
    return frame


@pytest.mark.parametrize("family", [4, 6])
def test_traffic_is_in_clear_on_the_trusted_segment_alone(lab: Lab, family: int) -> None:
    sink = address(lab, "gold/db", family)
    with capture(lab, "red") as red, capture(lab, "blue") as blue:
        assert measure.transfer(lab, "iron/web", "gold/db", sink, TRANSFER_BYTES)["intact"]
        until(lambda: blue.counts().encrypted)
        assert red.counts().plain > TRANSFER_BYTES >> 16
        assert (red.counts().fabric, blue.counts().fabric, blue.counts().plain) == (0, 0, 0)


@pytest.mark.parametrize("family", [4, 6])
def test_who_does_not_say_so_is_spoken_to_encrypted(lab: Lab, family: int) -> None:
    assert kinds(lab, "iron", "gold") == OPEN
    assert kinds(lab, "iron", "lead") == [("mfwg00", "on"), ("mfwg11", "on")]
    assert kinds(lab, "lead", "iron") == [("mfwg00", "on"), ("mfwg11", "on")]
    for source, sink in (("iron/web", "lead/lone"), ("lead/lone", "gold/db")):
        with capture(lab, "red") as red:
            before = red.counts().encrypted
            to = address(lab, sink, family)
            assert measure.transfer(lab, source, sink, to, TRANSFER_BYTES)["intact"]
            assert red.counts().encrypted - before > TRANSFER_BYTES >> 16
            assert red.counts().plain < TRANSFER_BYTES >> 16, "the probes of the others"


def test_it_is_told_wherever_one_looks(lab: Lab) -> None:
    assert told(lab, "iron")["encryption"] == {"off": [{"segment": "red", "uplink": "up0", "nodes": 1}]}
    assert told(lab, "lead")["encryption"] == {"off": []}
    status = said(lab, "iron", "meshfabric status")
    assert "OFF on segment red (up0), to 1 node" in status
    named = {line["event"]: line["detail"] for line in log_of(lab, "iron") if "event" in line}
    assert named["encryption off"].startswith("segment red (up0): ")
    assert named["in clear"] == "segment red (up0): gold"
    metrics = text_of(lab, "iron")
    assert 'meshfabric_path_encrypted{device="mfpl01",node="gold"} 0.0' in metrics
    assert 'meshfabric_path_encrypted{device="mfwg01",node="gold"} 1.0' in metrics


def test_a_cut_of_the_trusted_segment_is_taken_over_by_the_encrypted_one(lab: Lab) -> None:
    flows = Flow("iron/web", "gold/db"), Flow("gold/db", "iron/web", 6), Flow("iron", "gold/db", 4, "tcp")
    with flowing(lab, *flows) as streams:
        until(streams.all_pass)
        underlay.cut(lab, "iron", "up0")
        until(lambda: active(lab, "iron", "gold") == "up1" and active(lab, "gold", "iron") == "up0")
        until(streams.all_came_back)
    print(*streams.datagrams, sep="\n")
    assert all(one.outage_ms > 0 for one in streams.datagrams)
    assert all(one.whole for one in streams.connections)
    with flowing(lab, *flows) as streams:
        until(streams.all_pass)
        underlay.heal(lab, "iron", "up0")
        until(lambda: in_clear(lab))
        wait_whole(lab)
    streams.assert_nothing_lost()


STRANGERS = {
    "from nobody's address": (NOBODY_RED, "gold/db", plain_vni(0, 1)),
    "from the uplink of another node": (LEAD_RED, "gold/db", plain_vni(0, 1)),
    "by a node that encrypts": (LEAD_RED, "lead/lone", plain_vni(0, 1)),
    "as one of iron's own": (GOLD_RED, "iron", plain_vni(0, 1)),
}


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("name", STRANGERS)
def test_what_a_stranger_says_on_the_segment_is_dropped_and_counted(lab: Lab, name: str, family: int) -> None:
    source, inner, vni = STRANGERS[name]
    frame = to_iron(lab, forged(source, address(lab, inner, family), address(lab, "iron/web", family), vni))
    reason = "spoofed_source" if inner == "iron" else "stranger"
    with dropping(lab, "iron", reason, BURST):
        send_frame(lab, "underlay", port_name(lab.topology, "iron", 0), frame, BURST)


def test_what_comes_by_the_other_segment_is_dropped_though_it_bears_the_right_address(lab: Lab) -> None:
    frame = forged(GOLD_RED, address(lab, "gold/db"), address(lab, "iron/web"), plain_vni(0, 1))
    frame[Ether].dst = said(lab, "iron", "cat /sys/class/net/up1/address")
    with dropping(lab, "iron", "wrong_uplink", BURST):
        send_frame(lab, "underlay", port_name(lab.topology, "iron", 1), frame, BURST)


def test_nobody_else_on_the_node_can_speak_for_it(lab: Lab) -> None:
    """Without any right, a process there could send under the node's address."""
    frame = forged(GOLD_RED, address(lab, "gold/db"), address(lab, "iron/web"), plain_vni(0, 1))
    with opened(lab, "gold", 4, socket.SOCK_DGRAM) as link, dropping(lab, "gold", "not_from_fabric", 1):
        try:
            link.sendto(bytes(frame[Raw]), (IRON_RED, PORT))
        except OSError as error:
            print(error)  # the kernel may tell of a drop at egress


def test_an_agent_that_ends_and_starts_again_loses_nothing(lab: Lab) -> None:
    flows = Flow("iron/web", "gold/db"), Flow("gold/db", "iron/web", 6), Flow("iron", "gold", 4)
    with flowing(lab, *flows) as streams:
        until(streams.all_pass)
        for told_to in (signal.SIGTERM, signal.SIGKILL):
            agents.kill_agent(lab, "iron", told_to)
            assert sends_in_clear(lab, "gold", "iron")
            resume(lab, "iron")
            wait_whole(lab)
            until(lambda: in_clear(lab))
    streams.assert_nothing_lost()


def test_a_node_is_encrypted_to_as_soon_as_it_says_so(lab: Lab) -> None:
    """And in clear again when it does not; nothing is lost when clear text begins."""
    encrypting = replace(lab, topology=read(ENCRYPTING, "test.yaml"))
    with flowing(lab, Flow("iron/web", "gold/db"), Flow("gold/db", "iron/web", 6)) as streams:
        until(streams.all_pass)
        restart(encrypting, "gold")
        until(lambda: kinds(lab, "iron", "gold") == [("mfwg01", "on"), ("mfwg10", "on")])
        assert "mfpl" not in said(lab, "gold", "ip -br link")
        until(streams.all_pass)
    with flowing(lab, Flow("iron/web", "gold/db"), Flow("gold/db", "iron/web", 6)) as streams:
        until(streams.all_pass)
        restart(lab, "gold")
        until(lambda: in_clear(lab))
        wait_whole(lab)
    streams.assert_nothing_lost()


def restart(lab: Lab, node: str) -> None:
    """The agent of a node, with the file that the lab's description gives it."""
    agents.kill_agent(lab, node, signal.SIGTERM)
    until(lambda: lab.process(agents.ROLE, node) is None)
    resume(lab, node)
