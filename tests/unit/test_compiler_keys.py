"""Two generations of tunnel keys in a fabric of pure worlds: what is joined, published and preferred."""

from itertools import permutations, product

import pytest
from msgspec.structs import replace

from meshfabric.compiler.paths import ways
from meshfabric.model.keyring import NONE, Keyring
from meshfabric.model.names import tunnel_device, tunnel_generation
from meshfabric.model.node import NodeRecord
from meshfabric.model.plan import Change, Table, TunnelDevice
from meshfabric.model.settings import DatapathSettings
from meshfabric.model.tables import FIRST_NODE, MAX_PATHS, NODE, number
from meshfabric.model.world import Event, Kind
from meshfabric.reconcile.delta import stages
from tests.fabric import Attachment, Node, fabric, settle

BOTH = Keyring((0, 1), 1, 0)
CLOSING = Keyring((0, 1), 1, 1, closing=True)
ODD = Keyring((None, 1), 1, 1)
BASES = DatapathSettings()


def uplinks(node: int, count: int) -> list[Attachment]:
    """So many, all in one segment."""
    return [Attachment("red", (f"192.0.2.{16 * node + slot}/24",)) for slot in range(count)]


def pair(count: int) -> list[Node]:
    """Two nodes with so many tunnels between them."""
    return fabric([uplinks(1, 1), uplinks(2, count)])


def become(node: Node, nodes: list[Node], keyring: Keyring) -> None:
    """A node's keyring is another; everyone hears of it."""
    node.tell(Event(Kind.KEYRING, "", keyring))
    settle(nodes)


def listed(node: Node, far: Node) -> tuple[bool, list[str]]:
    """The tunnels of the datapath by position, and whether the last one of them is preferred."""
    names = {link.index: name for name, link in node.world.links.items()}
    place = node.world.node_numbers[far.name]
    order, *found, _, _ = NODE.unpack(node.plan.table(Table.NODES)[number(place - FIRST_NODE)])
    return order % MAX_PATHS == MAX_PATHS - 1, [names.get(index, "") for index in found[MAX_PATHS:]]


def tunnels(node: Node) -> dict[str, TunnelDevice]:
    found: dict[str, TunnelDevice] = node.plan.table(Table.TUNNELS)
    return found


def test_names_ports_and_marks_of_both_generations_are_apart() -> None:
    node, _ = nodes = pair(3)
    become(node, nodes, BOTH)
    for name, device in tunnels(node).items():
        generation = tunnel_generation(name)
        offset = 64 * generation + 8 * device.local + device.remote
        assert name == tunnel_device("mf", device.local, device.remote, generation)
        assert (device.port, device.mark) == (BASES.port_base + offset, BASES.mark_base + offset)
        assert (Table.RULES, device.mark) in node.plan.units["tunnel", device.local, device.remote]
    assert len({device.port for device in tunnels(node).values()}) == 6


def test_generations_are_joined_with_their_like_only() -> None:
    nodes = fabric([uplinks(1, 2), uplinks(2, 2), uplinks(3, 1)])
    for node, keyring in zip(nodes, (BOTH, ODD, Keyring()), strict=True):
        become(node, nodes, keyring)
    for near, far in permutations(nodes, 2):
        shared = set(near.world.own_keys.generations) & set(far.world.own_keys.generations)
        wanted = {
            (tunnel_device("mf", i, j, generation), tunnel_device("mf", j, i, generation))
            for generation in shared
            for i, j in product(range(len(near.world.uplinks)), range(len(far.world.uplinks)))
        }
        assert {
            (device, key.removeprefix(f"key-{far.name}-").removesuffix("="))
            for (device, key), peer in near.plan.table(Table.PEERS).items()
            if peer.node == far.name
        } == wanted
        assert {way.device for way in ways(near.world, far.name)} == {device for device, _ in wanted}


