"""Packets in clear: between whom, by which devices, in which order, and what rotations do to it."""

from ipaddress import ip_interface
from itertools import permutations

import pytest
from msgspec.structs import replace

from meshfabric.compiler.paths import pairs, tunnel_mtu, ways, workload_mtu
from meshfabric.compiler.plain import FIRST_VNI, clear_nodes, plain_mtu
from meshfabric.model.addresses import parse_address
from meshfabric.model.keyring import Keyring
from meshfabric.model.plan import PlainDevice, Rule, Table
from meshfabric.model.settings import DatapathSettings, Encryption
from meshfabric.model.tables import MAX_PATHS, PLAIN_END, PLAIN_KEY
from meshfabric.model.uplinks import Size
from meshfabric.model.world import Event, Kind
from tests.fabric import Attachment, Node, fabric, settle

OFF, ON = Encryption.OFF, Encryption.ON
BASES = DatapathSettings()
ROTATION = (Keyring((0, 1), 1, 0), Keyring((0, 1), 1, 1, closing=True), Keyring((None, 1), 1, 1))


def red(node: int, encryption: Encryption = OFF, cost: int = 0) -> Attachment:
    return Attachment("red", (f"192.0.2.{node}/24",), cost=cost, encryption=encryption)


def blue(node: int, cost: int = 10, encryption: Encryption = ON) -> Attachment:
    return Attachment("blue", (f"198.51.100.{node}/24",), cost=cost, encryption=encryption)


def devices(node: Node, far: Node) -> list[str]:
    """The tunnels to another node, the preferred one first."""
    return [way.device for way in ways(node.world, far.name)]


def ends(node: Node) -> dict[tuple[str, int], tuple[bytes, bytes, int, int]]:
    """Where its devices lead: by device and place of a node."""
    names = {link.index: name for name, link in node.world.links.items()}
    return {
        (names[index], place): PLAIN_END.unpack(value)
        for key, value in node.plan.table(Table.PLAIN_ENDS).items()
        for index, place in [PLAIN_KEY.unpack(key)]
    }


@pytest.mark.parametrize("near", Encryption)
@pytest.mark.parametrize("far", Encryption)
def test_a_pair_goes_in_clear_only_if_both_ends_say_so(near: Encryption, far: Encryption) -> None:
    nodes = fabric([[red(1, near)], [red(2, far)]])
    both = near is far is OFF
    for node, other in permutations(nodes):
        assert devices(node, other) == (["mfpl00", "mfwg00"] if both else ["mfwg00"])
        assert list(node.plan.table(Table.PLAIN_DEVICES)) == (["mfpl00"] if both else [])
        assert len(ends(node)) == both
        assert list(clear_nodes(node.world).values()) == (
            [[other.name] * both] if node.world.settings.trusts else []
        )


def test_ports_that_differ_are_no_agreement() -> None:
    one, two = fabric([[red(1)], [red(2)]])
    record = one.world.nodes[two.name]
    for port, wanted in ((4789, ["mfwg00"]), (BASES.plain_port, ["mfpl00", "mfwg00"]), (0, ["mfwg00"])):
        uplinks = (replace(record.uplinks[0], plain_port=port),)
        one.tell(Event(Kind.NODE, two.name, replace(record, uplinks=uplinks)))
        assert devices(one, two) == wanted


def test_the_two_ends_belong_to_each_other() -> None:
    """Their slots differ, as do the numbers of their devices; one port takes it all in."""
    one, two = fabric([[red(1), blue(1)], [blue(2), red(2)]])
    assert one.plan.table(Table.PLAIN_DEVICES) == {
        "mfpl01": PlainDevice(FIRST_VNI + 1, BASES.port_base + 128, 1464)
    }
    assert two.plan.table(Table.PLAIN_DEVICES) == {
        "mfpl10": PlainDevice(FIRST_VNI + 8, BASES.port_base + 128, 1464)
    }
    here, there = parse_address("192.0.2.1"), parse_address("192.0.2.2")
    place = one.world.node_numbers[two.name]
    assert ends(one) == {("mfpl01", place): (there, here, FIRST_VNI + 8, BASES.mark_base + 128)}
    place = two.world.node_numbers[one.name]
    assert ends(two) == {("mfpl10", place): (here, there, FIRST_VNI + 1, BASES.mark_base + 129)}


def test_the_mark_of_an_uplink_leads_to_its_table() -> None:
    one, two = fabric([[blue(1), red(1)], [red(2)]])
    rules = one.plan.table(Table.RULES)
    assert rules[BASES.mark_base + 129] == Rule(BASES.table_base + 1)
    assert BASES.mark_base + 128 not in rules
    assert two.plan.table(Table.RULES)[BASES.mark_base + 128] == Rule(BASES.table_base)


