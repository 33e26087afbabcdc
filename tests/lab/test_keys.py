"""Tunnel keys are rotated under traffic, and a node is cut off.

    one ──┬── red (both families) ──┬── two ──┬── three
    left  └── blue (IPv6) ──────────┘ right   ┘   third

Captures on both segments run as long as the lab stands: a fabric address in clear fails its end.
"""

import re
import stat
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from meshfabric.lab import agents, build
from meshfabric.lab.state import Lab
from tests.features import requires
from tests.lab.small import pings
from tests.lab.store import Store
from tests.lab.streams import Flow, Streams, deepening, flowing
from tests.lab.whole import (
    address,
    drops,
    listing,
    names,
    paths,
    raised_whole,
    resume,
    told,
    until,
    wait_whole,
)
from tests.patience import DEADLINE_S, PATIENCE

pytestmark = requires("capabilities")

GRACE_S = 3 * PATIENCE
TEXT = f"""\
segments:
  - {{name: red, ipv4: 172.31.1.0/24, ipv6: "fd00:ed::/64"}}
  - {{name: blue, ipv6: "fd00:b1::/64"}}
nodes:
  - {{name: one, uplinks: [{{name: up0, segment: red}}, {{name: up1, segment: blue, cost: 1}}]}}
  - {{name: two, uplinks: [{{name: up0, segment: red}}, {{name: up1, segment: blue, cost: 1}}]}}
  - {{name: three, uplinks: [{{name: up0, segment: red}}, {{name: up1, segment: blue, cost: 1}}]}}
workloads:
  - {{name: left, node: one, labels: {{app: left}}}}
  - {{name: right, node: two, labels: {{app: right}}}}
  - {{name: third, node: three, labels: {{app: third}}}}
rotation: {{grace_s: {GRACE_S:g}, away_s: 600}}
drift_check_s: {PATIENCE:g}
"""
FLOWS = (
    Flow("one/left", "two/right"),
    Flow("two/right", "one/left", 6),
    Flow("three/third", "one/left"),
    Flow("two", "three", 6),
    Flow("one/left", "two/right", 4, "tcp"),
    Flow("three/third", "two/right", 6, "tcp"),
)
ROTATED_S = 4 * DEADLINE_S
CUT_WITHIN_S = 1.0
PRIVATE_KEY_MODE = 0o600


@pytest.fixture(scope="module")
def standing() -> Iterator[Lab]:
    with raised_whole(TEXT) as lab:
        yield lab


@pytest.fixture
def lab(standing: Lab) -> Lab:
    for node in names(standing):
        resume(standing, node)
    wait_whole(standing)
    until(lambda: not any(told(standing, node)["keys"]["under_way"] for node in names(standing)), ROTATED_S)
    return standing


def order(lab: Lab, where: str, *words: str) -> str:
    """What the CLI says on a node."""
    argv = [sys.executable, "-m", "meshfabric", *words]
    done = build.run(lab, where, argv, timeout_s=ROTATED_S)
    assert done.returncode == 0, done.stderr
    return done.stdout


def key_files(lab: Lab, node: str) -> dict[str, Path]:
    """A node's private keys, by device."""
    return {file.stem: file for file in (lab.node_folder(node) / "state" / "keys").glob("*.key")}


def public_keys(lab: Lab) -> set[str]:
    """Of every node, as their agents tell them."""
    return {row["public_key"] for node in names(lab) for row in listing(lab, node, "keys")}


def generations(lab: Lab, node: str) -> set[int]:
    """Those that a node has tunnels of."""
    return {row["generation"] for row in listing(lab, node, "paths")}


def under_way(lab: Lab) -> bool:
    """Whether every node has both."""
    return all(told(lab, node)["keys"]["under_way"] for node in names(lab))


def finished(lab: Lab, epoch: int) -> bool:
    """Whether every node has keys of this epoch and no others, on its disk and in its devices."""
    return all(
        told(lab, node)["keys"] == {"epoch": epoch, "due": epoch, "under_way": False, "waiting_for": []}
        and {row["device"] for row in listing(lab, node, "keys")} == key_files(lab, node).keys()
        for node in names(lab)
    )


def due(lab: Lab) -> int:
    """The epoch that keys should be of by now."""
    return int(told(lab, "one")["keys"]["due"] or 0)


def rotate(lab: Lab) -> int:
    """Ask for new keys, and return once every node has begun; the epoch."""
    epoch = due(lab) + 1
    assert order(lab, "one", "key", "rotate") == f"keys of epoch {epoch} are due\n"
    until(lambda: under_way(lab), ROTATED_S)
    return epoch


def see_end(lab: Lab, epoch: int) -> None:
    until(lambda: finished(lab, epoch), ROTATED_S)
    assert all(generations(lab, node) == {epoch % 2} for node in names(lab))


def show(lab: Lab, streams: Streams) -> None:
    """What became of the flows, and when each node did what."""
    print(f"streams began {datetime.fromtimestamp(streams.began_s, UTC).isoformat()}")
    print(*map(str, streams.datagrams), *map(str, streams.connections), sep="\n")
    for node in names(lab):
        print(*(f"{node} {event['time']} {event['name']}" for event in told(lab, node)["events"]), sep="\n")


