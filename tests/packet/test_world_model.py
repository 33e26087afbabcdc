"""The translator beside one of a few lines of Python, whatever is said in whatever order.

The model takes the port of a new flow from the packet that left, and holds it
against all that it knows; everything else it says itself, to the octet.
"""

from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshfabric.model.tables import NO_DROPS, Direction, Reason
from tests.packet import world as fabric
from tests.packet.abroad import LINK, addressed, arrive, guise_of, ignored, leave, refused
from tests.packet.bent import bent, padded
from tests.packet.frames import V4, V6, echo, frame, tcp, udp
from tests.packet.oracle import NEXT, REDIRECT, SHOT
from tests.packet.outside import ANY_WORLD, NODE, PORTS, RANGE, REMOTE, expose, open_to_world
from tests.packet.rig import Rig
from tests.packet.world import Rule, World, standard

DEVICES = {"alpha": "mfp1", "beta": "mfp2", "guest": "mfp3"}
FARS = {V4: (REMOTE[V4], "192.0.2.81"), V6: (REMOTE[V6], "2001:db8:80::81")}
LATER_S = (1, 61, 121, 301)
LIFETIME_S = {"udp": (120, 300), "echo": (60, 60), "tcp": (240, 24 * 3600)}
LONGEST = 14 + 1280

fuzz = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

End = tuple[str, int]
Talk = tuple[int, str, End, End]
"""Family, protocol, the workload's end, the far one."""


def open_to_all() -> World:
    """Every workload may speak to the world, and the world to none."""
    world = open_to_world(standard())
    world.rules += [
        Rule(identity, ANY_WORLD, Direction.EGRESS) for identity in (fabric.ID_BETA, fabric.ID_GUEST)
    ]
    return world


def said(talk: Talk, source: End, to: End, ttl: int, *, back: bool) -> bytes:
    """A packet of a conversation, between these ends."""
    family, kind, *_ = talk
    fields: dict[str, Any] = {"family": family, "ttl": ttl}
    if kind == "echo":
        identifier = to[1] if back else source[1]
        return echo(source[0], to[0], reply=back, identifier=identifier, size=3, **fields)
    if kind == "udp":
        return udp(source[0], to[0], to[1], 11, sport=source[1], **fields)
    return tcp(source[0], to[0], to[1], "A", sport=source[1], size=11, **fields)


@dataclass
class Model:
    """Who goes by what, and how long each flow has been silent."""

    guises: dict[Talk, int] = field(default_factory=dict)
    idle_s: dict[Talk, int] = field(default_factory=dict)
    answered: set[Talk] = field(default_factory=set)

    def lives(self, talk: Talk) -> bool:
        """Whether the flow is not over."""
        lifetime = LIFETIME_S[talk[1]][talk in self.answered]
        return talk in self.guises and self.idle_s[talk] <= lifetime

    def owner(self, family: int, kind: str, guise: int, far: End) -> Talk | None:
        """The flow that an answer is for."""
        found = [
            talk
            for talk, port in self.guises.items()
            if (port, talk[0], talk[1], talk[3]) == (guise, family, kind, far) and self.lives(talk)
        ]
        assert len(found) <= 1, found
        return found[0] if found else None

    def leaves(self, talk: Talk, guise: int) -> None:
        """The flow was seen to leave by this port."""
        family, kind, _, far = talk
        if self.lives(talk):
            assert guise == self.guises[talk]
        else:
            self.answered.discard(talk)
            assert self.owner(family, kind, guise, far) is None, "two flows by one port"
        self.guises[talk], self.idle_s[talk] = guise, 0


names, families, kinds = (
    st.sampled_from([*DEVICES]),
    st.sampled_from([V4, V6]),
    st.sampled_from([*LIFETIME_S]),
)
talks = st.builds(
    lambda name, family, kind, port, far, service: (
        family,
        kind,
        (name, port),
        (FARS[family][far], 8 if kind == "echo" else service),
    ),
    names,
    families,
    kinds,
    st.sampled_from([2000, 2001]),
    st.sampled_from([0, 1]),
    st.sampled_from([53, 443]),
)
outs = st.tuples(st.just("out"), talks)
ins = st.tuples(st.just("in"), talks, st.none() | st.sampled_from(RANGE))
waits = st.tuples(st.just("wait"), st.sampled_from(LATER_S))


@fuzz
@given(steps=st.lists(st.one_of(outs, outs, ins, ins, waits), min_size=1, max_size=40))
def test_whatever_is_said_is_heard_by_whom_it_is_for(rig: Rig, steps: list[tuple[Any, ...]]) -> None:
    rig.reset(open_to_all())
    model = Model()
    for what, *rest in steps:
        if what == "out":
            _out(rig, model, *rest)
        elif what == "in":
            _in(rig, model, *rest)
        else:
            rig.age_flows(rest[0])
            model.idle_s = {talk: idle + rest[0] for talk, idle in model.idle_s.items()}


