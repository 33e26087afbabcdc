"""What class a packet is of, and how it says so on its way into a tunnel: by its hash."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from scapy.layers.inet import ICMP, IP

from meshfabric.kernel import loader
from meshfabric.model.tables import ClassRule as Flag
from meshfabric.model.tables import Reason
from tests.packet import outside
from tests.packet.arena import Arena, compile_extra
from tests.packet.frames import FROM_PORT, V4, V6, address, frame, ip, tcp, udp
from tests.packet.rig import MARK, SIZES, Rig, Run, Scene
from tests.packet.test_probes import probe
from tests.packet.test_recent import hash_of
from tests.packet.world import ALPHA, BETA, FAR, TCP, UDP, ClassRule, World

NODE = Reason.FORWARDED_TO_NODE
FAMILIES = pytest.mark.parametrize("family", [V4, V6], ids=["v4", "v6"])
EXTRA = {
    "class_workload": (["tells_class"], SIZES),
    "class_overlay": (["reflects_class", "asks_class"], ["flows", "new_flows", "fragments"]),
}
"""Programs of this test's own by their file, with the tables that they share with the rig's."""
CLASS_SHIFT, MAGIC_SHIFT, MAGIC = 28, 10, 0x2D6F6
CONTROL, VIDEO, VOICE, BULK = 1, 4, 5, 15
SERVICE_CLASS_AT = 8 + 6 * 4 + 3  # in struct flow

Sends = Callable[[bytes], int | None]


@pytest.fixture(scope="module")
def classy(place: Arena, rig: Rig, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """The rig, with programs that show what hash they leave behind."""
    folder = tmp_path_factory.mktemp("classes")
    own = dict(rig.programs)
    with ExitStack() as stack:
        stack.callback(rig.programs.update, own)
        stack.callback(rig.programs.clear)
        for name, (programs, tables) in EXTRA.items():
            built = compile_extra(Path(__file__).with_name(f"{name}.bpf.c"), folder)
            sizes = {table: SIZES[table] for table in tables}
            loaded = place.run(loader.load, [built], place.pins, sizes, outside.SETTINGS)
            stack.enter_context(loaded)
            assert "flows" in loaded.adopted
            rig.programs.update({program: loaded.programs[program] for program in programs})
        yield rig


@pytest.fixture
def told(classy: Rig, scene: Scene) -> Sends:
    """What is told of a packet that alpha sends to another node: its class, or None."""
    classy.forget_recent()

    def send(packet: bytes) -> int | None:
        run = classy.run("tells_class", frame(packet), "mfp1")
        assert run.reason == NODE, run.counted
        return read(run)

    return send


def read(run: Run) -> int | None:
    """The class in a hash, None if there is none."""
    if run.noted == 0:
        return None
    assert run.noted >> MAGIC_SHIFT & 0x3FFFF == MAGIC
    return run.noted >> CLASS_SHIFT


def from_far(scene: Scene, packet: bytes) -> None:
    """A packet out of the tunnel to alpha."""
    assert scene.rig.run("from_overlay", packet, "mfwg00").reason == Reason.FORWARDED_TO_LOCAL


def alpha_of(number: int, rules: int = 0, *more: ClassRule) -> Callable[[World], None]:
    """Alpha's class, and the rules about its packets."""

    def edit(world: World) -> None:
        world.workloads[ALPHA].class_number, world.workloads[ALPHA].class_rules = number, rules
        world.class_rules = list(more)

    return edit


def dscp(value: int, family: int) -> dict[str, int]:
    """Fields of an IP header that say it."""
    return {"tos" if family == V4 else "tc": value << 2 | 1}


@FAMILIES
def test_the_default_class_says_nothing(told: Sends, scene: Scene, family: int) -> None:
    for _ in range(2):
        assert told(udp("alpha", "far", 53, family=family)) is None


@FAMILIES
def test_a_workloads_class_is_told_with_the_flows_own_hash(classy: Rig, scene: Scene, family: int) -> None:
    scene.change(alpha_of(BULK), ALPHA)
    run = classy.run("tells_class", frame(udp("alpha", "far", 53, family=family)), "mfp1")
    [key] = classy.maps["new_flows"].keys()
    assert run.noted == BULK << CLASS_SHIFT | MAGIC << MAGIC_SHIFT | hash_of(key) & 0x3FF
    assert (run.reason, run.mark) == (NODE, MARK)


def test_the_default_class_is_told_where_uplinks_want_to_know(told: Sends, scene: Scene) -> None:
    scene.change(alpha_of(0, Flag.TELLS_DEFAULT), ALPHA)
    assert told(udp("alpha", "far", 53)) == 0


BY_443 = alpha_of(VIDEO, Flag.BY_PORT, ClassRule(ALPHA, VOICE, protocol=TCP, port=443, port_bits=16))


