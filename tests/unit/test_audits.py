"""What policies in audit would have stopped, as rows."""

from ipaddress import ip_network

from meshfabric.model.addresses import parse_address
from meshfabric.model.labels import make_labels
from meshfabric.model.node import Endpoint, Workload
from meshfabric.model.policytext import EgressText, IngressText, PolicyText, read_policy
from meshfabric.model.tables import AuditRecord, Direction
from meshfabric.model.versions import LANGUAGE
from meshfabric.model.world import Event, Kind, World
from meshfabric.observe.audits import KEPT, Audits, describe
from tests.strategies import settings

WEB, DB = make_labels({"app": "web"}), make_labels({"app": "db"})
HERE, FAR, OUTSIDE = map(parse_address, ("10.1.1.2", "10.1.2.2", "198.51.100.7"))
TCP, GRE, ICMP = 6, 47, 1


def world() -> World:
    """db here, web elsewhere; only what comes in is in audit, and a policy in force says more."""
    made = World(settings(()))
    texts = [
        PolicyText("soon", "app=db", [], mode="audit", min_version=LANGUAGE),
        PolicyText("other", "app=db", None, [EgressText()], mode="audit", min_version=LANGUAGE),
        PolicyText("now", "app=db", [IngressText(["app=web"])]),
    ]
    for event in (
        Event(Kind.PREFIXES, "", (ip_network("10.1.0.0/16"),)),
        Event(Kind.WORKLOAD, "shop/db", Workload("shop/db", "pod", DB, (HERE,), "mfp2", "02:6d:66:01:00:02")),
        Event(Kind.ENDPOINT, FAR, Endpoint("n2", "shop/web", "pod", WEB)),
        *(Event(Kind.POLICY, text.name, read_policy(text)) for text in texts),
    ):
        made.apply(event)
    return made


def record(known: World, port: int = 443, protocol: int = TCP, source: bytes = FAR) -> AuditRecord:
    identities = (known.identity(WEB), known.identity(DB))
    return AuditRecord(source, HERE, *identities, protocol, port, Direction.INGRESS)


def test_a_kind_of_conversation_is_one_row() -> None:
    known, heard = world(), Audits()
    assert heard.add(record(known), "1")
    assert heard.add(record(known, 8, ICMP, OUTSIDE), "2")
    assert not heard.add(record(known), "3")
    assert heard.rows(known) == [
        {
            "last": "3",
            "first": "1",
            "count": 2,
            "direction": "ingress",
            "from": "shop/web 10.1.2.2",
            "to": "shop/db 10.1.1.2",
            "what": "tcp/443",
            "policies": "soon",
        },
        {
            "last": "2",
            "first": "2",
            "count": 1,
            "direction": "ingress",
            "from": "198.51.100.7",
            "to": "shop/db 10.1.1.2",
            "what": "icmp/echo-request",
            "policies": "soon",
        },
    ]


def test_in_one_line() -> None:
    known = world()
    gre = record(known, 0, GRE)
    assert describe(known, gre) == "shop/web 10.1.2.2 to shop/db 10.1.1.2 on protocol 47: ingress by soon"
    known.apply(Event(Kind.POLICY, "soon"))
    assert describe(known, gre).endswith("ingress by none now")
    known.apply(Event(Kind.WORKLOAD, "shop/db"))
    assert describe(known, gre).startswith("shop/web 10.1.2.2 to 10.1.1.2 on ")


def test_the_oldest_are_forgotten() -> None:
    known, heard = world(), Audits()
    for port in range(KEPT + 1):
        heard.add(record(known, port), "")
    heard.add(record(known, 1), "")
    rows = heard.rows(known)
    assert (len(rows), rows[0]["what"], rows[-1]["what"]) == (KEPT, "tcp/1", "tcp/2")
