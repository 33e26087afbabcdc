"""Any packets in any order, while the agent changes its mind: program and oracle always agree."""

from collections.abc import Callable

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshfabric.model.tables import Direction, Verdict
from tests.packet import world as fabric
from tests.packet.frames import V4, V6, echo, frame, tcp, udp
from tests.packet.rig import Rig, Scene
from tests.packet.world import Owner, Rule, World, standard

LOCAL_NAMES = {"alpha": "mfp1", "beta": "mfp2", "guest": "mfp3", "host": "mfhost1"}
REMOTE_NAMES = ("far", "away", "nobody")
PORTS = (22, 53, 443, 8080, 0x1F00)
FLAGS = ("S", "SA", "A", "FA", "R")
LONGEST = 14
Step = Callable[[Scene], object]

names = st.sampled_from([*LOCAL_NAMES, *REMOTE_NAMES])
families = st.sampled_from([V4, V6])
ports = st.sampled_from(PORTS)


@st.composite
def packets(draw: st.DrawFn, source: str, destination: str) -> bytes:
    """Few ports at both ends, so that answers happen."""
    family, sport, dport = draw(families), draw(ports), draw(ports)
    kind = draw(st.sampled_from(["tcp", "udp", "echo", "reply"]))
    if kind == "tcp":
        return tcp(source, destination, dport, draw(st.sampled_from(FLAGS)), sport=sport, family=family)
    if kind == "udp":
        return udp(source, destination, dport, sport=sport, family=family)
    return echo(source, destination, family, reply=kind == "reply")


@st.composite
def outbound(draw: st.DrawFn) -> Step:
    """From a workload, usually under its own name."""
    name = draw(st.sampled_from(list(LOCAL_NAMES)))
    source = draw(st.sampled_from([name, name, name, "beta", "far"]))
    data = frame(draw(packets(source, draw(names))))
    return lambda scene: scene.from_workload(LOCAL_NAMES[name], data)


@st.composite
def inbound(draw: st.DrawFn) -> Step:
    """Out of a tunnel, usually from another node to one of ours."""
    source = draw(st.sampled_from(["far", "far", "away", "alpha", "nobody"]))
    data = draw(packets(source, draw(names)))
    return lambda scene: scene.from_overlay("mfwg01", data)


@st.composite
def rule_changes(draw: st.DrawFn) -> Step:
    """A rule comes or goes, and its subject's generation moves."""
    subject = draw(st.sampled_from(list(SUBJECTS)))
    rule = Rule(
        SUBJECTS[subject],
        draw(st.sampled_from([fabric.ANY, fabric.ID_ALPHA, fabric.ID_BETA, fabric.ID_FAR])),
        draw(st.sampled_from(Direction)),
        draw(st.sampled_from(Verdict)),
        draw(st.sampled_from([fabric.ANY, fabric.TCP, fabric.UDP])),
        draw(ports),
        draw(st.sampled_from([None, 8, 16])),
        draw(st.sampled_from([100, 200])),
    )
    remove = draw(st.booleans())
    return lambda scene: scene.change(lambda world: _set_rule(world, rule, remove), subject)


SUBJECTS = {
    fabric.ALPHA: fabric.ID_ALPHA,
    fabric.BETA: fabric.ID_BETA,
    fabric.GUEST: fabric.ID_GUEST,
    fabric.HOST: fabric.ID_HOST,
}


def _slot(rule: Rule) -> tuple[object, ...]:
    """What makes two rules one entry of the map."""
    bits = rule.port_bits or 0 if rule.protocol else 0
    port = rule.port >> (16 - bits) if bits else 0
    return rule.subject, rule.peer, rule.direction, rule.protocol, bits, port


def _set_rule(world: World, rule: Rule, remove: bool) -> None:
    world.rules = [other for other in world.rules if _slot(other) != _slot(rule)]
    if not remove:
        world.rules.append(rule)


@st.composite
def moves(draw: st.DrawFn) -> Step:
    """beta's or far's address moves, or is given up."""
    text, homes = draw(
        st.sampled_from(
            [
                ("10.77.0.2", {fabric.BETA, fabric.FAR, fabric.AWAY}),
                ("10.77.1.0/24", {fabric.FAR, fabric.AWAY}),
            ]
        )
    )
    place = draw(st.sampled_from([0, *sorted(homes)]))
    identity = draw(st.sampled_from([fabric.ID_BETA, fabric.ID_FAR]))

    def edit(world: World) -> None:
        world.addresses.pop(text, None)
        if place:
            world.addresses[text] = Owner(identity, place)

    return lambda scene: scene.change(edit, *homes)


@st.composite
def silences(draw: st.DrawFn) -> Step:
    """Long enough for some flows, not for others."""
    seconds = draw(st.sampled_from([90, 200, 1000]))
    return lambda scene: scene.age(seconds)


steps = st.one_of(
    outbound(), outbound(), outbound(), inbound(), inbound(), rule_changes(), moves(), silences()
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sequence=st.lists(steps, min_size=2, max_size=LONGEST))
def test_any_sequence(rig: Rig, sequence: list[Step]) -> None:
    scene = Scene(rig, standard())
    for step in sequence:
        step(scene)
