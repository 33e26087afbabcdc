"""Several nodes at once: each sees the others as they see it, and nobody whom it cannot reach."""

from itertools import permutations, product
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from meshfabric.compiler.paths import pairs, workload_mtu
from meshfabric.compiler.step import compile_plan
from meshfabric.model.addresses import Address
from meshfabric.model.names import tunnel_device
from meshfabric.model.node import NodeRecord
from meshfabric.model.plan import Route, Rule, Table, TunnelPeer
from meshfabric.model.tables import ADDRESS_VALUE, FIRST_NODE, NODE, number
from meshfabric.model.world import Event, Kind
from meshfabric.store.rights import endpoint_labels
from tests.fabric import Attachment, Node, address_in, blocks, fabric, settle

EXAMPLES = 25
SEGMENTS = ("red", "blue")
FAMILIES = (4, 6)
HEADERS = {4: 20 + 8 + 32, 6: 40 + 8 + 32}
IPIP = 40
LEAST_MTU = 1280


def attachments(node: int, slot: int) -> st.SearchStrategy[Attachment]:
    """An uplink in one of two segments, with any families."""
    host = 16 * node + slot + 1
    both = (f"192.0.2.{host}/24", f"2001:db8::{host:x}/64")
    addresses = st.sampled_from([both, both[:1], both[1:], both[::-1], ()])
    return st.builds(
        Attachment,
        st.sampled_from(SEGMENTS),
        addresses,
        st.sampled_from([1300, 1400, 1500, 9000]),
        st.integers(0, 3),
    )


def _uplinks_of(node: int) -> st.SearchStrategy[list[Attachment]]:
    up_to = [st.tuples(*(attachments(node, slot) for slot in range(count))) for count in range(4)]
    return st.one_of(*up_to).map(list)


fabrics = st.tuples(*map(_uplinks_of, range(3))).map(list)


def joined(one: Attachment, other: Attachment) -> int:
    """The family that two uplinks speak, the shorter header first; 0 for none."""
    shared = [f for f in FAMILIES if address_in(one, f) and address_in(other, f)]
    return min(shared, default=0) if one.segment == other.segment else 0


def peers_of(node: Node) -> dict[tuple[str, str], TunnelPeer]:
    """(device, name of the other node) to its peer there."""
    return {(device, peer.node): peer for device, _, peer in _peers(node)}


def _peers(node: Node) -> list[tuple[str, str, TunnelPeer]]:
    """Device, key and peer."""
    entries: dict[Any, TunnelPeer] = node.plan.table(Table.PEERS)
    return [(device, key, peer) for (device, key), peer in entries.items()]


@given(fabrics)
@settings(max_examples=EXAMPLES, deadline=None)
def test_every_pair_of_uplinks_that_can_be_joined_is_joined_from_both_ends(
    uplinks: list[list[Attachment]],
) -> None:
    nodes = fabric(uplinks)
    for (near, own), (far, others) in permutations(zip(nodes, uplinks, strict=True), 2):
        for (i, one), (j, other) in product(enumerate(own), enumerate(others)):
            peer = peers_of(near).get((tunnel_device("mf", i, j), far.name))
            family = joined(one, other)
            assert (peer is not None) == bool(family)
            if peer:
                assert_is_far_end(peer, far, address_in(other, family), i, j)
        assert len(peers_of(near)) == sum(
            bool(joined(one, other))
            for k, rest in enumerate(uplinks, 1)
            if k != near.number
            for one, other in product(own, rest)
        )


def assert_is_far_end(peer: TunnelPeer, far: Node, address: str, local: int, remote: int) -> None:
    """What a peer says leads to the device (remote, local) of the other node, with its key."""
    device = far.plan.table(Table.TUNNELS)[tunnel_device("mf", remote, local)]
    host = f"[{address}]" if ":" in address else address
    assert peer.endpoint == f"{host}:{device.port}"
    own = {f"{block[1]}/{block.max_prefixlen}" for block in blocks(far.number)}
    assert set(peer.allowed_ips) == own | set(map(str, blocks(far.number)))


@given(fabrics)
@settings(max_examples=EXAMPLES, deadline=None)
def test_keys_belong_to_the_device_at_the_far_end(uplinks: list[list[Attachment]]) -> None:
    nodes = {node.name: node for node in fabric(uplinks)}
    for node in nodes.values():
        for device, key, peer in _peers(node):
            mirrored = tunnel_device("mf", int(device[-1]), int(device[-2]))
            assert key == f"key-{peer.node}-{mirrored}="
            assert device in node.plan.table(Table.TUNNELS)
            assert (mirrored, node.name) in peers_of(nodes[peer.node])


@given(fabrics)
@settings(max_examples=EXAMPLES, deadline=None)
def test_each_device_stays_on_its_uplink(uplinks: list[list[Attachment]]) -> None:
    for node, own in zip(fabric(uplinks), uplinks, strict=True):
        tunnels = node.plan.table(Table.TUNNELS)
        routes: dict[Any, Route] = node.plan.table(Table.ROUTES)
        assert len({device.port for device in tunnels.values()}) == len(tunnels)
        assert {device.mark: Rule(19780 + device.local) for device in tunnels.values()} == node.plan.table(
            Table.RULES
        )
        for name, device in tunnels.items():
            family = max(f for f in FAMILIES if address_in(own[device.local], f))
            assert name == tunnel_device("mf", device.local, device.remote)
            assert device.mtu == own[device.local].mtu - HEADERS[family]
        for slot in range(len(own)):
            inside = {key[1:]: route for key, route in routes.items() if key[0] == 19780 + slot}
            assert inside.pop(("0.0.0.0/0", 4096)) == inside.pop(("::/0", 4096)) == Route()
            assert {route.device for route in inside.values()} <= {f"eth{slot}"}


