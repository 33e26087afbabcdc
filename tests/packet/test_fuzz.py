"""Whatever bytes come: every program ends with a verdict, and every drop has its reason.

Where the oracle knows the program it must agree, on the bytes that come out as well; the
others may not let a packet grow or vanish uncounted.
"""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshfabric.model.tables import NO_DROPS, Direction, Reason
from tests.packet import world as fabric
from tests.packet.bent import LONGEST, SHORTEST, bent, framed, is_no_probe, padded, rewritten, sent
from tests.packet.oracle import NEXT, REDIRECT, SHOT
from tests.packet.rig import MARK, Rig, Run, Scene
from tests.packet.world import FAR, Rule, World, standard

EXAMPLES = 200
LINK_HEADER = 14
LONGEST_ERROR = LINK_HEADER + 1280
LONGEST_ANSWER = LINK_HEADER + 72
"""A neighbour advertisement with its option."""


def narrow() -> World:
    """The world of the drawing, with a node that takes little, and few who may not speak."""
    world = standard()
    world.nodes[FAR].mtu = 1380
    world.rules += [Rule(fabric.ID_BETA, fabric.ANY, Direction.EGRESS)]
    world.rules += [Rule(fabric.ID_GUEST, fabric.ID_ALPHA, Direction.EGRESS)]
    world.workloads[fabric.BETA].netkit = True
    return world


fuzz = settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@fuzz
@given(packets=st.lists(sent(), min_size=1, max_size=12))
def test_from_workloads(rig: Rig, packets: list[tuple[str, bytes, int]]) -> None:
    """In a veth's program and in a netkit's; the oracle agrees with every byte."""
    scene = Scene(rig, narrow())
    for device, data, segment in packets:
        scene.from_workload(device, data, segment)


@fuzz
@given(packets=st.lists(rewritten(), min_size=1, max_size=12))
def test_what_is_rewritten(rig: Rig, packets: list[bytes]) -> None:
    """Checksums, quotes and options, to the byte."""
    scene = Scene(rig, narrow())
    for data in packets:
        scene.from_workload("mfp1", data)


@fuzz
@given(packets=st.lists(bent("far").filter(is_no_probe).map(padded), min_size=1, max_size=12))
def test_out_of_tunnels(rig: Rig, packets: list[bytes]) -> None:
    """Probes excepted, of which the oracle knows nothing."""
    scene = Scene(rig, narrow())
    for data in packets:
        scene.from_overlay("mfwg00", data)


@fuzz
@given(data=st.one_of(bent("far"), bent("host")).map(padded), mark=st.sampled_from([0, MARK]))
def test_into_tunnels_and_workloads(rig: Rig, data: bytes, mark: int) -> None:
    """What our mark is on passes, if it is as long as was said; else only a probe of the host's does."""
    rig.reset(narrow())
    for program, device, told in (
        ("to_overlay", "mfwg00", len(data)),
        ("to_overlay", "mfwg00", len(data) + 1),
        ("to_plain", "mfwg00", len(data)),
        ("to_workload", "mfp1", 0),
    ):
        run = rig.run(program, data, device, mark=mark, told=told)
        assert run.action in (NEXT, SHOT)
        _judge(run, data, 0)
        if mark and program == "to_plain":
            assert (run.action, run.reason) == (SHOT, Reason.NO_PATH)
        elif mark and (program == "to_workload" or told == len(data)):
            assert (run.action, run.packet, run.mark) == (NEXT, data, 0)


@fuzz
@given(data=st.one_of(framed("far"), framed("alpha"), framed("stranger")))
def test_on_uplinks(rig: Rig, data: bytes) -> None:
    """Nothing is rewritten on a wire."""
    rig.reset(narrow())
    for program in ("from_uplink", "to_uplink"):
        run = rig.run(program, data, "up0")
        assert run.action in (NEXT, SHOT)
        assert run.packet == data
        _judge(run, data, 0)


@fuzz
@given(data=st.one_of(framed("alpha"), st.binary(min_size=SHORTEST, max_size=LONGEST)))
def test_nothing_vanishes_and_nothing_grows(rig: Rig, data: bytes) -> None:
    """Bytes without any sense among them, too."""
    rig.reset(narrow())
    for program, device, room in (
        ("from_workload", "mfp1", 0),
        ("from_netkit", "mfp2", 0),
        ("from_overlay", "mfwg00", LINK_HEADER),
        ("to_overlay", "mfwg00", 0),
        ("from_plain", "mfwg00", LINK_HEADER),
        ("to_plain", "mfwg00", 0),
    ):
        run = rig.run(program, data, device)
        assert run.action in (NEXT, SHOT, REDIRECT)
        _judge(run, data, room)


def _judge(run: Run, data: bytes, room: int) -> None:
    """A drop has a reason, what passes or is sent on is counted as no drop; only answers may be longer."""
    if run.action == NEXT:
        assert run.counted == {}
    else:
        assert run.reason is not None
    if run.action == REDIRECT and run.mark and not run.told:
        assert run.reason is not None
        assert run.reason in NO_DROPS
    assert len(run.packet) <= (LONGEST_ERROR if run.told else max(len(data) + room, LONGEST_ANSWER))
