"""Packets through a third node: who has such paths, when they are taken, and what the relay serves."""

from itertools import permutations

import pytest
from msgspec.structs import replace

from meshfabric.compiler.paths import pairs, ways
from meshfabric.compiler.relays import relayed_nodes
from meshfabric.model.addresses import parse_address
from meshfabric.model.keyring import Keyring
from meshfabric.model.node import NODE_VERSION, RECORD_VERSION
from meshfabric.model.plan import Table
from meshfabric.model.settings import DatapathSettings
from meshfabric.model.tables import (
    FIRST_NODE,
    RELAY_END,
    RELAY_SOURCE,
    RELAY_SOURCE_KEY,
    RELAY_TARGET,
    RelayEnd,
)
from meshfabric.model.world import Event, Kind
from tests.fabric import Attachment, Node, fabric, settle

BASES = DatapathSettings()
RELAY = "n3"


def red(node: int, relay: str = "") -> Attachment:
    return Attachment("red", (f"192.0.2.{node}/24",), relay=relay)


def blue(node: int, relay: str = "") -> Attachment:
    return Attachment("blue", (f"198.51.100.{node}/24",), relay=relay)


def bridged() -> list[Node]:
    """n1 in red and n2 in blue have no segment in common; n3 is in both."""
    uplinks = [[red(1), red(1, RELAY)], [blue(2), blue(2, RELAY)], [red(3), blue(3)]]
    nodes = fabric(uplinks, relays={RELAY})
    hear(nodes)
    return nodes


def hear(nodes: list[Node], port_moved_by: int = 0) -> None:
    """WireGuard on the relay hears the others from where they say that they are; a NAT may move the port."""
    relay = nodes[2]
    for index, node in enumerate(nodes[:2]):
        device = f"mfwg{index}0"
        address = parse_address(node.world.uplinks[0].addresses[0])
        far = next(
            end for end in relay.world.nodes[node.name].tunnels if (end.local, end.remote) == (0, index)
        )
        relay.tell(Event(Kind.HEARD, (device, node.name), (address, far.port + port_moved_by)))


def port_of(node: Node, far: Node, slots: tuple[int, int]) -> int:
    """Of a tunnel's end, as the others know it."""
    ends = node.world.nodes[far.name].tunnels
    return next(end.port for end in ends if (end.local, end.remote) == slots)


def endpoints(node: Node, far: Node) -> list[str]:
    """Where WireGuard sends what is for another node."""
    return [peer.endpoint for _, peer in node.plan.entries(Table.PEERS) if peer.node == far.name]


def test_two_nodes_without_a_common_segment_meet_at_the_relay() -> None:
    one, two, relay = bridged()
    ports = relayed_nodes(relay.world)
    assert ports == {
        name: BASES.relay_port_base + 16 * (relay.world.node_numbers[name] - FIRST_NODE)
        for name in ("n1", "n2")
    }
    assert [way.device for way in ways(one.world, "n2")] == ["mfwg11"]
    assert endpoints(one, two) == [f"192.0.2.3:{ports['n2'] + 1}"]
    assert endpoints(two, one) == [f"198.51.100.3:{ports['n1'] + 1}"]


def test_the_relay_hands_on_to_the_socket_that_faces_the_sender() -> None:
    *nodes, relay = bridged()
    names = {device: link.index for device, link in relay.world.links.items()}
    found = {}
    for key, value in relay.plan.entries(Table.RELAY_SOURCES):
        address, port = RELAY_SOURCE_KEY.unpack(key)
        *end, ifindex, taken_at = RELAY_SOURCE.unpack(value)
        found[address, int.from_bytes(port, "big")] = RelayEnd(*end), ifindex, taken_at
    targets = {
        RelayEnd(*RELAY_END.unpack(key)): RELAY_TARGET.unpack(value)
        for key, value in relay.plan.entries(Table.RELAY_ENDS)
    }
    for node, device, own in zip(nodes, ("eth0", "eth1"), ("192.0.2.3", "198.51.100.3"), strict=True):
        number = relay.world.node_numbers[node.name] - FIRST_NODE
        address = parse_address(node.world.uplinks[0].addresses[0])
        port, facing = port_of(relay, node, (1, 1)), RelayEnd(number, 1, 1, 0)
        assert found[address, port] == (facing, names[device], parse_address(own))
        slot = int(device[-1])
        mark = BASES.mark_base + 8 * slot
        wanted = (address, parse_address(own), names[device], mark, port.to_bytes(2, "big"))
        assert targets[facing] == wanted
        assert mark in relay.plan.table(Table.RULES)


