"""An agent gives way to one of another build, under traffic: nothing is lost and no flow forgotten.

The other build is made of a copy of `bpf/` with a change; at a test's end the node runs its own
again, which is an upgrade as well.
"""

import contextlib
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from meshfabric.agent.main import OBJECTS_ENV
from meshfabric.kernel import netns
from meshfabric.kernel.attach import attached
from meshfabric.lab import agents
from meshfabric.lab.state import Lab
from tests.features import requires
from tests.lab.kernel import kept, opened_map, pins
from tests.lab.places import Echo, connects, namespace
from tests.lab.policies import policy
from tests.lab.streams import FIRST_PORT, Flow, flowing
from tests.lab.whole import address, drops, told, until, wait_ready

pytestmark = requires("capabilities")

BPF = Path(__file__).parents[2] / "bpf"
NODE = "kube1"
FLOWS = (
    Flow("kube1/web", "kube2/db"),
    Flow("kube2/cache", "kube1/client", 6),
    Flow("kube1/client", "kube1/web"),
    Flow("kube1", "metal1", 6),
    Flow("metal1", "kube1"),
    Flow("kube1/web", "kube2/db", 4, "tcp"),
    Flow("kube2/db", "kube1/client", 6, "tcp"),
    Flow("kube1/web", "kube1/client", 4, "tcp"),
)
PORTS_AT, PORT_BYTES = 32, 2  # in a flow's key
OTHER_SIZE = 50_000

Change = Callable[[Path], None]


def hears_only(lab: Lab, hears: str, says: str, flow: int) -> contextlib.AbstractContextManager[None]:
    """Only one may begin to speak to a workload, by one flow of `FLOWS`; answers it gets all the same."""
    rule = {"from": [f"app={says}"], "ports": [f"udp/{FIRST_PORT + flow}"]}
    return policy(lab, f"{hears}-hears-{says}", f"app={hears}", ingress=[rule])


def program_ids(lab: Lab, node: str) -> dict[str, int]:
    """Of what is attached, by the name of its pin."""
    found = netns.run(namespace(lab, node), attached, pins(lab, node) / "links")
    return {name: info.program_id for name, info in found.items()}


def stream_keys(lab: Lab, node: str) -> set[bytes]:
    """Keys of the answered flows that `flowing` made."""
    ports = {(FIRST_PORT + number).to_bytes(PORT_BYTES, "big") for number in range(len(FLOWS))}
    with opened_map(lab, node, "flows") as flows:
        return {key for key, _ in flows.items() if ports & set(ends(key))}


def ends(key: bytes) -> tuple[bytes, bytes]:
    """The two ports of a flow's key."""
    middle = PORTS_AT + PORT_BYTES
    return key[PORTS_AT:middle], key[middle : middle + PORT_BYTES]


def events(lab: Lab, node: str, name: str) -> list[str]:
    """What the agent tells under this name."""
    return [event["detail"] for event in told(lab, node)["events"] if event["name"] == name]


def edited(path: Path, pattern: str, to: str | Callable[[re.Match[str]], str]) -> None:
    """Replace what is there exactly once."""
    text, count = re.subn(pattern, to, path.read_text(), flags=re.DOTALL)
    assert count == 1, f"{pattern} in {path}"
    path.write_text(text)


def turned_flow(folder: Path) -> None:
    """`struct flow` with its members in the other order behind a new one, two of them wider."""

    def turned(found: re.Match[str]) -> str:
        members = re.sub(r"/\*.*?\*/", "", found[1], flags=re.DOTALL).split(";")[:-1]
        members = [re.sub(r"__u8 (replied|closing)", r"__u16 \1", member) for member in members]
        return "struct flow {\n\t__u64 added;" + ";".join(reversed(members)) + ";\n};"

    edited(folder / "include/types.h", r"struct flow \{(.*?)\n\};", turned)


def another_type(folder: Path) -> None:
    """The count of established flows as a hash map, which has none of anybody: then no flow settles."""
    edited(folder / "include/maps.h", r"ARRAY(?=\);[^}]*\} shares SEC)", "HASH")


def another_program(folder: Path) -> None:
    """The same maps; another number in the programs."""
    edited(folder / "lib/life.h", r"SEEN_STEP_S = 1\b", "SEEN_STEP_S = 2")


def built(folder: Path, change: Change) -> Path:
    """Objects of a copy of the sources with a change."""
    source = folder / "bpf"
    shutil.copytree(BPF, source)
    change(source)
    subprocess.run(["make", "--silent", "-C", source, f"OUT={folder / 'objects'}"], check=True)
    return folder / "objects"


@contextlib.contextmanager
def replaced(lab: Lab, objects: Path, **datapath: Any) -> Iterator[None]:
    """The agent of the node is one with these objects and settings, then the lab's own again."""
    try:
        with other_agent(objects, **datapath):
            restart(lab)
        yield
    finally:
        restart(lab)