@FAMILIES
def test_a_conversation_has_the_class_of_its_port(told: Sends, scene: Scene, family: int) -> None:
    """New, answered, and busy."""
    scene.change(BY_443, ALPHA)
    for flags in ("S", "A", "A", "A"):
        assert told(tcp("alpha", "far", 443, flags, family=family)) == VOICE
        from_far(
            scene, tcp("far", "alpha", FROM_PORT, "SA" if flags == "S" else "A", sport=443, family=family)
        )
    assert told(tcp("alpha", "far", 444, family=family)) == VIDEO
    assert told(udp("alpha", "far", 443, family=family)) == VIDEO


@FAMILIES
def test_the_port_is_the_servers_also_where_that_is_here(told: Sends, scene: Scene, family: int) -> None:
    scene.change(BY_443, ALPHA)
    for flags, answered in (("S", "SA"), ("A", "A"), ("A", "A")):
        from_far(scene, tcp("far", "alpha", 443, flags, family=family))
        assert told(tcp("alpha", "far", FROM_PORT, answered, sport=443, family=family)) == VOICE
    assert told(tcp("alpha", "far", FROM_PORT + 1, sport=443, family=family)) == VIDEO, (
        "no server of that port"
    )


def test_both_ends_of_a_local_conversation_have_their_own(classy: Rig, told: Sends, scene: Scene) -> None:
    """A rule of beta's says nothing of what alpha sends, and the other way round."""

    def edit(world: World) -> None:
        alpha_of(VIDEO)(world)
        world.workloads[BETA].class_number = BULK

    scene.change(edit, ALPHA, BETA)
    for device, packet in (
        ("mfp1", tcp("alpha", "beta", 8080)),
        ("mfp2", tcp("beta", "alpha", FROM_PORT, "SA", sport=8080)),
    ):
        assert scene.from_workload(device, frame(packet)) == Reason.FORWARDED_TO_LOCAL
    [flow] = [value for _, value in scene.rig.maps["new_flows"].items()]
    assert sorted(divmod(flow[SERVICE_CLASS_AT], 16)) == [VIDEO, BULK]


@FAMILIES
def test_what_a_packet_says_itself_comes_first(told: Sends, scene: Scene, family: int) -> None:
    scene.change(
        alpha_of(
            VIDEO,
            Flag.BY_DSCP,
            ClassRule(ALPHA, VOICE, dscp=46),
            ClassRule(ALPHA, BULK, dscp=46, protocol=UDP, port=53, port_bits=16),
            ClassRule(BETA, CONTROL, dscp=8),
        ),
        ALPHA,
    )
    for turn in range(3):
        for port, value, expected in ((53, 0, VIDEO), (53, 46, BULK), (54, 46, VOICE), (54, 8, VIDEO)):
            packet = udp("alpha", "far", port, family=family, **dscp(value, family))
            assert told(packet) == expected, (turn, port, value)
            if turn:
                from_far(scene, udp("far", "alpha", FROM_PORT, sport=port, family=family))


def test_by_dscp_too_the_port_is_the_servers(told: Sends, scene: Scene) -> None:
    rule = ClassRule(ALPHA, BULK, dscp=46, protocol=TCP, port=443, port_bits=16)
    scene.change(alpha_of(VIDEO, Flag.BY_DSCP, rule), ALPHA)
    for flags in ("S", "A", "A"):
        from_far(scene, tcp("far", "alpha", 443, flags))
        assert told(tcp("alpha", "far", FROM_PORT, "A", sport=443, tos=46 << 2)) == BULK
        assert told(tcp("alpha", "far", FROM_PORT, "A", sport=443)) == VIDEO


def test_a_class_that_changes_is_told_from_the_next_packet_on(told: Sends, scene: Scene) -> None:
    """Of a busy flow, which loses none."""
    for turn in range(3):
        assert told(udp("alpha", "far", 53)) is None
        if turn < 2:
            from_far(scene, udp("far", "alpha", FROM_PORT, sport=53))
    for number in (VIDEO, BULK):
        scene.change(alpha_of(number), ALPHA)
        assert [told(udp("alpha", "far", 53)) for _ in range(3)] == 3 * [number]


def test_what_has_no_flow_is_of_the_workloads_own_class(told: Sends, scene: Scene) -> None:
    scene.change(
        alpha_of(VIDEO, Flag.BY_PORT, ClassRule(ALPHA, VOICE, protocol=UDP, port=53, port_bits=16)), ALPHA
    )
    assert told(udp("alpha", "far", 53)) == VOICE
    from_far(scene, udp("far", "alpha", FROM_PORT, sport=53))
    quoted = udp("far", "alpha", FROM_PORT, sport=53)
    error = ip("alpha", "far") / ICMP(type=3, code=3) / IP(quoted)
    assert told(bytes(error)) == VIDEO


@FAMILIES
def test_probes_and_their_answers_are_the_fabrics_own_traffic(classy: Rig, scene: Scene, family: int) -> None:
    ends = (address("host", family), address("far", family))
    scene.change(lambda world: setattr(world.nodes[FAR], "probed", ends))
    asked = classy.run("asks_class", probe("host", "far", family), "mfwg00")
    assert (asked.counted, read(asked)) == ({}, CONTROL)
    answered = classy.run("reflects_class", probe("far", "host", family), "mfwg00")
    assert (answered.reason, read(answered)) == (Reason.PROBE_REFLECTED, CONTROL)
