"""`policy diff` and the flows that there are: made by packets through the programs, read by the agent."""

import pytest

from meshfabric.agent.simulation import Simulation
from meshfabric.api.messages import Simulate
from meshfabric.model.addresses import parse_address
from meshfabric.model.errors import InputError
from meshfabric.model.labels import make_labels
from meshfabric.model.node import Endpoint, Workload
from meshfabric.model.policytext import IngressText, PolicyText, read_policy
from meshfabric.model.versions import LANGUAGE
from meshfabric.model.world import Event, Kind, World
from meshfabric.observe.flows import TCP_ESTABLISHED_S, UDP_ANSWERED_S, UDP_NEW_S
from tests.packet.frames import V4, V6, address, echo, frame, tcp, udp
from tests.packet.rig import Scene
from tests.strategies import settings

PORT = 0x1F00
FAMILIES = pytest.mark.parametrize("family", [V4, V6])
NO_ALPHA = PolicyText(
    "no-alpha",
    "app=beta",
    [IngressText(["app=alpha"], ["udp"], "deny")],
    min_version=LANGUAGE,
    tier="admin",
)


def known() -> World:
    """The workloads of the packet tests with a label each, as an agent knows them."""
    world = World(settings(()))
    for name in ("alpha", "beta", "guest"):
        held = tuple(parse_address(address(name, family)) for family in (V4, V6))
        one = Workload(name, "pod", make_labels({"app": name}), held, f"dev-{name}", "02:6d:66:01:00:01")
        world.apply(Event(Kind.WORKLOAD, name, one))
    for family in (V4, V6):
        far = Endpoint("n2", "far", "pod", make_labels({"app": "far"}))
        world.apply(Event(Kind.ENDPOINT, parse_address(address("far", family)), far))
    return world


def simulation(scene: Scene, world: World) -> Simulation:
    return Simulation(world, [scene.rig.maps["flows"], scene.rig.maps["new_flows"]])


def speak(scene: Scene, family: int) -> None:
    """Alpha to beta, answered and not, over several protocols; alpha to far, and far to beta."""
    for packet in (
        udp("alpha", "beta", PORT, sport=40000, family=family),
        udp("alpha", "beta", PORT, sport=40001, family=family),
        tcp("alpha", "beta", 8080, sport=40002, family=family),
        echo("alpha", "beta", family),
        udp("alpha", "far", PORT, sport=40000, family=family),
    ):
        assert scene.from_workload("mfp1", frame(packet)) is not None
    scene.from_workload("mfp2", frame(udp("beta", "alpha", 40000, sport=PORT, family=family)))
    scene.from_overlay("mfwg00", udp("far", "beta", PORT, sport=40000, family=family))


@FAMILIES
async def test_the_flows_of_a_pair_that_is_cut_are_told_and_no_others(scene: Scene, family: int) -> None:
    speak(scene, family)
    told = await simulation(scene, known()).compare(Simulate([NO_ALPHA]))
    (change,) = told["changes"]
    assert (change["from"], change["to"], change["ports"]) == ("app=alpha", "app=beta", "udp")
    assert (change["before"], change["before_by"]) == ("allowed", "no policy")
    assert (change["after"], change["after_by"]) == ("denied", "no-alpha: deny app=alpha on udp")
    assert (change["direction"], change["senders"], change["receivers"], change["flows"]) == (
        "ingress",
        1,
        1,
        2,
    )
    assert (told["flows_total"], told["flows_seen"], told["absent"]) == (2, 6, [])
    ends = [
        address(name, family) if family == V4 else f"[{address(name, family)}]" for name in ("alpha", "beta")
    ]
    for flow, (sport, answered) in zip(told["flows"], ((40000, True), (40001, False)), strict=True):
        assert (flow["source"], flow["destination"]) == (f"{ends[0]}:{sport}", f"{ends[1]}:{PORT}")
        assert (flow["from"], flow["to"], flow["after"]) == ("n1/alpha", "n1/beta", "denied")
        assert (flow["protocol"], flow["answered"]) == ("udp", answered)


@FAMILIES
async def test_echoes_are_flows_without_ports(scene: Scene, family: int) -> None:
    speak(scene, family)
    name = "icmp" if family == V4 else "icmpv6"
    text = PolicyText(
        "no-pings", "app=beta", [IngressText(None, [name], "deny")], min_version=LANGUAGE, tier="admin"
    )
    (flow,) = (await simulation(scene, known()).compare(Simulate([text])))["flows"]
    assert (flow["source"], flow["destination"]) == (address("alpha", family), address("beta", family))
    assert flow["protocol"] == name


async def test_flows_that_are_over_are_none(scene: Scene) -> None:
    speak(scene, V4)
    anyone = PolicyText("closed", "*", [], [])
    asked = simulation(scene, known())

    async def living() -> dict[str, int]:
        shown = (await asked.compare(Simulate([anyone])))["flows"]
        protocols = [flow["protocol"] for flow in shown]
        return {name: protocols.count(name) for name in sorted(set(protocols))}

    assert await living() == {"icmp": 1, "tcp": 1, "udp": 4}
    scene.age(UDP_NEW_S + 1)
    assert await living() == {"tcp": 1, "udp": 1}, "the answered one lives longer"
    scene.age(UDP_ANSWERED_S - UDP_NEW_S)
    assert await living() == {}
    for flags, wanted in (("S", 1), ("FA", 0)):
        scene.from_workload("mfp1", frame(tcp("alpha", "beta", 8080, flags, sport=40003)))
        assert (await living()).get("tcp", 0) == wanted
    scene.age(TCP_ESTABLISHED_S)
    assert await living() == {}


async def test_what_lets_a_flow_pass_again_is_told_too(scene: Scene) -> None:
    speak(scene, V4)
    world = known()
    world.apply(Event(Kind.POLICY, "no-alpha", read_policy(NO_ALPHA)))
    told = await simulation(scene, world).compare(Simulate([], ["no-alpha", "ghost"]))
    assert [(row["before"], row["after"], row["flows"]) for row in told["changes"]] == [
        ("denied", "allowed", 2)
    ]
    assert {flow["after"] for flow in told["flows"]} == {"allowed"}
    assert told["absent"] == ["ghost"]
    assert set(world.policies) == {"no-alpha"}, "nothing was applied"


async def test_a_document_that_expired_changes_nothing(scene: Scene) -> None:
    old = PolicyText("old", "*", [], expires="2001-01-01T00:00:00Z", min_version=LANGUAGE)
    told = await simulation(scene, known()).compare(Simulate([old]))
    assert (told["changes"], told["flows_seen"]) == ([], 0)


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (Simulate([NO_ALPHA, NO_ALPHA]), "'no-alpha' is named twice"),
        (Simulate([NO_ALPHA], ["no-alpha"]), "'no-alpha' is named twice"),
        (Simulate([PolicyText("p", "*")]), "needs ingress or egress"),
        (Simulate([PolicyText("No", "*", [])]), "no valid name"),
    ],
)
async def test_bad_requests_are_refused(scene: Scene, request_: Simulate, said: str) -> None:
    with pytest.raises(InputError, match=said):
        await simulation(scene, known()).compare(request_)
