"""Which class a workload sends in, and what is told of classes."""

from hypothesis import given
from hypothesis import strategies as st

from meshfabric.model.classtext import ClassText, MatchText, TcpText, UplinkText, read_class
from meshfabric.model.labels import Labels
from meshfabric.model.qos import BUILT_IN, DEFAULT, TrafficClass, all_classes, base_class, in_order
from meshfabric.model.world import Event, Kind, World
from meshfabric.observe.rows import Row, class_rows
from tests.strategies import classes, label_sets, settings
from tests.strategies import full_workload as workload
from tests.vocabulary import LOCAL, MEANING

NAMES = ("video", "voice", "games")
some = st.fixed_dictionaries({name: classes(name) for name in NAMES})


def naive(known: dict[str, TrafficClass], labels: Labels) -> str:
    """By looking at each pair: nobody else that selects it is asked before."""
    selecting = [
        one
        for one in known.values()
        if not one.matches and one.select in MEANING and MEANING[one.select](dict(labels))
    ]
    for one in selecting:
        if all(
            one.priority > other.priority or (one.priority == other.priority and one.name <= other.name)
            for other in selecting
        ):
            return one.name
    return DEFAULT


@given(some, label_sets)
def test_the_class_of_a_workload(known: dict[str, TrafficClass], labels: Labels) -> None:
    assert base_class(all_classes(known).values(), labels) == naive(known, labels)


@given(some)
def test_classes_for_some_packets_are_asked_first(known: dict[str, TrafficClass]) -> None:
    ordered = in_order(all_classes(known).values())
    assert sorted(one.name for one in ordered) == sorted({*known, *BUILT_IN})
    some_packets = [bool(one.matches) for one in ordered]
    assert some_packets == sorted(some_packets, reverse=True)


def rows(*texts: ClassText) -> dict[str, Row]:
    """What a node with all its workloads tells of these, by name."""
    world = World(settings(()))
    for text in texts:
        world.apply(Event(Kind.CLASS, text.name, read_class(text)))
    for name in LOCAL:
        world.apply(Event(Kind.WORKLOAD, name, workload(name)))
    return {row["class"]: row for row in class_rows(world)}


def test_built_in_classes_are_told_with_no_document() -> None:
    told = rows()
    assert list(told) == ["control", "interactive", "default", "bulk"]
    assert told["default"]["selected"] == len(LOCAL)
    assert told["control"] == {
        "class": "control",
        "number": 1,
        "origin": "built in",
        "select": "",
        "match": [],
        "priority": 7,
        "dscp": 48,
        "guaranteed": None,
        "max": None,
        "egress": None,
        "ingress": None,
        "prefer": "cheapest",
        "rtt_ms": None,
        "loss_percent": None,
        "congestion_control": "",
        "initial_window": None,
        "window_clamp": None,
        "selected": 0,
    }


def test_workloads_are_counted_where_all_or_some_of_their_packets_are() -> None:
    in_app = [name for name in LOCAL if dict(workload(name).labels).get("app")]
    match = [MatchText(["tcp/443", "udp/53"], [46, 0]), MatchText(dscp=["cs1"])]
    told = rows(
        ClassText("web", "app=web", match, priority=0, uplink=UplinkText("1mbit", "2mbit")),
        ClassText("app", "app", priority=6, tcp=TcpText("bbr")),
        ClassText("too", "app", priority=5),
        ClassText("bulk", "app=nobody"),
    )
    assert list(told) == ["web", "control", "app", "interactive", "too", "default", "bulk"]
    assert told["web"]["match"] == ["tcp/443, udp/53 with dscp cs0, ef", "dscp cs1"]
    assert (told["web"]["guaranteed"], told["web"]["max"]) == (1_000_000, 2_000_000)
    assert told["web"]["selected"] == sum(("app", "web") in workload(name).labels for name in LOCAL)
    assert told["app"]["selected"] == len(in_app)
    assert told["default"]["selected"] == len(LOCAL) - len(in_app)
    assert told["too"]["selected"] == told["bulk"]["selected"] == 0
    assert (told["bulk"]["origin"], told["bulk"]["number"], told["default"]["origin"]) == (
        "document",
        3,
        "built in",
    )
    assert len({row["number"] for row in told.values()}) == len(told)
