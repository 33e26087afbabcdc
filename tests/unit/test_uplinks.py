"""Uplinks that are drained: what the world makes of it, what is kept on the disk, and what passes still."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from msgspec.structs import replace

from meshfabric.agent.draining import DRAINING_FILE, Draining
from meshfabric.compiler.paths import Pair, pairs
from meshfabric.compiler.step import compile_plan
from meshfabric.compiler.workloads import host_name
from meshfabric.model.addresses import is_ipv4
from meshfabric.model.errors import InputError
from meshfabric.model.node import NodeRecord
from meshfabric.model.plan import Table
from meshfabric.model.tables import PathState
from meshfabric.model.world import Event, Kind, World
from meshfabric.observe.events import Events
from meshfabric.observe.rows import PathSeen
from meshfabric.observe.uplinks import Moved, beside_probes, only_by, uplink_rows
from tests.fabric import Attachment, Node, fabric, settle
from tests.patience import DEADLINE_S

RED, BLUE = "red", "blue"


def two_nodes() -> list[Node]:
    return fabric(
        [
            [
                Attachment(RED, (f"192.0.2.{n}/24",)),
                Attachment(BLUE, (f"198.51.100.{n}/24",), cost=5),
            ]
            for n in (1, 2)
        ]
    )


def order_of(node: Node, far: str) -> list[tuple[int, bool]]:
    """Local slots of the pairs, the preferred first, and whether each is drained."""
    return [(pair.local, pair.draining) for pair in pairs(node.world, far)]


@pytest.mark.parametrize("who", [0, 1])
def test_both_ends_put_a_drained_uplink_last_and_nothing_else_changes(who: int) -> None:
    nodes = two_nodes()
    before = [{table: node.plan.table(table) for table in (Table.TUNNELS, Table.PEERS)} for node in nodes]
    nodes[who].tell(Event(Kind.DRAINING, "up0", True))
    settle(nodes)
    for node, far in ((nodes[0], "n2"), (nodes[1], "n1")):
        assert order_of(node, far) == [(1, False), (0, True)]
        assert str(node.plan) == str(compile_plan(node.world))
    after = [{table: node.plan.table(table) for table in (Table.TUNNELS, Table.PEERS)} for node in nodes]
    assert after == before
    (record,) = [
        msgspec.json.decode(value, type=NodeRecord)
        for key, value in nodes[who].plan.table(Table.RECORDS).items()
        if key == f"nodes/n{who + 1}"
    ]
    assert [uplink.draining for uplink in record.uplinks] == [True, False]
    nodes[who].tell(Event(Kind.DRAINING, "up0"))
    settle(nodes)
    assert order_of(nodes[0], "n2") == [(0, False), (1, False)]


def seen(
    node: str, slot: int, health: str = "up", *, draining: bool = False, active: bool = False
) -> PathSeen:
    pair = Pair(0, slot, slot, "", "", draining)
    return PathSeen(node, pair, f"wg{slot}", 0, PathState(), health, active, None, 0, 0)


@pytest.mark.parametrize(
    ("paths", "alone"),
    [
        ([seen("a", 0), seen("a", 1)], []),
        ([seen("a", 0), seen("a", 1, "down"), seen("b", 0), seen("b", 1)], ["a"]),
        ([seen("a", 0), seen("a", 1, draining=True)], ["a"]),
        ([seen("a", 0, "down"), seen("a", 1, "down")], []),
        ([seen("a", 1), seen("b", 0, "new")], []),
        ([], []),
    ],
)
def test_whom_only_one_uplink_leads_to(paths: list[PathSeen], alone: list[str]) -> None:
    assert only_by(paths, {0}) == alone


@pytest.mark.parametrize("family", [4, 6])
def test_probes_are_no_traffic(family: int) -> None:
    world = two_nodes()[0].world
    if family == 6:
        host = world.workloads[host_name(world)]
        six = tuple(address for address in host.addresses if not is_ipv4(address))
        world.apply(Event(Kind.WORKLOAD, host.name, replace(host, addresses=six)))
    each = {4: 112, 6: 128}[family]
    before = seen("n2", 0)
    counted = before.state._replace(sent=10, heard=9, reflected=7)
    after = before._replace(state=counted, rx_bytes=each * 16 + 1000, tx_bytes=each * 17)
    assert beside_probes(world, [before], [after], {0}) == {"n2": Moved(1000, 0)}
    assert beside_probes(world, [before], [after], {1}) == {}
    assert beside_probes(world, [], [after], {0}) == {}


def test_an_uplink_whose_device_is_missing_is_shown() -> None:
    world = two_nodes()[0].world
    world.apply(Event(Kind.LINK, "eth1"))
    world.apply(Event(Kind.DRAINING, "up1", True))
    rows = uplink_rows(world, [seen("n2", 0, active=True)])
    assert [(row["uplink"], row["state"], row["draining"], row["carries"]) for row in rows] == [
        ("up0", "up", False, ["n2"]),
        ("up1", "missing", True, []),
    ]


class Loop:
    """Takes events in at once."""

    def __init__(self, world: World) -> None:
        self.world = world

    def feed(self, events: Sequence[Event]) -> None:
        for event in events:
            self.world.apply(event)

    async def settled(self) -> None:
        """Always."""


def agent(folder: Path, paths: Sequence[PathSeen] = ()) -> tuple[Draining, World]:
    """The part of an agent that takes orders, and its world."""
    settings = replace(two_nodes()[0].world.settings, state_dir=folder)
    world = World(settings)
    readings = SimpleNamespace(paths=lambda tunnels: list(paths))
    parts: Any = (Loop(world), readings, None, None, Events())
    made = Draining(*parts)
    cast(Any, parts[0]).feed(made.recall())
    return made, world


def run(work: Any) -> Any:
    return asyncio.run(asyncio.wait_for(work, DEADLINE_S))


def test_an_order_is_on_the_disk_until_it_is_taken_back(tmp_path: Path) -> None:
    made, world = agent(tmp_path)
    assert [run(made.drain(["up1"], force=False)) for _ in range(2)] == [True, False]
    assert world.draining == {"up1": True}
    again, world = agent(tmp_path)
    assert world.draining == {"up1": True}
    assert [run(again.undrain(["up1"])) for _ in range(2)] == [True, False]
    assert agent(tmp_path)[1].draining == {}


def test_the_only_way_is_drained_by_force(tmp_path: Path) -> None:
    made, world = agent(tmp_path, [seen("n2", 0), seen("n3", 0), seen("n3", 1)])
    with pytest.raises(InputError, match="up0: it is the only way that works to n2 "):
        run(made.drain(["up0"], force=False))
    assert world.draining == {}
    assert not (tmp_path / DRAINING_FILE).exists()
    assert run(made.drain(["up0"], force=True))


def test_several_uplinks_are_one_order(tmp_path: Path) -> None:
    made, world = agent(tmp_path, [seen("n2", 0), seen("n2", 1)])
    assert run(made.drain(["up0"], force=False))
    with pytest.raises(InputError, match="up0, up1: it is the only way that works to n2 "):
        run(made.drain(["up0", "up1"], force=False))
    assert run(made.drain(["up0", "up1"], force=True))
    assert world.draining == {"up0": True, "up1": True}
    assert run(made.undrain(["up0", "up1"]))
    assert agent(tmp_path)[1].draining == {}


def test_no_such_uplink(tmp_path: Path) -> None:
    made, _ = agent(tmp_path)
    for order in (made.drain(["up7"], force=True), made.undrain(["up7"]), made.passing("up7")):
        with pytest.raises(InputError, match="no uplink 'up7' here"):
            run(order)


@pytest.mark.parametrize("content", [b"{", b'{"uplinks": 7}', b"\xff"])
def test_a_file_that_is_damaged_drains_nothing(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / DRAINING_FILE).write_bytes(content)
    assert agent(tmp_path)[1].draining == {}
    assert "no uplink is drained" in caplog.text


def test_what_is_not_configured_any_more_is_forgotten(tmp_path: Path) -> None:
    (tmp_path / DRAINING_FILE).write_text(json.dumps({"uplinks": ["old", "up0"]}))
    assert agent(tmp_path)[1].draining == {"up0": True}
