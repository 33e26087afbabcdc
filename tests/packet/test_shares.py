"""Flows that are shared among paths: each stays on its own as long as that is sound."""

from collections import Counter

import pytest
from scapy.layers.inet import TCP

from meshfabric.model.tables import FLOW_KEY, SHARES
from tests.packet.arena import Arena
from tests.packet.choice import HELD, LOSSY, SILENT, SLOW, STRANGER, UP, Chosen, State, positions, write
from tests.packet.frames import V4, frame, ip
from tests.packet.rig import Rig, Scene
from tests.packet.world import FAR

FLOWS = [bytes([at]).ljust(FLOW_KEY.size, b"\1") for at in range(250)]
PATHS = {0: "mfwg00", 1: "mfwg01", 2: "mfwg10", 3: "mfwg11"}
UNSOUND = {"silent": SILENT, "lossy": LOSSY, "slow": SLOW, "held": HELD, "of another device": STRANGER}


@pytest.fixture(scope="module")
def four(rig: Rig, place: Arena) -> dict[int, str]:
    """As many tunnels to the far node, by position."""
    missing = [name for name in PATHS.values() if name not in rig.ifindex]
    rig.ifindex.update(place.devices(missing))
    return PATHS


def set_all(rig: Rig, devices: dict[int, str], **unlike: State) -> None:
    """All of them are up, but for what is given."""
    for at, device in devices.items():
        write(rig, at, device, unlike.get(device, UP))


@pytest.mark.parametrize("backwards", [False, True])
def test_flows_go_as_the_slots_say(
    scene: Scene, chosen: Chosen, four: dict[int, str], backwards: bool
) -> None:
    """Each of them always the same way."""
    set_all(scene.rig, four)
    with positions(scene.rig, four, backwards=backwards, shares=[0, 1, 1, 1] * (SHARES // 4)):
        taken = [chosen(FAR, flow) for flow in FLOWS]
        assert taken == [chosen(FAR, flow) for flow in FLOWS]
    counts = Counter(taken)
    assert counts.keys() == {"mfwg00", "mfwg01"}
    assert 2 * counts["mfwg00"] < counts["mfwg01"] < 4.5 * counts["mfwg00"]


@pytest.mark.parametrize("name", UNSOUND)
def test_only_flows_of_a_path_that_is_not_sound_move(
    scene: Scene, chosen: Chosen, four: dict[int, str], name: str
) -> None:
    def look(**unlike: State) -> list[str | None]:
        set_all(scene.rig, four, **unlike)
        return [chosen(FAR, flow) for flow in FLOWS]

    with positions(scene.rig, four, shares=[0, 1, 2, 3] * (SHARES // 4)):
        before, meanwhile, after = look(), look(mfwg01=UNSOUND[name]), look()
    assert after == before
    moved = [new for old, new in zip(before, meanwhile, strict=True) if new != old]
    assert len(moved) == before.count("mfwg01")
    assert Counter(moved).keys() == {"mfwg00", "mfwg10", "mfwg11"}, "to all others"


def test_where_none_that_share_is_sound_the_order_counts(
    scene: Scene, chosen: Chosen, four: dict[int, str]
) -> None:
    with positions(scene.rig, four, shares=[0, 1] * (SHARES // 2)):
        set_all(scene.rig, four, mfwg00=LOSSY, mfwg01=SILENT)
        assert {chosen(FAR, flow) for flow in FLOWS} == {"mfwg10"}, "it is sound, if not preferred"
        set_all(scene.rig, four, mfwg00=LOSSY, mfwg01=SLOW, mfwg10=SILENT, mfwg11=HELD)
        assert {chosen(FAR, flow) for flow in FLOWS} == {"mfwg01"}


def test_segments_fit_the_path_that_is_a_flows_share(scene: Scene, four: dict[int, str]) -> None:
    set_all(scene.rig, four)
    told = set()
    with positions(scene.rig, four, {0: 1380, 1: 1300}, shares=[0, 1] * (SHARES // 2)):
        for port in range(40000, 40040):
            head = ip("alpha", "far", V4)
            syn = bytes(head / TCP(sport=port, dport=80, flags="S", options=[("MSS", 8960)]))
            packet = scene.rig.run("from_workload", frame(syn), "mfp1").packet
            at = packet.index(b"\x02\x04") + 2
            told.add(int.from_bytes(packet[at : at + 2], "big"))
    assert told == {1340, 1260}