def test_nobody_is_served_who_was_not_heard() -> None:
    uplinks = [[red(1), red(1, RELAY)], [blue(2), blue(2, RELAY)], [red(3), blue(3)]]
    relay = fabric(uplinks, relays={RELAY})[2]
    assert relayed_nodes(relay.world)
    assert not list(relay.plan.entries(Table.RELAY_SOURCES))


def test_a_nat_that_moves_ports_hides_the_other_sockets() -> None:
    nodes = bridged()
    assert list(nodes[2].plan.entries(Table.RELAY_SOURCES))
    hear(nodes, port_moved_by=1000)
    assert not list(nodes[2].plan.entries(Table.RELAY_SOURCES))


def test_a_direct_path_comes_first() -> None:
    uplinks = [[red(1), red(1, RELAY)], [red(2), red(2, RELAY)], [red(3)]]
    one, two, _ = fabric(uplinks, relays={RELAY})
    for node, far in permutations((one, two)):
        assert [way.device for way in ways(node.world, far.name)] == ["mfwg00", "mfwg11"]


def test_a_drained_uplink_drains_what_goes_through_a_relay_by_it() -> None:
    uplinks = [[red(1), red(1, RELAY), blue(1)], [red(2), red(2, RELAY), blue(2)], [red(3)]]
    one, two, relay = fabric(uplinks, relays={RELAY})
    one.tell(Event(Kind.DRAINING, "up0", True))
    settle([one, two, relay])
    assert [(pair.local, pair.relay) for pair in pairs(one.world, "n2")] == [(2, ""), (0, ""), (1, RELAY)]


@pytest.mark.parametrize("without", ["on", "relay"])
def test_no_relay_no_path(without: str) -> None:
    """It has to offer it, and each of the two to ask for it."""
    asks = "" if without == "relay" else RELAY
    two = [blue(2), blue(2, asks)] if asks else [blue(2)]
    uplinks = [[red(1), red(1, RELAY)], two, [red(3), blue(3)]]
    one, two_, _ = fabric(uplinks, relays={RELAY} if without == "relay" else ())
    assert not ways(one.world, two_.name)
    assert not endpoints(one, two_)


def test_a_relay_that_is_revoked_relays_nothing() -> None:
    one, two, relay = nodes = bridged()
    for node in nodes:
        node.tell(Event(Kind.REVOKED, RELAY, True))
    assert not endpoints(one, two)
    one, two, relay = nodes = bridged()
    for node in nodes:
        node.tell(Event(Kind.REVOKED, "n1", True))
    assert list(relayed_nodes(relay.world)) == ["n2"]
    assert {RELAY_SOURCE.unpack(value)[0] for _, value in relay.plan.entries(Table.RELAY_SOURCES)} == {
        relay.world.node_numbers["n2"] - FIRST_NODE
    }


def test_of_a_socket_that_two_tell_of_the_older_one_has_it() -> None:
    *_, relay = bridged()
    before = dict(relay.plan.entries(Table.RELAY_SOURCES))
    record = relay.world.nodes["n2"]
    address = parse_address("192.0.2.1")
    relay.tell(Event(Kind.HEARD, ("mfwg10", "n2"), (address, record.tunnels[0].port)))
    after = dict(relay.plan.entries(Table.RELAY_SOURCES))
    mine = {key: value for key, value in before.items() if key.startswith(address)}
    assert mine.items() <= after.items()


def test_older_agents_refuse_what_they_would_take_for_a_direct_uplink() -> None:
    one, _, relay = bridged()
    assert relay.world.nodes["n1"].min_version == NODE_VERSION
    assert one.world.nodes[RELAY].min_version == RECORD_VERSION


def test_both_generations_of_keys_have_ports_of_their_own() -> None:
    one, two, relay = nodes = bridged()
    for node in nodes:
        node.tell(Event(Kind.KEYRING, "", Keyring((0, 1), 0, 0)))
    settle(nodes)
    first = relayed_nodes(relay.world)["n2"]
    assert sorted(endpoints(one, two)) == [f"192.0.2.3:{first + 1}", f"192.0.2.3:{first + 9}"]


def test_families_that_differ_do_not_meet() -> None:
    two, three = (("2001:db8::2/64",), ("2001:db8::3/64",))
    far = [Attachment("blue", two), Attachment("blue", two, relay=RELAY)]
    one, other, _ = fabric(
        [[red(1), red(1, RELAY)], far, [red(3), Attachment("blue", three)]], relays={RELAY}
    )
    assert not endpoints(one, other)


def test_the_segment_counts_for_a_direct_path_only() -> None:
    *_, relay = bridged()
    record = relay.world.nodes["n1"]
    assert [uplink.meeting for uplink in record.uplinks] == ["red", "@n3"]
    assert replace(record.uplinks[1], relay="").meeting == "red"
