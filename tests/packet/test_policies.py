"""Documents of all tiers, compiled and in the maps: the programs do what the documents say.

The oracle of the packet tests knows no entries here: it asks `says_who`, which
reads documents as a person would. So nothing of the way from a document to a
verdict is shared, and flows that live through a change of policy are judged too.
What goes to the world is only asked whether the policy stops it.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from dataclasses import replace as changed
from ipaddress import ip_address, ip_network
from itertools import product

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP

from meshfabric.agent.audit import Listener
from meshfabric.compiler.step import compile_plan
from meshfabric.kernel.ring import Ring
from meshfabric.model.addresses import Prefix, format_prefix, parse_address
from meshfabric.model.labels import Labels
from meshfabric.model.node import Endpoint, Workload
from meshfabric.model.plan import Table
from meshfabric.model.policy import Policy
from meshfabric.model.policytext import IngressText, PolicyText, read_policy
from meshfabric.model.settings import WorldMode
from meshfabric.model.tables import (
    ADDRESS_KEY,
    ADDRESS_VALUE,
    NOWHERE,
    POLICY_FIXED_BITS,
    POLICY_KEY,
    POLICY_VALUE,
    PROTOCOL_BITS,
    WORLD,
    AuditRecord,
    Direction,
    Reason,
    Verdict,
    read_audit,
)
from meshfabric.model.versions import LANGUAGE
from meshfabric.model.world import Event, Kind
from meshfabric.model.world import World as Known
from tests.oracles import audits, enforces, says_who
from tests.packet import world as fabric
from tests.packet.frames import V4, V6, address, echo, frame, ip, tcp, udp
from tests.packet.oracle import Oracle
from tests.packet.rig import Rig, Scene
from tests.packet.world import Owner, Rule, World, standard
from tests.patience import DEADLINE_S
from tests.strategies import policies
from tests.strategies import settings as configured
from tests.vocabulary import APISERVERS, LABEL_SETS, OUTSIDE, SELF

PLACES = {"alpha": fabric.ALPHA, "beta": fabric.BETA, "guest": fabric.GUEST, "host": fabric.HOST}
DEVICES = {name: standard().workloads[place].device for name, place in PLACES.items()}
FAR_AWAY = {"far": fabric.FAR, "away": fabric.AWAY}
TCP_PORTS, UDP_PORTS = (1, 442, 443, 444), (53, 7999, 8000, 8063, 8101)
EXAMPLES, LONGEST = 40, 12

Step = Callable[["Documented"], object]


@dataclass
class Documents(Oracle):
    """Who may is what these say."""

    said: tuple[Policy, ...] = ()
    labels: dict[int, Labels] | None = None
    own_host: Labels = ()

    def _allowed(self, subject: int, peer: int, direction: Direction, protocol: int, port: int) -> bool:
        assert self.labels is not None
        about = self.labels[subject], self.labels.get(peer)
        return says_who(self.said, self.own_host, *about, direction, (protocol, port))


class Documented:
    """A scene whose workloads have labels, and whose entries a compiler made."""

    def __init__(self, rig: Rig, labels: dict[str, Labels]) -> None:
        self._known = Known(configured((), WorldMode.TRANSLATE))
        self._known.apply(Event(Kind.PREFIXES, "", tuple(map(ip_network, standard().prefixes))))
        self._known.apply(Event(Kind.APISERVERS, "", tuple(map(ip_network, APISERVERS[:2]))))
        for name, own in labels.items():
            self._known.apply(_holder(name, own))
        self.scene = Scene(rig, self._labelled(labels))
        by_number = dict(self._known.labels)
        self.scene.oracle = self._oracle = Documents(
            self.scene.world, labels=by_number, own_host=labels["host"]
        )
        self.say({})

    def say(self, documents: dict[str, Policy | None]) -> None:
        """Policies come or go; what was judged by the old ones is judged again."""
        for name, policy in documents.items():
            self._known.apply(Event(Kind.POLICY, name, policy))
        self._oracle.said = tuple(self._known.policies.values())
        plan = compile_plan(self._known)
        rules = [_rule(key, value) for key, value in plan.entries(Table.POLICY)]

        def edit(world: World) -> None:
            world.rules = rules
            world.addresses = self._inside | dict(_outside(plan.addresses))

        self.scene.change(edit, *PLACES.values(), WORLD)

    def says(self, subject: str, outside: str, packet: tuple[int, int]) -> tuple[bool, bool]:
        """Whether documents let somebody speak to an address outside, and whether an audit is told."""
        about = self._known.workloads[SELF if subject == "host" else subject].labels
        question = (self._known, about, ip_address(outside), Direction.EGRESS, packet)
        return enforces(*question), audits(*question)

    @property
    def known(self) -> Known:
        """What the compiler was told."""
        return self._known

    def number(self, labels: Labels) -> int:
        """The identity of those who have these labels."""
        return self._known.identity(labels)

    def _labelled(self, labels: dict[str, Labels]) -> World:
        world = standard()
        numbers = {name: self._known.identity(own) for name, own in labels.items()}
        for name, place in PLACES.items():
            world.workloads[place].identity = numbers[name]
        by_place = {place: numbers[name] for name, place in (PLACES | FAR_AWAY).items()}
        world.addresses = {
            text: changed(owner, identity=by_place.get(owner.place, fabric.ID_MUTE))
            for text, owner in world.addresses.items()
        }
        self._inside = world.addresses
        return world


def _holder(name: str, labels: Labels) -> Event:
    """What makes the compiler know somebody; addresses and devices are the packet tests' own."""
    if name in FAR_AWAY:
        address = parse_address(f"10.77.{FAR_AWAY[name] - fabric.FAR + 1}.5")
        return Event(Kind.ENDPOINT, address, Endpoint(f"node-{name}", name, "pod", labels))
    own = SELF if name == "host" else name
    kind = "host" if name == "host" else "pod"
    return Event(Kind.WORKLOAD, own, Workload(own, kind, labels, (), DEVICES[name], "02:6d:66:01:00:01"))