def test_what_is_known_of_a_path_keeps_its_position_all_the_way() -> None:
    one, two = nodes = pair(2)
    assert listed(one, two) == (False, ["mfwg00", "mfwg01", *[""] * 6])
    become(one, nodes, BOTH)
    assert listed(one, two) == (False, ["mfwg00", "mfwg01", *[""] * 6]), "the other end has none yet"
    become(two, nodes, BOTH)
    new = ["mfwg01b", "mfwg00b"]
    assert listed(one, two) == (True, ["mfwg00", "mfwg01", *[""] * 4, *new])
    become(two, nodes, CLOSING)
    assert listed(one, two) == (True, [*[""] * 6, *new])
    assert any(device == "mfwg00" for device, _ in one.plan.table(Table.PEERS)), "what comes by it is heard"
    become(two, nodes, ODD)
    assert not any(device == "mfwg00" for device, _ in one.plan.table(Table.PEERS))
    become(one, nodes, ODD)
    assert listed(one, two) == (True, [*[""] * 6, *new])
    assert set(tunnels(one)) == {"mfwg00b", "mfwg01b"}


@pytest.mark.parametrize(
    ("count", "old", "new"), {(1, 1, 1), (4, 4, 4), (5, 5, 3), (7, 7, 1), (8, 7, 1)}, ids=str
)
def test_eight_positions_hold_all_old_tunnels_but_the_eighth(count: int, old: int, new: int) -> None:
    one, two = nodes = pair(count)
    for node in nodes:
        become(node, nodes, BOTH)
    found = [tunnel_generation(way.device) for way in ways(one.world, two.name)]
    assert found == [1] * new + [0] * old
    positions = [way.position for way in ways(one.world, two.name)]
    assert len(set(positions)) == len(positions)
    for node in nodes:
        become(node, nodes, ODD)
    assert len(ways(one.world, two.name)) == count


def test_a_device_that_is_made_anew_moves_no_other() -> None:
    one, two = pair(3)
    one.tell(Event(Kind.LINK, "mfwg00"))
    assert listed(one, two)[1][:3] == ["", "mfwg01", "mfwg02"]


def test_the_record_tells_no_key_of_a_generation_that_was_given_up() -> None:
    """Its file may be there for a moment yet."""
    one, _ = nodes = pair(2)
    become(one, nodes, BOTH)
    one.tell(Event(Kind.KEYRING, "", ODD))
    assert any(tunnel_generation(device) == 0 for device in one.world.keys)
    record = next(event.value for event in one.records() if event.kind is Kind.NODE)
    assert isinstance(record, NodeRecord)
    assert (record.tunnels, len(record.odd_tunnels), record.keyring) == ((), 2, ODD)


def test_a_node_without_keys_yet_makes_no_device() -> None:
    one, two = nodes = pair(2)
    become(one, nodes, NONE)
    assert not tunnels(one)
    assert not ways(two.world, one.name)


def test_who_sends_by_old_tunnels_stops_before_they_go() -> None:
    """Of one change: the datapath's list is written before devices are taken away."""
    one, two = nodes = pair(2)
    for node in nodes:
        become(node, nodes, replace(BOTH, taken=1))
    before = {table: dict(one.plan.entries(table)) for table in (Table.NODES, Table.TUNNELS)}
    become(one, nodes, CLOSING)
    after = {table: dict(one.plan.entries(table)) for table in (Table.NODES, Table.TUNNELS)}
    assert before[Table.TUNNELS] == after[Table.TUNNELS]
    assert before[Table.NODES] != after[Table.NODES]
    changes = [Change(Table.TUNNELS, "mfwg00", None), Change(Table.NODES, number(0), b"")]
    assert [stage[0].table for stage in stages(changes)] == [Table.NODES, Table.TUNNELS]
    assert [way.generation for way in ways(two.world, one.name)] == [1, 1]


def test_a_revoked_nodes_addresses_are_nobodys() -> None:
    one, two = nodes = pair(2)
    held = dict(one.plan.addresses)
    one.tell(Event(Kind.REVOKED, two.name, True))
    assert one.plan.addresses.keys() < held.keys()
    assert not one.plan.table(Table.PEERS)
    assert not one.plan.table(Table.NODES)
    one.tell(Event(Kind.REVOKED, two.name))
    settle(nodes)
    assert one.plan.addresses == held
