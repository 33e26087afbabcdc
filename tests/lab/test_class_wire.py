"""What classes do to encrypted packets: their DSCP, and the rate at which they leave.

pear ── up0 (10 Mbit/s) ── red ── up0 ── plum
plain, slow                              db
"""

import contextlib
import socket
import sys
from collections import Counter
from collections.abc import Iterator

import pytest

from meshfabric.kernel import netns
from meshfabric.lab import build, frames, measure
from meshfabric.lab.capture import attach_filter
from meshfabric.lab.state import Lab
from meshfabric.lab.underlay import port_name
from meshfabric.model.qos import BUILT_IN, BULK, CONTROL, DEFAULT
from tests.features import requires
from tests.lab.places import namespace
from tests.lab.whole import DRIFT, address, raised_whole, wait_whole
from tests.patience import DEADLINE_S

pytestmark = requires("capabilities", "wireguard", "fq")

ETH_P_ALL = 0x0003
TEXT = f"""\
segments: [{{name: red, ipv4: 172.31.1.0/24}}]
nodes:
  - {{name: pear, wireguard: kernel, uplinks: [{{name: up0, segment: red, capacity: 10}}]}}
  - {{name: plum, wireguard: kernel, uplinks: [{{name: up0, segment: red, capacity: 10}}]}}
workloads:
  - {{name: plain, node: pear}}
  - {{name: slow, node: pear, labels: {{traffic-class: bulk}}}}
  - {{name: db, node: plum}}
{DRIFT}"""
MOST_MBIT = 4
CLASSES = f"name: bulk\nuplink: {{max: {MOST_MBIT}mbit}}\n"
DSCP = {name: one.dscp for name, one in BUILT_IN.items()}
FEW_BYTES, MANY_BYTES = 32 << 10, 4 << 20
PAYLOAD = 0.89
"""Of what the wire carries is the stream's own, in packets of the full MTU."""
TOLERANCE = 0.05


@pytest.fixture(scope="module")
def scheduled() -> Iterator[Lab]:
    with raised_whole(TEXT) as lab:
        wait_whole(lab)
        command = [sys.executable, "-m", "meshfabric", "class", "apply", "--wait", "-"]
        done = build.run(lab, "pear", command, stdin=CLASSES, timeout_s=4 * DEADLINE_S)
        assert done.returncode == 0, done.stderr
        yield lab


@contextlib.contextmanager
def marks(lab: Lab, node: str) -> Iterator[Counter[int]]:
    """The DSCPs of what a node sends encrypted by its first uplink, counted when the context ends."""
    counted: Counter[int] = Counter()
    with netns.run(namespace(lab, "underlay"), socket.socket, socket.AF_PACKET, socket.SOCK_RAW) as tap:
        attach_filter(tap, frames.wireguard_data())
        tap.bind((port_name(lab.topology, node, 0), ETH_P_ALL))
        yield counted
        tap.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                frame, (_, _, kind, *_) = tap.recvfrom(64)
                if kind != socket.PACKET_OUTGOING:
                    counted[frame[15] >> 2] += 1


def sent(lab: Lab, source: str, size: int) -> float:
    """Mbit/s of a stream from a workload of pear's to plum's."""
    done = measure.transfer(lab, source, "plum/db", address(lab, "plum/db"), size)
    assert done["intact"]
    return float(done["mbit_s"])


@pytest.mark.parametrize(("source", "name"), [("pear/plain", DEFAULT), ("pear/slow", BULK)])
def test_encrypted_packets_have_the_dscp_of_their_class(scheduled: Lab, source: str, name: str) -> None:
    with marks(scheduled, "pear") as seen:
        sent(scheduled, source, FEW_BYTES)
    assert seen[DSCP[name]] > FEW_BYTES // 1500, seen
    assert set(seen) <= {DSCP[name], DSCP[CONTROL], DSCP[DEFAULT]}
    assert seen[DSCP[CONTROL]], "the probes' own"


def test_a_class_takes_its_most_and_no_more(scheduled: Lab) -> None:
    speed = sent(scheduled, "pear/slow", MANY_BYTES)
    assert speed == pytest.approx(MOST_MBIT * PAYLOAD, rel=TOLERANCE)


def test_all_together_take_no_more_than_the_uplink_carries(scheduled: Lab) -> None:
    capacity = scheduled.topology.nodes[0].uplinks[0].capacity
    speed = sent(scheduled, "pear/plain", 2 * MANY_BYTES)
    assert speed == pytest.approx(capacity * PAYLOAD, rel=TOLERANCE)