@given(fabrics)
@settings(max_examples=EXAMPLES, deadline=None)
def test_paths_are_listed_cheapest_first_and_only_with_a_peer(uplinks: list[list[Attachment]]) -> None:
    nodes = fabric(uplinks)
    for near, far in permutations(nodes, 2):
        own, others = uplinks[near.number - 1], uplinks[far.number - 1]
        costs = sorted(
            (own[i].cost + others[j].cost, i, j)
            for i, j in product(range(len(own)), range(len(others)))
            if joined(own[i], others[j])
        )
        wanted = [near.world.links[tunnel_device("mf", i, j)].index for _, i, j in costs]
        place = near.world.node_numbers[far.name]
        entry = near.plan.table(Table.NODES).get(number(place - FIRST_NODE))
        assert (entry is None) == (not wanted)
        mtu = workload_mtu(near.world)
        count, first, told, *found = NODE.unpack(entry) if entry else (0, 0, mtu)
        assert (told, first, found[:count]) == (mtu, 0, wanted[:8])
        assert [(pair.local, pair.remote) for pair in pairs(near.world, far.name)] == [
            (i, j) for _, i, j in costs
        ]


@given(fabrics)
@settings(max_examples=EXAMPLES, deadline=None)
def test_one_mtu_fits_every_tunnel_of_the_fabric(uplinks: list[list[Attachment]]) -> None:
    nodes = fabric(uplinks)
    room = [
        uplink.mtu - HEADERS[6 if address_in(uplink, 6) or not uplink.addresses else 4] - IPIP
        for own in uplinks
        for uplink in own
    ]
    expected = max(min(room, default=LEAST_MTU), LEAST_MTU)
    assert {workload_mtu(node.world) for node in nodes} == {expected}
    for node in nodes:
        assert node.plan.table(Table.MTUS) == {node.name: expected}


@given(fabrics)
@settings(max_examples=EXAMPLES, deadline=None)
def test_everybody_knows_where_everybody_is(uplinks: list[list[Attachment]]) -> None:
    nodes = fabric(uplinks)
    for node in nodes:
        for other in nodes:
            for address in own_addresses(other):
                identity, place = ADDRESS_VALUE.unpack(_value_of(node, address))
                local = other is node
                numbers = node.world.workload_numbers if local else node.world.node_numbers
                assert place == numbers[other.name]
                assert node.world.labels[identity] == endpoint_labels("host", other.name, {})


def own_addresses(node: Node) -> tuple[Address, ...]:
    """The node's fabric addresses."""
    return node.world.allocations[node.name].addresses


def _value_of(node: Node, address: Address) -> bytes:
    return next(value for key, value in node.plan.addresses.items() if key.endswith(address))


@given(fabrics)
@settings(max_examples=20, deadline=None)
def test_a_revoked_node_is_nobodys_peer(uplinks: list[list[Attachment]]) -> None:
    nodes = fabric(uplinks)
    for node in nodes[1:]:
        node.tell(Event(Kind.REVOKED, "n1", True))
        assert not any(peer.node == "n1" for peer in node.plan.table(Table.PEERS).values())
        place = node.world.node_numbers["n1"]
        assert number(place - FIRST_NODE) not in node.plan.table(Table.NODES)
        node.tell(Event(Kind.REVOKED, "n1"))
    before = [str(node.plan) for node in nodes]
    settle(nodes)
    assert [str(node.plan) for node in nodes] == before


@given(fabrics)
@settings(max_examples=20, deadline=None)
def test_a_fabric_steps_to_the_plans_of_its_worlds(uplinks: list[list[Attachment]]) -> None:
    for node in fabric(uplinks):
        assert node.plan == compile_plan(node.world)


def test_whom_nobody_may_reach_nobody_makes_room_for() -> None:
    """The last node in a segment is revoked: the device goes, and its small MTU no longer counts."""
    near, far = fabric([[Attachment("red", ("192.0.2.1/24",))], [Attachment("red", ("192.0.2.2/24",), 1400)]])
    assert (set(near.plan.table(Table.TUNNELS)), workload_mtu(near.world)) == ({"mfwg00"}, 1300)
    near.tell(Event(Kind.REVOKED, far.name, True))
    assert (set(near.plan.table(Table.TUNNELS)), workload_mtu(near.world)) == (set(), 1400)
    assert near.plan.table(Table.MTUS) == {"n1": 1400}
    assert near.plan == compile_plan(near.world)


def test_a_node_that_has_no_key_yet_is_not_sent_anything() -> None:
    """It announces an uplink first and the keys of its tunnels later: no traffic may go there meanwhile."""
    ours, theirs = (Attachment("red", (f"192.0.2.{host}/24",)) for host in (1, 2))
    near, _ = fabric([[ours], [theirs]])
    record = near.world.nodes["n2"]
    near.tell(Event(Kind.NODE, "n2", keyless(record)))
    place = near.world.node_numbers["n2"]
    assert number(place - FIRST_NODE) not in near.plan.table(Table.NODES)
    assert not near.plan.table(Table.PEERS)
    assert "mfwg00" in near.plan.table(Table.TUNNELS), "the device stays, with its key"


def keyless(record: NodeRecord) -> NodeRecord:
    """The same node before it made its keys."""
    return NodeRecord(record.name, record.kind, record.labels, record.uplinks)
