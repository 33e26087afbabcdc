"""Who cannot be reached directly is reached through a relay, which hands on what it cannot read.

left ── red ── near        gate is a relay for left, near and right, other for left and near
         ├──── other
         └──── gate ── blue ── right
"""

import contextlib
import signal
from collections.abc import Iterator

import pytest

from meshfabric.lab import agents, measure
from meshfabric.lab.state import Lab
from tests.features import requires
from tests.lab.losing import losing
from tests.lab.places import Echo, answers, connects, ping
from tests.lab.scrape import scraped
from tests.lab.streams import Flow, flowing
from tests.lab.whole import (
    DRIFT,
    address,
    listing,
    order,
    paths,
    raised_whole,
    resume,
    settle,
    told,
    until,
    wait_whole,
)
from tests.patience import PATIENCE

pytestmark = requires("capabilities", "nftables")

TEXT = f"""\
segments:
  - {{name: red, ipv4: 172.31.1.0/24}}
  - {{name: blue, ipv4: 172.31.2.0/24}}
nodes:
  - {{name: left, uplinks: [{{name: up0, segment: red}}], through: [gate, other]}}
  - {{name: near, uplinks: [{{name: up0, segment: red}}], through: [gate, other]}}
  - {{name: right, uplinks: [{{name: up0, segment: blue}}], through: [gate]}}
  - {{name: gate, uplinks: [{{name: up0, segment: red}}, {{name: up1, segment: blue}}], relay_mbit: 1000}}
  - {{name: other, uplinks: [{{name: up0, segment: red}}], relay_mbit: 1000}}
workloads:
  - {{name: web, node: left}}
  - {{name: cache, node: near}}
  - {{name: db, node: right}}
{DRIFT}"""
WEB, CACHE, DB = "left/web", "near/cache", "right/db"
FLOWS = (Flow(WEB, DB), Flow(DB, WEB, 6), Flow(WEB, DB, 6, "tcp"))
DRAINED = "this node: draining\nin force on 4 other nodes\n"
MEGABYTES = 4 << 20
GAP_MS = 1000 * PATIENCE
"""A bound for sanity; what is reached is printed."""


@pytest.fixture(scope="module")
def raised() -> Iterator[Lab]:
    with raised_whole(TEXT) as lab:
        yield lab


@pytest.fixture
def lab(raised: Lab) -> Lab:
    wait_whole(raised)
    return raised


def relayed(lab: Lab) -> float:
    """Packets that the relay has handed on."""
    return scraped(lab, "gate")["meshfabric_packets_total"]['reason="relayed"']


def taken(lab: Lab, node: str, far: str) -> str:
    """The relay that traffic to a node goes through; empty if it goes there directly."""
    return next(str(row["relay"]) for row in paths(lab, node, far) if row["active"])


@contextlib.contextmanager
def apart(lab: Lab, one: str, other: str) -> Iterator[None]:
    """Two nodes of the red segment do not reach each other."""
    ends = {row["endpoint"] for row in paths(lab, one, other) if not row["relay"]}
    back = {row["endpoint"] for row in paths(lab, other, one) if not row["relay"]}
    (there,), (here,) = ends, back
    with losing(lab, one, "up0", f"ip daddr {there}"), losing(lab, other, "up0", f"ip daddr {here}"):
        yield


def test_two_nodes_without_a_common_segment_speak_with_each_other(lab: Lab) -> None:
    before = relayed(lab)
    with Echo(lab, WEB, DB):
        for family in (4, 6):
            for source, sink in ((WEB, DB), (DB, WEB), ("left", "right"), ("right", DB)):
                to = address(lab, sink, family)
                assert ping(lab, source, to) is not None
            for source, sink in ((WEB, DB), (DB, WEB)):
                to = address(lab, sink, family)
                assert connects(lab, source, to)
                assert answers(lab, source, to, 3000)
    assert relayed(lab) > before
    (row,) = paths(lab, "left", "right")
    assert (row["relay"], row["state"], row["encryption"]) == ("gate", "up", "on")


def test_megabytes_arrive_as_they_were(lab: Lab) -> None:
    for source, sink in ((WEB, DB), (DB, WEB)):
        assert measure.transfer(lab, source, sink, address(lab, sink), MEGABYTES)["intact"]


def test_the_relay_has_no_part_in_it(lab: Lab) -> None:
    """It knows the keys of the tunnels, the public ones, and has none of these peers."""
    own = {row["device"] for row in listing(lab, "gate", "paths")}
    assert own == {"mfwg00", "mfwg10"}
    assert {row["relay"] for row in listing(lab, "gate", "paths")} == {""}


def test_a_relay_is_taken_while_the_direct_path_fails_and_no_longer(lab: Lab) -> None:
    assert taken(lab, "left", "near") == taken(lab, "near", "left") == ""
    flows = (Flow(WEB, CACHE), Flow(CACHE, WEB, 6), Flow(WEB, CACHE, 4, "tcp"))
    direct = [row for row in paths(lab, "left", "near") if not row["relay"]]
    with flowing(lab, *flows) as streams:
        until(streams.all_pass)
        with apart(lab, "left", "near"):
            until(lambda: taken(lab, "left", "near") == taken(lab, "near", "left") == "gate")
            until(streams.all_pass)
    for one in (*streams.datagrams, *streams.connections):
        print(one)
    assert all(0 < one.outage_ms < GAP_MS for one in streams.datagrams)
    assert all(one.whole for one in streams.connections)
    with flowing(lab, *flows) as streams:
        until(streams.all_pass)
        until(lambda: taken(lab, "left", "near") == taken(lab, "near", "left") == "")
        wait_whole(lab)
    streams.assert_nothing_lost()
    after = [row for row in paths(lab, "left", "near") if not row["relay"]]
    assert [row["endpoint"] for row in after] == [row["endpoint"] for row in direct]


def test_a_relay_is_drained_without_a_loss(lab: Lab) -> None:
    flows = (Flow(WEB, CACHE), Flow(CACHE, WEB, 6), Flow(WEB, CACHE, 4, "tcp"))
    with apart(lab, "left", "near"):
        until(lambda: taken(lab, "left", "near") == taken(lab, "near", "left") == "gate")
        with flowing(lab, *flows) as streams:
            until(streams.all_pass)
            assert order(lab, "gate", "node", "drain").stdout == DRAINED
            assert taken(lab, "left", "near") == taken(lab, "near", "left") == "other"
            until(streams.all_pass)
            assert order(lab, "gate", "node", "undrain").returncode == 0
            until(lambda: taken(lab, "left", "near") == taken(lab, "near", "left") == "gate")
        streams.assert_nothing_lost()


def test_a_relay_whose_agent_is_dead_or_new_relays_as_before(lab: Lab) -> None:
    with flowing(lab, *FLOWS) as streams:
        until(streams.all_pass)
        agents.kill_agent(lab, "gate", signal.SIGKILL)
        until(lambda: told(lab, "left")["nodes"]["alive"] == 4)
        resume(lab, "gate")
        wait_whole(lab)
        settle(lab)
    streams.assert_nothing_lost()


def test_one_node_whose_agent_starts_again_keeps_its_connections(lab: Lab) -> None:
    with flowing(lab, *FLOWS) as streams:
        until(streams.all_pass)
        agents.kill_agent(lab, "left", signal.SIGTERM)
        resume(lab, "left")
        wait_whole(lab)
    streams.assert_nothing_lost()
