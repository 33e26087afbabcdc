"""Changes of verdicts in words: who, what, by whose word, and how many."""

from datetime import UTC, datetime
from ipaddress import ip_network
from typing import Any

import pytest

from meshfabric.compiler.imagined import applied
from meshfabric.compiler.outside import Surroundings, compare_outside
from meshfabric.compiler.parties import People
from meshfabric.compiler.simulation import compare
from meshfabric.compiler.verdicts import ANYTHING, OTHERS, Span
from meshfabric.model.addresses import parse_address
from meshfabric.model.labels import make_labels
from meshfabric.model.node import Endpoint
from meshfabric.model.policy import Policy
from meshfabric.model.policytext import (
    DefaultText,
    EgressText,
    IngressText,
    PolicyText,
    read_policy,
)
from meshfabric.model.tables import FlowSeen
from meshfabric.model.versions import LANGUAGE
from meshfabric.observe.changes import MOST_ROWS, Effects, format_spans

TCP, UDP, SCTP, ICMP, ICMPV6 = 6, 17, 132, 1, 58
MOST = 65535
NOW = datetime(2026, 1, 1, tzinfo=UTC)
LONE = make_labels({"lone": "yes"})
WEB, DB = make_labels({"app": "web"}), make_labels({"app": "db"})


def host(node: str) -> Endpoint:
    return Endpoint(
        node, node, "host", make_labels({"meshfabric.io/kind": "host", "meshfabric.io/node": node})
    )


def fabric() -> list[Endpoint]:
    """Three web servers and two databases on two nodes, with their hosts."""
    webs = [Endpoint(f"n{1 + number % 2}", f"web-{number}", "pod", WEB) for number in range(3)]
    dbs = [Endpoint(f"n{1 + number}", f"db-{number}", "pod", DB) for number in range(2)]
    return [host("n1"), host("n2"), *webs, *dbs]


def rows(
    *texts: PolicyText, before: tuple[PolicyText, ...] = (), everyone: list[Endpoint] | None = None
) -> Any:
    """What is told of new documents."""
    old = applied({}, map(checked, before), (), NOW)
    new = applied(old, map(checked, texts), (), NOW)
    held = fabric() if everyone is None else everyone
    people = People(held)
    holders = {parse_address(f"10.0.{at >> 8}.{at & 255}"): one for at, one in enumerate(held)}
    return Effects(people, holders, compare(people, old, new)).rows(old, new)


def checked(text: PolicyText) -> Policy:
    return read_policy(PolicyText(**{**_fields(text), "min_version": LANGUAGE}))


def _fields(text: PolicyText) -> dict[str, Any]:
    return {name: getattr(text, name) for name in text.__struct_fields__}


def told(found: Any) -> list[tuple[str, ...]]:
    keys = ("from", "to", "ports", "before_by", "after_by")
    return [tuple(row[key] for key in keys) for row in found["changes"]]


NO_WEB = PolicyText("no-web", "app=db", [IngressText(["app=web"], ["tcp/5432"], "deny")], tier="admin")
NO_PROBES = PolicyText("probes", "app=db", [IngressText([{"entity": "host"}], ["tcp"], "deny")], tier="admin")
CLOSED = PolicyText("closed", "app=db", [])
OPEN = PolicyText("open", "app=db", [IngressText(["app=web"])])


def test_a_row_names_both_ends_and_both_words() -> None:
    found = rows(NO_WEB)
    assert found["changes"] == [
        {
            "from": "app=web",
            "to": "app=db",
            "ports": "tcp/5432",
            "before": "allowed",
            "after": "denied",
            "direction": "ingress",
            "before_by": "no policy",
            "after_by": "no-web: deny app=web on tcp/5432",
            "senders": 3,
            "receivers": 2,
            "flows": 0,
            "sender_examples": "n1/web-0, n1/web-2, n2/web-1",
            "receiver_examples": "n1/db-0, n2/db-1",
        }
    ]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ([], [CLOSED], [
            ("app=db | app=web", "app=db", "anything", "no policy", "closed: no rule"),
            ("every host", "app=db on other nodes", "anything", "no policy", "closed: no rule"),
        ]),
        ([CLOSED], [OPEN], [
            ("app=web", "app=db", "anything", "closed: no rule", "open: allow app=web on anything"),
        ]),
        ([CLOSED], [PolicyText("admin", "*", [IngressText(["app=web"])], tier="admin")], [
            ("app=web", "app=db", "anything", "closed: no rule", "admin: allow app=web on anything"),
        ]),
        ([], [PolicyText("out", "app=web", None, [EgressText(["app=db"], ["tcp/5432"])])], [
            ("app=web", "app=db", "anything but tcp/5432", "no policy", "out: no rule"),
            ("app=web", "every host | app=web", "anything", "no policy", "out: no rule"),
        ]),
        ([], [NO_PROBES], [
            ("every host", "app=db on that node", "tcp", "baseline:allow-local-host",
             "probes: deny entity host on tcp"),
        ]),
        ([CLOSED, OPEN], [PolicyText("closed", "app=db", default=DefaultText("allow")),
                          PolicyText("open", "app=db", default=DefaultText("allow"))], [
            ("app=db", "app=db", "anything", "closed: no rule", "closed: no rule"),
            ("every host", "app=db on other nodes", "anything", "closed: no rule", "closed: no rule"),
        ]),
        ([CLOSED], [PolicyText("closed", "app=db", [IngressText([], None)])], []),
        ([OPEN], [CLOSED], []),
    ],
)  # fmt: skip
def test_by_hand(before: list[PolicyText], after: list[PolicyText], expected: list[tuple[str, ...]]) -> None:
    assert sorted(told(rows(*after, before=tuple(before)))) == sorted(expected)