def _out(rig: Rig, model: Model, talk: Talk) -> None:
    family, _, near, far = talk
    run = leave(rig, said(talk, near, far, 64, back=False), DEVICES[near[0]])
    guise = guise_of(run)
    assert run.packet[LINK:] == said(talk, (NODE[family], guise), far, 63, back=False)
    model.leaves(talk, guise)


def _in(rig: Rig, model: Model, talk: Talk, port: int | None) -> None:
    """An answer to a flow that there is, or to any port."""
    family, kind, _, far = talk
    guise = port or model.guises.get(talk, RANGE[0])
    packet = said(talk, far, (NODE[family], guise), 64, back=True)
    owner = model.owner(family, kind, guise, far)
    run = arrive(rig, packet)
    if owner is None:
        assert ignored(run, packet)
        return
    assert run.reason == Reason.FORWARDED_TO_LOCAL, run.counted
    assert run.packet[LINK:] == said(owner, far, owner[2], 63, back=True)
    model.answered.add(owner)
    model.idle_s[owner] = 0


@fuzz
@given(crowd=st.sets(st.integers(1, 65535), min_size=PORTS, max_size=PORTS + 20))
def test_every_port_is_used_once_and_then_none(rig: Rig, crowd: set[int]) -> None:
    rig.reset(open_to_all())
    taken: list[int] = []
    for port in sorted(crowd):
        run = leave(rig, udp("alpha", REMOTE[V4], 53, sport=port))
        if len(taken) < PORTS:
            taken.append(guise_of(run))
        else:
            assert refused(run, Reason.NAT_FULL)
    assert sorted(taken) == list(RANGE)


far_packets = st.one_of(bent("stranger"), st.sampled_from(["alpha", "beta", "guest"]).flatmap(bent))


@fuzz
@given(
    packets=st.lists(st.tuples(st.booleans(), far_packets), min_size=1, max_size=12), exposed=st.booleans()
)
def test_whatever_bytes_come_by_an_uplink(rig: Rig, packets: list[tuple[bool, bytes]], exposed: bool) -> None:
    """Bent packets, some to a guise: a verdict with its reason, and nothing passes with a fabric address."""
    rig.reset(expose(open_to_all()) if exposed else open_to_all())
    guises = {family: _asked(rig, family) for family in (V4, V6) if not exposed}
    for inward, packet in packets:
        data = addressed(rig, padded(_aimed(packet, guises) if inward else packet))
        for program in ("from_uplink", "to_uplink"):
            run = rig.run(program, data, "up0", mark=0)
            assert run.action in (NEXT, SHOT, REDIRECT)
            assert run.action == NEXT or run.reason is not None
            assert run.action != NEXT or (run.counted, run.packet) == ({}, data)
            if run.action == REDIRECT and run.told is None:
                assert run.reason in NO_DROPS
            assert len(run.packet) <= max(len(data), LONGEST)


def _asked(rig: Rig, family: int) -> int:
    return guise_of(leave(rig, udp("alpha", REMOTE[family], 53, family=family)))


def _aimed(packet: bytes, guises: dict[int, int]) -> bytes:
    """The same from the far end of a flow to its guise, ports and all, as far as the packet goes."""
    family = packet[0] >> 4 if packet else 0
    if family not in guises:
        return packet
    head = udp(REMOTE[family], NODE[family], guises[family], sport=53, family=family)
    at = 12 if family == V4 else 8
    end = 24 if family == V4 else 44
    return packet[:at] + head[at:end] + packet[end:]


@fuzz
@given(packets=st.lists(st.tuples(names, far_packets), min_size=1, max_size=12), exposed=st.booleans())
def test_whatever_bytes_workloads_send_to_the_world(
    rig: Rig, packets: list[tuple[str, bytes]], exposed: bool
) -> None:
    rig.reset(expose(open_to_all()) if exposed else open_to_all())
    for name, packet in packets:
        data = frame(padded(_to_far(packet)))
        for program in ("from_workload", "from_netkit"):
            run = rig.run(program, data, DEVICES[name])
            assert run.reason is not None
            assert run.action in (SHOT, REDIRECT)
            if run.reason is Reason.FORWARDED_TO_WORLD:
                out = rig.run("to_uplink", run.packet, "up0", mark=run.mark)
                assert (out.action, out.counted) == (NEXT, {}), "what leaves passes the uplink"


def _to_far(packet: bytes) -> bytes:
    family = packet[0] >> 4 if packet else 0
    if family not in (V4, V6):
        return packet
    head = udp("alpha", REMOTE[family], 53, family=family)
    at, end = (16, 20) if family == V4 else (24, 40)
    return packet[:at] + head[at:end] + packet[end:]
