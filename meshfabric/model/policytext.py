"""Policies as people write them, and the way to checked values (`policy`); docs/policy.md is the reference.

    name: web-to-db
    select: app=db                       # the workloads that the rules are about
    ingress:
      - from: [app=web, "tier in (gold, silver)"]
        ports: [tcp/5432, udp/8000-8100, icmp]
      - action: deny
        from: [{entity: host}]
        expires: 2026-12-31T23:59:59Z
    egress: []                           # present and empty: nothing may leave

A missing `from`, `to` or `ports` means any. What the datapath cannot enforce is
refused, never ignored.

**Records of old.** Before version 2, `{node: n1}` among peers meant a label called
node. A record in the store goes on to mean that unless its `min_version` says 2;
`stamped` sees to it for documents that are new to the store, which also tells
older agents to refuse what they could not enforce.
"""

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import msgspec

from meshfabric.model.errors import InputError
from meshfabric.model.labels import parse_selector
from meshfabric.model.names import check_name
from meshfabric.model.peertext import PeerText, choose, parse_peer, peer_needs
from meshfabric.model.policy import (
    DEFAULT_PRIORITY,
    LAST_PRIORITY,
    MAX_IN_ORDER,
    Action,
    Mode,
    Policy,
    Rule,
    Rules,
    Tier,
)
from meshfabric.model.ports import is_plain, parse_ports
from meshfabric.model.versions import FIRST, OUTSIDE, TIERS

SelectorText = str | dict[str, str]
_DATE_TIME = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt]([0-9]{2}:[0-9]{2}:[0-9]{2})(\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})?"
)  # RFC 3339, 5.6
EXPIRY_FORM = "write 2026-12-31T23:59:59Z"
_FRACTION = 7  # characters of a second's fraction that are kept: the point and microseconds