def _outside(addresses: Mapping[bytes, bytes]) -> Iterator[tuple[str, Owner]]:
    """The compiled entries that are not about workloads."""
    for key, value in addresses.items():
        prefix, owner = Prefix(*ADDRESS_KEY.unpack(key)), Owner(*ADDRESS_VALUE.unpack(value))
        if owner.place in (NOWHERE, WORLD):
            yield format_prefix(prefix), owner


def _rule(key: object, value: object) -> Rule:
    assert isinstance(key, bytes)
    assert isinstance(value, bytes)
    bits, subject, peer, direction, protocol, port = POLICY_KEY.unpack(key)
    precedence, verdict, audited = POLICY_VALUE.unpack(value)
    port_bits = bits - POLICY_FIXED_BITS - PROTOCOL_BITS if protocol else None
    number = int.from_bytes(port, "big")
    rest = (protocol, number, port_bits, precedence, bool(audited))
    return Rule(subject, peer, direction, Verdict(verdict), *rest)


@st.composite
def packets(draw: st.DrawFn, source: str, destination: str) -> bytes:
    """At the edges of what the documents name; answers too."""
    family = draw(st.sampled_from([V4, V6]))
    kind = draw(st.sampled_from(["tcp", "tcp back", "udp", "udp back", "echo", "timestamp"]))
    ports = {"sport": 40000, "port": draw(st.sampled_from(TCP_PORTS if "tcp" in kind else UDP_PORTS))}
    if kind.endswith("back"):
        ports = {"sport": ports["port"], "port": ports["sport"]}
    if kind == "echo":
        return echo(source, destination, family)
    if kind == "timestamp":
        return bytes(ip(source, destination) / ICMP(type="timestamp-request"))
    if "udp" in kind:
        return udp(source, destination, family=family, **ports)
    return tcp(source, destination, flags="SA" if "back" in kind else "S", family=family, **ports)


@st.composite
def outbound(draw: st.DrawFn) -> Step:
    """From a workload here to anyone."""
    source = draw(st.sampled_from(sorted(PLACES)))
    data = frame(draw(packets(source, draw(st.sampled_from([*PLACES, *FAR_AWAY])))))
    return lambda one: one.scene.from_workload(DEVICES[source], data)