def test_what_encrypts_on_the_same_wire_is_the_last_that_is_taken() -> None:
    one, two = fabric([[red(1), blue(1)], [red(2), blue(2)]])
    assert devices(one, two) == ["mfpl00", "mfwg11", "mfwg00"]


def test_cost_counts_before_speed() -> None:
    one, two = fabric([[red(1, cost=20), blue(1)], [red(2), blue(2)]])
    assert devices(one, two) == ["mfpl00", "mfwg11", "mfwg00"]
    one, two = fabric([[red(1, cost=21), blue(1)], [red(2), blue(2)]])
    assert devices(one, two) == ["mfwg11", "mfpl00", "mfwg00"]


def test_no_rotation_of_keys_moves_a_path_without_any() -> None:
    one, two = nodes = fabric([[red(1), blue(1)], [red(2), blue(2)]])
    before = {way.device: way.position for way in ways(one.world, two.name)}
    for keyring in ROTATION:
        for node in nodes:
            node.tell(Event(Kind.KEYRING, "", keyring))
            settle(nodes)
            found = ways(one.world, two.name)
            assert found[0].device == "mfpl00"
            for way in found:
                assert before.setdefault(way.device, way.position) == way.position
    assert devices(one, two) == ["mfpl00", "mfwg11b", "mfwg00b"]


def test_nor_does_one_that_comes_move_another() -> None:
    one, two = nodes = fabric([[red(1), blue(1)], [red(2, ON), blue(2)]])
    before = {way.device: way.position for way in ways(one.world, two.name)}
    record = one.world.nodes[two.name]
    uplinks = (replace(record.uplinks[0], plain_port=BASES.plain_port), *record.uplinks[1:])
    one.tell(Event(Kind.NODE, two.name, replace(record, uplinks=uplinks)))
    one.carry_out()
    found = {way.device: way.position for way in ways(one.world, two.name)}
    assert before.items() <= found.items()
    assert found.keys() - before.keys() == {"mfpl00"}
    assert len(nodes) == 2


@pytest.mark.parametrize("count", [1, 3, 4, 5, 8])
def test_half_of_the_positions_is_for_those_in_clear(count: int) -> None:
    uplinks = [
        [Attachment("red", (f"192.0.2.{16 * node + slot}/24",), encryption=OFF) for slot in range(uplinks)]
        for node, uplinks in ((1, 1), (2, count))
    ]
    one, two = nodes = fabric(uplinks)
    for keyring in (None, *ROTATION):
        for node in nodes if keyring else ():
            node.tell(Event(Kind.KEYRING, "", keyring))
        settle(nodes)
        found = ways(one.world, two.name)
        assert [way.generation for way in found[: min(count, 4)]] == [None] * min(count, 4)
        assert any(way.generation is not None for way in found)
        assert len({way.position for way in found}) == len(found) <= MAX_PATHS


def test_who_is_revoked_is_cut_off_there_too() -> None:
    one, two, three = fabric([[red(1)], [red(2)], [red(3)]])
    one.tell(Event(Kind.REVOKED, two.name, True))
    assert not devices(one, two)
    assert {place for _, place in ends(one)} == {one.world.node_numbers[three.name]}
    one.tell(Event(Kind.REVOKED, two.name))
    assert {place for _, place in ends(one)} == {one.world.node_numbers[far.name] for far in (two, three)}


def test_an_address_that_changes_is_followed_at_both_ends() -> None:
    one, two = nodes = fabric([[red(1)], [red(2)]])
    one.see("eth0", addresses=("192.0.2.77/24",))
    settle(nodes)
    moved = parse_address(str(ip_interface("192.0.2.77/24").ip))
    assert [end[1] for end in ends(one).values()] == [moved]
    assert [end[0] for end in ends(two).values()] == [moved]


def test_what_a_workload_may_send_does_not_depend_on_it() -> None:
    """Any node may be one that encrypts, and which do may change."""
    clear, encrypted = (fabric([[red(1, how)], [red(2, how)]])[0] for how in (OFF, ON))
    assert workload_mtu(clear.world) == workload_mtu(encrypted.world)
    assert plain_mtu(Size(1500, 4)) == 1500 - 20 - 8 - 8
    assert plain_mtu(Size(1500, 6)) == 1500 - 40 - 8 - 8 > tunnel_mtu(Size(1500, 6))


def test_an_older_agents_record_says_nothing_and_means_encryption() -> None:
    one, two = fabric([[red(1)], [red(2)]])
    record = one.world.nodes[two.name]
    uplinks = (replace(record.uplinks[0], plain_port=0),)  # the default: what a record without it becomes
    one.tell(Event(Kind.NODE, two.name, replace(record, uplinks=uplinks)))
    assert not any(pair.plain for pair in pairs(one.world, two.name))
    assert not one.plan.table(Table.PLAIN_ENDS)