class IngressText(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One rule for what may come in."""

    peers: list[PeerText] | None = msgspec.field(name="from", default=None)
    ports: list[str] | None = None
    action: str = Action.ALLOW.value
    expires: str | None = None


class EgressText(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One rule for what may go out."""

    peers: list[PeerText] | None = msgspec.field(name="to", default=None)
    ports: list[str] | None = None
    action: str = Action.ALLOW.value
    expires: str | None = None


class DefaultText(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What becomes of what no rule of a normal policy covers; a direction named here is ruled."""

    ingress: str | None = None
    egress: str | None = None


class PolicyText(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A document as written, and the record `policies/<name>`."""

    name: str
    select: SelectorText
    ingress: list[IngressText] | None = None
    egress: list[EgressText] | None = None
    description: str = ""
    min_version: int = 1
    tier: str = Tier.NORMAL.value
    priority: int | None = None
    default: DefaultText | None = None
    expires: str | None = None
    mode: str = Mode.ENFORCE.value
    first_match: bool = False


RuleText = IngressText | EgressText


def stamped(text: PolicyText) -> PolicyText:
    """The document for the store: the version that all of it needs, if that is more than it says."""
    return msgspec.structs.replace(text, min_version=max(text.min_version, needs(text)))


def needs(text: PolicyText) -> int:
    """The `min_version` from which on agents understand all of a document."""
    old = PolicyText(text.name, text.select, text.ingress, text.egress, text.description, text.min_version)
    newer = OUTSIDE if text.mode != Mode.ENFORCE.value or text.first_match else FIRST
    return max([newer, FIRST if text == old else TIERS, *map(_rule_needs, _rule_texts(text))])


def read_policy(text: PolicyText, place: str = "") -> Policy:
    """Check a document; raises `InputError` that names the field."""
    where = f"{place}: " if place else ""
    default = text.default or DefaultText()
    tier = choose(Tier, text.tier, "tier", f"{where}tier")
    policy = Policy(
        name=check_name(text.name, "policy", f"{where}name"),
        select=parse_selector(text.select, f"{where}select"),
        ingress=_rules(text, text.ingress, default.ingress, f"{where}ingress"),
        egress=_rules(text, text.egress, default.egress, f"{where}egress"),
        tier=tier,
        priority=_priority(text.priority, tier, f"{where}priority"),
        ingress_default=_default(default.ingress, f"{where}default"),
        egress_default=_default(default.egress, f"{where}default"),
        expires=parse_expiry(text.expires, f"{where}expires"),
        mode=choose(Mode, text.mode, "mode", f"{where}mode"),
        first_match=text.first_match,
    )
    _check_tier(text, policy, place)
    return policy


def parse_expiry(text: str | None, place: str = "") -> datetime | None:
    """A moment as RFC 3339 writes it, in UTC; raises `InputError`, also for one without a time zone."""
    if text is None:
        return None
    match = _DATE_TIME.fullmatch(text)
    if match is None:
        raise InputError(f"{text!r} is no date and time", place=place, remedy=EXPIRY_FORM)
    day, clock, fraction, zone = match.groups()
    if not zone:
        remedy = "end it with Z, or an offset like +02:00"
        raise InputError(f"{text!r} has no time zone", place=place, remedy=remedy)
    micros = (fraction or ".")[:_FRACTION].ljust(_FRACTION, "0")
    try:
        return datetime.fromisoformat(f"{day}T{clock}{micros}{zone.upper()}").astimezone(UTC)
    except (ValueError, OverflowError) as cause:
        raise InputError(f"{text!r} is no date and time", place=place, remedy=EXPIRY_FORM) from cause


def _check_tier(text: PolicyText, policy: Policy, place: str) -> None:
    """What a document of this tier may and must have."""
    where, tier = f"{place}: " if place else "", policy.tier
    if policy.ingress is None and policy.egress is None:
        raise InputError(
            "a policy needs ingress or egress", place=place, remedy="write `ingress: []` to deny all"
        )
    if tier is Tier.NORMAL:
        if text.first_match:
            what = "rules of tier normal have no order: of all policies together the careful one holds"
            raise InputError(what, place=f"{where}first_match", remedy="leave it out, or set the tier")
        return
    if text.default is not None:
        what = f"a policy of tier {tier.value} has no default: what no rule covers is the next tier's"
        raise InputError(what, place=f"{where}default", remedy="end with a rule that covers anyone")
    for name, rules in (("ingress", policy.ingress), ("egress", policy.egress)):
        if rules == ():
            what = f"an empty list says nothing in tier {tier.value}"
            raise InputError(what, place=f"{where}{name}", remedy="write `- action: deny` to deny all")
        if policy.first_match and len(rules or ()) > MAX_IN_ORDER:
            what, remedy = f"{len(rules or ())} rules in order", f"keep to {MAX_IN_ORDER}"
            raise InputError(what, place=f"{where}{name}", remedy=remedy)


def _priority(given: int | None, tier: Tier, place: str) -> int:
    if given is None:
        return DEFAULT_PRIORITY
    if tier is Tier.NORMAL:
        raise InputError(
            "policies of tier normal have no priority", place=place, remedy="leave it out, or set the tier"
        )
    if not 0 <= given <= LAST_PRIORITY:
        raise InputError(f"priority {given} out of range", place=place, remedy=f"0 to {LAST_PRIORITY}")
    return given


def _default(given: str | None, place: str) -> Action:
    if given is None:
        return Action.DENY
    action = choose(Action, given, "default", place)
    if action is Action.PASS:
        raise InputError("a default cannot pass", place=place, remedy="allow or deny")
    return action


def _rules(
    text: PolicyText, rules: Sequence[RuleText] | None, default: str | None, place: str
) -> Rules | None:
    if rules is None:
        return None if default is None else ()
    return tuple(_rule(text, rule, f"{place}[{number}]") for number, rule in enumerate(rules))


def _rule(document: PolicyText, text: RuleText, place: str) -> Rule:
    if text.action == Mode.AUDIT.value:
        what, remedy = "a rule alone cannot be in audit", "write `mode: audit` for the whole policy"
        raise InputError(what, place=place, remedy=remedy)
    action = choose(Action, text.action, "action", place)
    if action is Action.PASS and document.tier != Tier.ADMIN.value:
        what = f"a rule of tier {document.tier} cannot pass: it has no tier to pass to"
        raise InputError(what, place=place, remedy="only tier admin passes to the tiers after it")
    peers = None
    if text.peers is not None:
        peers = tuple(parse_peer(one, document.min_version, place) for one in text.peers)
    ports = None if text.ports is None else tuple(sorted({parse_ports(one, place) for one in text.ports}))
    return Rule(peers, ports, action, parse_expiry(text.expires, place))


def _rule_needs(text: RuleText) -> int:
    plain = text.action == Action.ALLOW.value and text.expires is None
    ports = FIRST if all(map(is_plain, text.ports or ())) else OUTSIDE
    return max([FIRST if plain else TIERS, ports, *map(peer_needs, text.peers or ())])


def _rule_texts(text: PolicyText) -> Iterator[RuleText]:
    yield from text.ingress or ()
    yield from text.egress or ()