@st.composite
def inbound(draw: st.DrawFn) -> Step:
    """From another node to a workload here."""
    data = draw(packets(draw(st.sampled_from(sorted(FAR_AWAY))), draw(st.sampled_from(sorted(PLACES)))))
    return lambda one: one.scene.from_overlay("mfwg01", data)


@st.composite
def words(draw: st.DrawFn) -> Step:
    """Some documents at once, of any tier."""
    names = draw(st.sets(st.sampled_from("pqrs"), min_size=1))
    said = {name: draw(st.none() | policies(name) | policies(name)) for name in sorted(names)}
    return lambda one: one.say(said)


names = (*PLACES, *FAR_AWAY)
label_sets = st.fixed_dictionaries({name: st.sampled_from(LABEL_SETS) for name in names})
steps = st.one_of(words(), *2 * [outbound()], *2 * [inbound()])


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(labels=label_sets, first=words(), story=st.lists(steps, min_size=2, max_size=LONGEST))
def test_packets_pass_as_the_documents_say(
    rig: Rig, labels: dict[str, Labels], first: Step, story: list[Step]
) -> None:
    scene = Documented(rig, labels)
    for step in [first, *story]:
        step(scene)


def one_rule(ports: list[str]) -> Policy:
    """Only this may come in to db."""
    return read_policy(PolicyText("p", "app=db", [IngressText(None, ports)], min_version=LANGUAGE))


@pytest.mark.parametrize("family", [V4, V6])
@pytest.mark.parametrize("numbered", [True, False])
def test_a_type_of_icmp_is_its_questions_and_their_answers_alone(
    rig: Rig, family: int, numbered: bool
) -> None:
    """alpha asks beta; what beta asks is another conversation, which alpha answers to nobody."""
    web, db, other = LABEL_SETS[1], LABEL_SETS[2], LABEL_SETS[4]
    scene = Documented(rig, {"alpha": web, "beta": db, **dict.fromkeys(["guest", "host", *FAR_AWAY], other)})
    ping = ("icmp/8" if family == V4 else "icmpv6/128") if numbered else "icmp/echo-request"
    ping = ping.replace("icmp/e", "icmpv6/e") if family == V6 else ping
    clock = bytes(ip("alpha", "beta") / ICMP(type="timestamp-request"))

    def ask(packet: bytes, sender: str = "alpha") -> Reason | None:
        return scene.scene.from_workload(DEVICES[sender], frame(packet))

    scene.say({"p": one_rule(["tcp"])})
    assert ask(echo("alpha", "beta", family)) is Reason.POLICY_INGRESS
    scene.say({"p": one_rule([ping])})
    assert ask(echo("beta", "alpha", family, reply=True), "beta") is Reason.POLICY_EGRESS  # nobody asked
    assert ask(echo("alpha", "beta", family)) is Reason.FORWARDED_TO_LOCAL
    assert ask(echo("beta", "alpha", family, reply=True), "beta") is Reason.FORWARDED_TO_LOCAL
    assert ask(tcp("alpha", "beta", 8, family=family)) is Reason.POLICY_INGRESS
    assert ask(clock) is Reason.POLICY_INGRESS
    scene.say({"p": one_rule(["icmp/timestamp-request"])})
    assert ask(echo("alpha", "beta", family)) is Reason.POLICY_INGRESS
    assert ask(clock) is Reason.FORWARDED_TO_LOCAL


def in_audit(**rules: object) -> Policy:
    """One about db that is not in force."""
    text = PolicyText("p", "app=db", mode="audit", min_version=LANGUAGE, **rules)  # type: ignore[arg-type]  # fields as a user's file gives them
    return read_policy(text)


