"""Who may talk to whom: the documents people write, and the same as checked values.

    name: web-to-db
    select: app=db                       # the workloads that the rules are about
    ingress:
      - from: [app=web, "tier in (gold, silver)"]
        ports: [tcp/5432, udp/8000-8100, icmp]
    egress: []                           # present and empty: nothing may leave

Once a document with `ingress` selects a workload, what no rule allows may not
reach it; `egress` likewise. Rules only add (Kubernetes NetworkPolicy has the
same sense). A missing `from`, `to` or `ports` means any.
"""

import re
from collections.abc import Sequence

import msgspec

from meshfabric.model.errors import InputError
from meshfabric.model.labels import Selector, format_selector, parse_selector
from meshfabric.model.names import check_name

PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17, "icmpv6": 58, "sctp": 132}
PORTLESS = frozenset({"icmp", "icmpv6"})
MAX_PORT = 65535

_PORT = re.compile("[0-9]{1,5}")

SelectorText = str | dict[str, str]


class IngressText(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One rule for what may come in."""

    peers: list[SelectorText] | None = msgspec.field(name="from", default=None)
    ports: list[str] | None = None


class EgressText(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One rule for what may go out."""

    peers: list[SelectorText] | None = msgspec.field(name="to", default=None)
    ports: list[str] | None = None


class PolicyText(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A document as written, and the record `policies/<name>`."""

    name: str
    select: SelectorText
    ingress: list[IngressText] | None = None
    egress: list[EgressText] | None = None
    description: str = ""
    min_version: int = 1


class Ports(msgspec.Struct, frozen=True, order=True):
    """A protocol number with a range of ports, both ends included; ICMP has 0 to 65535."""

    protocol: int
    first: int = 0
    last: int = MAX_PORT


class Rule(msgspec.Struct, frozen=True):
    """What is allowed: any of the peers (None: anyone) on any of the ports (None: anything)."""

    peers: tuple[Selector, ...] | None
    ports: tuple[Ports, ...] | None


class Policy(msgspec.Struct, frozen=True):
    """A checked document; a direction that is None is not ruled by it."""

    name: str
    select: Selector
    ingress: tuple[Rule, ...] | None
    egress: tuple[Rule, ...] | None


def read_policy(text: PolicyText, place: str = "") -> Policy:
    """Check a document; raises `InputError` that names the field."""
    where = f"{place}: " if place else ""
    if text.ingress is None and text.egress is None:
        raise InputError(
            "a policy needs ingress or egress", place=place, remedy="write `ingress: []` to deny all"
        )
    return Policy(
        name=check_name(text.name, "policy", f"{where}name"),
        select=parse_selector(text.select, f"{where}select"),
        ingress=_rules(text.ingress, f"{where}ingress"),
        egress=_rules(text.egress, f"{where}egress"),
    )


def _rules(texts: Sequence[IngressText | EgressText] | None, place: str) -> tuple[Rule, ...] | None:
    if texts is None:
        return None
    return tuple(_rule(text, f"{place}[{number}]") for number, text in enumerate(texts))


def _rule(text: IngressText | EgressText, place: str) -> Rule:
    peers = None if text.peers is None else tuple(parse_selector(peer, place) for peer in text.peers)
    ports = None if text.ports is None else tuple(sorted({parse_ports(one, place) for one in text.ports}))
    return Rule(peers, ports)


def parse_ports(text: str, place: str = "") -> Ports:
    """`tcp/443`, `udp/8000-8100`, `tcp` or `icmp`; raises `InputError`."""
    name, slash, numbers = text.partition("/")
    protocol = PROTOCOLS.get(name)
    if protocol is None:
        raise InputError(
            f"unknown protocol in {text!r}", place=place, remedy=f"one of {', '.join(PROTOCOLS)}"
        )
    if not slash:
        return Ports(protocol)
    first, dash, last = numbers.partition("-")
    bounds = [first, last if dash else first]
    if name in PORTLESS or not all(_PORT.fullmatch(bound) for bound in bounds):
        raise InputError(
            f"cannot read port {text!r}", place=place, remedy="write tcp/443, udp/8000-8100 or icmp"
        )
    low, high = map(int, bounds)
    if not 1 <= low <= high <= MAX_PORT:
        raise InputError(
            f"port {text!r} out of range", place=place, remedy=f"1 to {MAX_PORT}, the lower one first"
        )
    return Ports(protocol, low, high)


def format_ports(ports: Ports) -> str:
    """The text that parses to the same ports."""
    name = next(name for name, number in PROTOCOLS.items() if number == ports.protocol)
    if (ports.first, ports.last) == (0, MAX_PORT):
        return name
    return f"{name}/{ports.first}" + (f"-{ports.last}" if ports.last != ports.first else "")


def format_rule(rule: Rule) -> str:
    """`app=web | tier=gold on tcp/443`, for listings."""
    peers = "anyone" if rule.peers is None else " | ".join(map(format_selector, rule.peers)) or "nobody"
    ports = "anything" if rule.ports is None else ", ".join(map(format_ports, rule.ports)) or "nothing"
    return f"{peers} on {ports}"