def assert_secret(lab: Lab, keys: set[str]) -> None:
    """Private keys are in no record, no log and no argument."""
    told_anywhere = b"".join(Store(lab).everything().values()).decode(errors="replace")
    told_anywhere += "".join(lab.log(agents.ROLE, node).read_text() for node in names(lab))
    told_anywhere += "".join(
        build.run(lab, node, ["sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"]).stdout
        for node in names(lab)
    )
    assert keys
    assert not {key for key in keys if key in told_anywhere}


def test_keys_are_rotated_twice_and_nothing_is_lost(lab: Lab) -> None:
    with flowing(lab, *FLOWS) as streams, deepening(lab):
        until(streams.all_pass)
        for _ in range(2):
            before = public_keys(lab)
            begun = time.monotonic()
            epoch = rotate(lab)
            files = [file for node in names(lab) for file in key_files(lab, node).values()]
            assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {PRIVATE_KEY_MODE}
            assert_secret(lab, {file.read_text().strip() for file in files})
            see_end(lab, epoch)
            print(f"epoch {epoch}: {time.monotonic() - begun:.1f} s, of which {GRACE_S:g} s are grace")
            assert not before & public_keys(lab)
            assert streams.all_pass()
    show(lab, streams)
    streams.assert_nothing_lost()
    said = [event["name"] for event in told(lab, "one")["events"]]
    assert said.count("key rotation began") == said.count("key rotation ended") == 2


def test_an_agent_that_dies_in_the_midst_of_it_loses_nothing(lab: Lab) -> None:
    with flowing(lab, *FLOWS) as streams, deepening(lab):
        until(streams.all_pass)
        epoch = rotate(lab)
        agents.kill_agent(lab, "two")
        time.sleep(GRACE_S + PATIENCE)
        waiting = told(lab, "one")["keys"]["waiting_for"]
        assert told(lab, "one")["keys"]["under_way"], "two may need the old keys"
        resume(lab, "two")
        see_end(lab, epoch)
    print(f"one waited for {waiting or 'its grace'}")
    show(lab, streams)
    streams.assert_nothing_lost()


def test_a_revoked_node_is_cut_off_at_once_and_comes_back_when_readmitted(lab: Lab) -> None:
    flows = (*FLOWS[:2], Flow("three/third", "one/left"), Flow("three", "two", 6), FLOWS[4])
    third, left = address(lab, "three/third"), address(lab, "one/left")
    assert pings(lab, "one/left", third)
    with flowing(lab, *flows) as streams:
        until(streams.all_pass)
        assert order(lab, "one", "node", "revoke", "three") == "three: revoked\n"
        ordered = time.monotonic()
        cut = streams.datagrams[2:]
        until(lambda: all(one.is_silent() for one in cut))
        took = [one.last_heard_s - ordered for one in cut]
        assert_kept_out(lab)
        before = drops(lab, "one", "no_route")
        assert build.run(lab, "one/left", ["ping", "-c", "1", "-W", "1", third]).returncode
        assert build.run(lab, "three/third", ["ping", "-c", "1", "-W", "1", left]).returncode
        assert drops(lab, "one", "no_route") > before
    print("last packet, in ms after the command's end:", [round(1000 * one) for one in took])
    assert all(one < CUT_WITHIN_S for one in took)
    unharmed(streams)
    assert "three" not in {row["node"] for row in listing(lab, "one", "endpoints")}
    said = order(lab, "one", "node", "readmit", "three", "--wait")
    assert said.startswith("three: readmitted\nin force on 2 other nodes")
    until(lambda: pings(lab, "one/left", third) and pings(lab, "three/third", left))


def unharmed(streams: Streams) -> None:
    """What the other nodes say to each other was not touched."""
    datagrams, connections = streams.datagrams[:2], streams.connections
    assert all(one.whole for one in datagrams), "\n".join(map(str, datagrams))
    assert all(one.whole for one in connections), "\n".join(map(str, connections))


def assert_kept_out(lab: Lab) -> None:
    """Nobody knows a key of the node any more, and what it says anew is not answered."""
    own = {row["public_key"] for row in listing(lab, "three", "keys")}
    for node in ("one", "two"):
        peers = build.run(lab, node, ["wg", "show", "all", "peers"]).stdout
        assert re.search(r"\S{43}=", peers)
        assert not any(key in peers for key in own)
        assert paths(lab, node, "three") == []
    device = paths(lab, "three", "one")[0]["device"]
    assert build.run(lab, "three", ["ip", "link", "delete", device]).returncode == 0
    until(lambda: all(tried(lab, device)))
    assert not any(shaken(lab, device))


def tried(lab: Lab, device: str) -> list[bool]:
    """Whether the node has sent something to each peer of a device."""
    lines = build.run(lab, "three", ["wg", "show", device, "transfer"]).stdout.splitlines()
    return [int(line.split()[2]) > 0 for line in lines] or [False]


def shaken(lab: Lab, device: str) -> list[int]:
    """When each peer of a device shook hands last."""
    lines = build.run(lab, "three", ["wg", "show", device, "latest-handshakes"]).stdout.splitlines()
    return [int(line.split()[1]) for line in lines]