def test_who_is_alone_is_not_counted_at_both_ends() -> None:
    found = rows(PolicyText("shut", "lone", []), everyone=[*fabric(), Endpoint("n3", "w", "vm", LONE)])
    (row,) = found["changes"]
    assert (row["from"], row["to"]) == ("*", "lone=yes")
    assert (row["senders"], row["receivers"]) == (len(fabric()), 1)
    nothing = rows(
        PolicyText("self", "lone", [IngressText(["!lone"])]),
        everyone=[*fabric(), Endpoint("n3", "w", "vm", LONE)],
    )
    assert nothing["changes"] == []


def test_what_is_cut_stands_first_and_no_more_than_are_read_are_told() -> None:
    many = [Endpoint("n1", f"w{at}", "pod", make_labels({"n": str(at)})) for at in range(MOST_ROWS + 10)]
    texts = [
        PolicyText(f"p{at}", f"n={at}", [IngressText([f"n={at + 1}"], [f"tcp/{1 + at}"])])
        for at in range(MOST_ROWS + 5)
    ]
    found = rows(*texts, everyone=many)
    assert (len(found["changes"]), found["changes_total"]) == (MOST_ROWS, 2 * (MOST_ROWS + 5))


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        (ANYTHING, "anything"),
        (((TCP, 443, 443),), "tcp/443"),
        (((TCP, 0, MOST), (UDP, 53, 53)), "tcp, udp/53"),
        (((OTHERS, 0, MOST),), "other protocols"),
        (tuple(span for span in ANYTHING if span[0] != TCP), "anything but tcp"),
        (((ICMP, 0, MOST), (TCP, 0, 21), (TCP, 23, MOST), *ANYTHING[2:]), "anything but tcp/22"),
    ],
)
def test_ports_are_told_by_the_shorter_way(spans: tuple[Span, ...], expected: str) -> None:
    assert format_spans(spans) == expected


def flow(source: str, destination: str, protocol: int, port: int) -> FlowSeen:
    ends = parse_address(source), parse_address(destination)
    return FlowSeen(protocol, ends, (40000, port), 0, replied=True, closing=False)


def test_the_world_is_an_end_like_another_and_its_flows_are_told() -> None:
    text = PolicyText(
        "out",
        "app=web",
        [IngressText([{"entity": "fabric"}])],
        [EgressText([{"entity": "fabric"}]), EgressText(["198.51.100.0/24"], ["tcp/443"])],
    )
    after = applied({}, [checked(text)], (), NOW)
    held = fabric()
    people, holders = People(held), {parse_address("10.64.1.5"): held[2]}
    outside = compare_outside(people, {}, after, Surroundings(fabric=(ip_network("10.64.0.0/10"),)))
    effects = Effects(people, holders, [], outside)
    effects.take([
        flow("10.64.1.5", "198.51.100.7", TCP, 443),  # goes on
        flow("10.64.1.5", "198.51.100.7", TCP, 80),
        flow("10.64.1.5", "203.0.113.9", UDP, 53),
        flow("203.0.113.9", "10.64.1.5", TCP, 80),
        flow("10.64.1.5", "10.64.1.6", TCP, 80),  # of the fabric, though nobody has it
    ])  # fmt: skip
    found = effects.rows({}, after)
    keys = ("from", "to", "ports", "direction", "senders", "receivers", "flows")
    assert sorted(tuple(row[key] for key in keys) for row in found["changes"]) == [
        ("app=web", "198.51.100.0/24", "anything but tcp/443", "egress", 3, None, 1),
        ("app=web", "the world but 198.51.100.0/24", "anything", "egress", 3, None, 1),
        ("the world", "app=web", "anything", "ingress", None, 3, 1),
    ]
    assert [(one["from"], one["to"], one["source"]) for one in found["flows"]] == [
        ("n1/web-0", "the world", "10.64.1.5:40000"),
        ("n1/web-0", "the world", "10.64.1.5:40000"),
        ("the world", "n1/web-0", "203.0.113.9:40000"),
    ]
