"""Tunnels that change places among a node's paths keep what is known of them."""

import pytest

from meshfabric.kernel.moves import Moves
from meshfabric.model.plan import Change, Table
from meshfabric.model.tables import FIRST_NODE, PathState, node_value, number, path_value
from tests.packet.rig import Rig, Scene
from tests.packet.world import FAR

KEY = number(FAR - FIRST_NODE)
DEVICES = (31, 32, 33, 34)
ORDERS = [(32, 31, 33, 34), (34, 33, 32, 31), (32, 33, 34), (99, 31, 32, 33), (31, 32, 33, 34), ()]


def state(device: int) -> PathState:
    """Unlike that of any other."""
    return PathState(traffic_ns=7000 + device, sent=device, heard=device, streak=9, ifindex=device)


def write(rig: Rig, devices: tuple[int, ...]) -> Change:
    value = node_value([(device, 1380) for device in devices]) if devices else None
    return Change(Table.NODES, KEY, value, None)


@pytest.mark.parametrize("after", ORDERS)
@pytest.mark.parametrize("disturbed", [False, True])
def test_each_takes_along_what_is_known_of_it(scene: Scene, after: tuple[int, ...], disturbed: bool) -> None:
    rig = scene.rig
    nodes = rig.maps["nodes"]
    nodes.update(KEY, node_value([(device, 1380) for device in DEVICES]))
    for position, device in enumerate(DEVICES):
        rig.set_path(FAR, position, path_value(state(device)))
    change = write(rig, after)
    with Moves(nodes, rig.maps["paths"]).around(change):
        nodes.update(KEY, change.value if isinstance(change.value, bytes) else bytes(nodes.value_size))
        if disturbed and after != DEVICES:  # a probe leaves just now, and finds another device than it knew
            rig.set_path(FAR, 0, path_value(PathState(sent=1, ifindex=after[0] if after else 0)))
    for position, device in enumerate(after):
        found = rig.path(FAR, position)
        if device in DEVICES:
            old = DEVICES[position] if not (disturbed and position == 0 and after != DEVICES) else None
            traffic_ns = state(old).traffic_ns if old else 0
            assert found == state(device)._replace(traffic_ns=traffic_ns)