def test_what_a_policy_in_audit_would_stop_goes_and_is_told_once(rig: Rig) -> None:
    web, db, other = LABEL_SETS[1], LABEL_SETS[2], LABEL_SETS[4]
    scene = Documented(rig, {"alpha": web, "beta": db, **dict.fromkeys(["guest", "host", *FAR_AWAY], other)})
    ring = Ring(rig.maps["audits"])
    one, other_end = parse_address(address("alpha")), parse_address(address("beta"))
    ring.read()  # what earlier tests left

    def told(make: Callable[..., bytes], *ends: str, sport: int = 40000, **rest: object) -> list[AuditRecord]:
        data = frame(make(*ends, sport=sport, **rest))
        assert scene.scene.from_workload(DEVICES[ends[0]], data) is Reason.FORWARDED_TO_LOCAL
        return [read_audit(one) for one in ring.read()]

    numbers = scene.number(web), scene.number(db)
    seen = [AuditRecord(one, other_end, *numbers, fabric.TCP, 443, way) for way in Direction]
    assert told(tcp, "alpha", "beta", port=443) == []
    scene.say({"p": in_audit(ingress=[IngressText(None, ["tcp/80"])])})
    assert told(tcp, "alpha", "beta", port=443) == [seen[Direction.INGRESS]], (
        "judged again, as for any change"
    )
    assert told(tcp, "alpha", "beta", port=443) == [], "an established flow asks nobody"
    assert told(tcp, "beta", "alpha", sport=443, port=40000, flags="SA") == []
    assert told(tcp, "alpha", "beta", port=80) == []
    scene.say({"q": read_policy(PolicyText("q", "*", mode="audit", egress=[], min_version=LANGUAGE))})
    assert told(tcp, "alpha", "beta", port=443, sport=40001) == seen, "both ends have their say"
    scene.say({"p": None, "q": None})
    assert told(tcp, "alpha", "beta", port=443, sport=40002) == []
    ring.close()


def test_the_agent_hears_of_it_and_says_so_once_in_a_while(rig: Rig) -> None:
    web, db, other = LABEL_SETS[1], LABEL_SETS[2], LABEL_SETS[4]
    scene = Documented(rig, {"alpha": web, "beta": db, **dict.fromkeys(["guest", "host", *FAR_AWAY], other)})
    scene.say({"p": in_audit(ingress=[])})
    noted: list[tuple[str, str]] = []
    listener = Listener(rig.maps["audits"], scene.known, lambda name, detail: noted.append((name, detail)))

    async def heard(port: int) -> None:
        rig.run("from_workload", frame(tcp("alpha", "beta", port)), DEVICES["alpha"])
        deadline = time.monotonic() + DEADLINE_S
        while not any(row["what"] == f"tcp/{port}" for row in listener.heard.rows(scene.known)):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)

    async def story() -> None:
        task = asyncio.create_task(listener.run())
        for port in (443, 80):
            await heard(port)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

    asyncio.run(story())
    ((name, detail),) = noted
    assert name == "policy audit"
    assert detail.startswith("would be denied: 10.77.0.1 to 10.77.0.2 on tcp/")
    assert detail.endswith(": ingress by p")


def test_what_is_not_allowed_anyway_is_no_audits_affair(rig: Rig) -> None:
    web, db, other = LABEL_SETS[1], LABEL_SETS[2], LABEL_SETS[4]
    scene = Documented(rig, {"alpha": web, "beta": db, **dict.fromkeys(["guest", "host", *FAR_AWAY], other)})
    scene.say({"p": in_audit(ingress=[]), "q": read_policy(PolicyText("q", "app=db", []))})
    run = rig.run("from_workload", frame(tcp("alpha", "beta", 443)), DEVICES["alpha"])
    assert run.counted.keys() == {Reason.POLICY_INGRESS}


said = st.fixed_dictionaries({name: policies(name) for name in "pq"})


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(labels=label_sets, story=st.lists(said, min_size=1, max_size=3))
def test_the_policy_stops_what_goes_to_the_world_as_the_documents_say(
    rig: Rig, labels: dict[str, Labels], story: list[dict[str, Policy | None]]
) -> None:
    """With flows of before each change still there, which had another verdict."""
    scene = Documented(rig, labels)
    for words_ in story:
        scene.say(words_)
        for source, text, port in product(PLACES, OUTSIDE, (53, 443)):
            make, protocol = (udp, fabric.UDP) if port == 53 else (tcp, fabric.TCP)
            family = V6 if ":" in text else V4
            run = rig.run("from_workload", frame(make(source, text, port, family=family)), DEVICES[source])
            told = (run.reason is not Reason.POLICY_EGRESS, Reason.AUDITED in run.counted)
            assert told == scene.says(source, text, (protocol, port)), (source, text, port)