@contextlib.contextmanager
def other_agent(objects: Path, **datapath: Any) -> Iterator[None]:
    """Agents that are started meanwhile have these objects and settings."""
    ordinary = agents.agent_yaml

    def text(lab: Lab, node: str) -> str:
        settings = yaml.safe_load(ordinary(lab, node))
        return yaml.safe_dump(settings | {"datapath": settings["datapath"] | datapath})

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(OBJECTS_ENV, str(objects))
        patch.setattr(agents, "agent_yaml", text)
        yield


def restart(lab: Lab) -> None:
    """Another process, which has replaced every program and is done with what an upgrade takes."""
    earlier = set(program_ids(lab, NODE).values())
    agents.kill_agent(lab, NODE)
    agents.start_agent(lab, NODE)
    wait_ready(lab, NODE)
    assert not earlier & set(program_ids(lab, NODE).values()), "it said ready too early"
    until(lambda: not [pin for pin in (pins(lab, NODE) / "maps").iterdir() if "~" in pin.name])


def test_flows_move_into_another_layout_and_nothing_is_lost(fabric: Lab, tmp_path: Path) -> None:
    objects = built(tmp_path, turned_flow)
    with hears_only(fabric, "web", "client", 2), flowing(fabric, *FLOWS) as streams:
        until(streams.all_pass)
        refused = drops(fabric, NODE, "policy_ingress")
        until(lambda: len(stream_keys(fabric, NODE)) >= len(streams.connections))
        before, programs, keys = kept(fabric, NODE), program_ids(fabric, NODE), stream_keys(fabric, NODE)
        with replaced(fabric, objects, flows=OTHER_SIZE):
            after = program_ids(fabric, NODE)
            assert after.keys() == programs.keys()
            assert not set(after.values()) & set(programs.values())
            assert len(set(after.values())) == len(set(programs.values()))
            assert kept(fabric, NODE).devices == before.devices
            assert keys <= stream_keys(fabric, NODE)
            with opened_map(fabric, NODE, "flows") as flows:
                assert flows.max_entries == OTHER_SIZE
            (detail,) = [one for one in events(fabric, NODE, "map migrated") if one.startswith("flows: ")]
            assert int(detail.split()[1]) >= len(keys)
            assert "fit" not in detail
            until(lambda: events(fabric, NODE, "upgrade finished"))
            assert len(events(fabric, NODE, "upgrade finished")) == 1
            assert events(fabric, NODE, "map rebuilt") == []
        assert keys <= stream_keys(fabric, NODE)
        assert drops(fabric, NODE, "policy_ingress") == refused, "answers were taken for beginnings"
    streams.assert_nothing_lost()


def test_new_connections_come_about_while_programs_are_replaced(fabric: Lab, tmp_path: Path) -> None:
    """A first answer may be lost once (`kernel.upgrade` says when); the sender's repetition is not."""
    db, web = address(fabric, "kube2/db"), address(fabric, "kube1/web", 6)
    took: list[float] = []

    def is_finished() -> bool:
        """After another connection out of the node, and one into it."""
        for source, to in (("kube1/client", db), ("kube2/cache", web)):
            begun = time.monotonic()
            assert connects(fabric, source, to), f"{source} to {to}"
            took.append(time.monotonic() - begun)
        return bool(events(fabric, NODE, "upgrade finished"))

    objects = built(tmp_path, turned_flow)
    with Echo(fabric, "kube2/db", "kube1/web"):
        agents.kill_agent(fabric, NODE)
        with other_agent(objects):
            agents.start_agent(fabric, NODE)
        try:
            until(is_finished)
        finally:
            restart(fabric)
    print(f"{len(took)} connections, the slowest {1000 * max(took):.0f} ms")


def test_other_programs_with_the_same_maps_lose_nothing(fabric: Lab, tmp_path: Path) -> None:
    objects = built(tmp_path, another_program)
    with flowing(fabric, *FLOWS) as streams:
        until(streams.all_pass)
        before = kept(fabric, NODE)
        with replaced(fabric, objects):  # every program, as `restart` has seen
            assert kept(fabric, NODE) == before
            assert events(fabric, NODE, "upgrade finished") == []
    streams.assert_nothing_lost()


def test_a_map_of_another_type_is_rebuilt_and_the_fabric_works(fabric: Lab, tmp_path: Path) -> None:
    objects = built(tmp_path, another_type)
    before = kept(fabric, NODE).maps
    with Echo(fabric, "kube2/db", "kube1/web"):
        with replaced(fabric, objects):
            (detail,) = events(fabric, NODE, "map rebuilt")
            assert detail.startswith("shares: its type changed from ")
            after = kept(fabric, NODE).maps
            assert {name for name in before if before[name] != after[name]} == {"shares"}
            assert connects(fabric, "kube1/web", address(fabric, "kube2/db"))
            assert connects(fabric, "kube2/db", address(fabric, "kube1/web", 6))
            assert connects(fabric, "kube1/client", address(fabric, "kube1/web"))
        assert connects(fabric, "kube2/db", address(fabric, "kube1/web"))
