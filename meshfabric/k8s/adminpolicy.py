"""The operators' policies of Kubernetes to documents of ours (pure): AdminNetworkPolicy and
BaselineAdminNetworkPolicy (policy.networking.k8s.io/v1alpha1).

They become policies of the tiers admin and baseline whose first match holds, as
there. Of two AdminNetworkPolicies with one priority the API leaves open which is
asked first; here their rules are asked in turns.

**Networks.** In this API a prefix also covers pods by their addresses, whom our
language knows by labels only. So the fabric's prefixes must be known, and networks
that hold some of the fabric's addresses must hold all of them: then they are the
entity fabric. Others are refused.

**Nodes** are their hosts at fabric addresses. What else a node has is outside of
the fabric: a rule that allows is narrower than meant, and one that denies or passes
would be too, and is refused.
"""

from collections.abc import Sequence
from typing import Any

from msgspec import structs

from meshfabric.k8s.networkpolicy import policy_name
from meshfabric.k8s.objects import (
    PROTOCOLS,
    SUBDOMAIN,
    Object,
    fields,
    mapping,
    only,
    or_empty,
    port,
    protocol,
    sequence,
    shown,
    text,
    word,
)
from meshfabric.k8s.selectors import (
    ANY_NODE,
    IN_ANY_NAMESPACE,
    NAMESPACE_LABELS,
    NODE_LABELS,
    formatted,
    selector,
)
from meshfabric.model.addresses import Network
from meshfabric.model.errors import InputError
from meshfabric.model.networks import lies_in, parse_outside
from meshfabric.model.peertext import PeerText
from meshfabric.model.policy import LAST_PRIORITY, Tier
from meshfabric.model.policytext import EgressText, IngressText, PolicyText, read_policy, stamped
from meshfabric.model.ports import NAMED

API_VERSION = "policy.networking.k8s.io/v1alpha1"
ADMIN, BASELINE = "AdminNetworkPolicy", "BaselineAdminNetworkPolicy"
THE_BASELINE = "default"  # the only name that there is
ACTIONS = {ADMIN: ("Allow", "Deny", "Pass"), BASELINE: ("Allow", "Deny")}
MOST_RULES = MOST_PEERS = MOST_PORTS = 100
MOST_NETWORKS = 25
MOST_LETTERS = 100  # of a rule's name


def admin_policy(one: Object, prefixes: Sequence[Network]) -> PolicyText:
    """The document of one AdminNetworkPolicy; `prefixes` are the fabric's. Raises `InputError`."""
    name, place = _name(one, ADMIN)
    spec = fields(one.get("spec"), f"{place}: spec", {"priority", "subject", "ingress", "egress"})
    priority = spec.get("priority")
    if type(priority) is not int or not 0 <= priority <= LAST_PRIORITY:
        remedy = f"0 to {LAST_PRIORITY}"
        raise InputError(f"{shown(priority)} is no priority", place=f"{place}: spec.priority", remedy=remedy)
    made = PolicyText(policy_name(f"k8s-admin.{name}"), "", tier=Tier.ADMIN.value, priority=priority)
    return _whole(made, ADMIN, spec, place, prefixes)


def baseline_policy(one: Object, prefixes: Sequence[Network]) -> PolicyText:
    """The document of the BaselineAdminNetworkPolicy; ours of that tier come before it."""
    name, place = _name(one, BASELINE)
    if name != THE_BASELINE:
        raise InputError(f"it is called {name!r}", place=place, remedy=f"there is one, called {THE_BASELINE}")
    spec = fields(one.get("spec"), f"{place}: spec", {"subject", "ingress", "egress"})
    made = PolicyText(f"k8s-baseline.{name}", "", tier=Tier.BASELINE.value, priority=LAST_PRIORITY)
    return _whole(made, BASELINE, spec, place, prefixes)


def _name(one: Object, kind: str) -> tuple[str, str]:
    metadata = mapping(one.get("metadata"), f"{kind}: metadata")
    name = word(SUBDOMAIN, metadata.get("name"), f"{kind}: metadata.name")
    return name, f"{kind} {name}"


def _whole(made: PolicyText, kind: str, spec: Object, place: str, prefixes: Sequence[Network]) -> PolicyText:
    rules = {
        direction: [
            _rule(rule, kind, direction, f"{place}: spec.{direction}[{i}]", prefixes)
            for i, rule in enumerate(_some(spec.get(direction), f"{place}: spec.{direction}", MOST_RULES))
        ]
        for direction in ("ingress", "egress")
    }
    if not any(rules.values()):
        raise InputError("it has no rule", place=f"{place}: spec", remedy="delete it, or give it one")
    text_ = structs.replace(
        made,
        select=_subject(spec.get("subject"), f"{place}: spec.subject"),
        ingress=[IngressText(*rule) for rule in rules["ingress"]] or None,
        egress=[EgressText(*rule) for rule in rules["egress"]] or None,
        description=place,
        first_match=True,
    )
    read_policy(stamped(text_), f"{place}: spec")
    return stamped(text_)


def _subject(given: Any, place: str) -> str:
    chosen = fields(given, place, {"namespaces", "pods"})
    only(chosen, place, "either namespaces or pods")
    return _pods(chosen, place)


def _pods(chosen: Object, place: str) -> str:
    """`namespaces` or `pods`, whichever there is."""
    if chosen.get("namespaces") is not None:
        found = selector(chosen["namespaces"], f"{place}.namespaces", NAMESPACE_LABELS)
        return formatted(found | IN_ANY_NAMESPACE)
    pods = fields(chosen["pods"], f"{place}.pods", {"namespaceSelector", "podSelector"})
    found = selector(
        or_empty(pods.get("namespaceSelector")), f"{place}.pods.namespaceSelector", NAMESPACE_LABELS
    )
    found |= selector(or_empty(pods.get("podSelector")), f"{place}.pods.podSelector")
    return formatted(found | IN_ANY_NAMESPACE)


def _rule(
    given: Any, kind: str, direction: str, place: str, prefixes: Sequence[Network]
) -> tuple[list[PeerText], list[str] | None, str]:
    """Peers, ports and action."""
    peers_field = "from" if direction == "ingress" else "to"
    rule = fields(given, place, {"name", "action", peers_field, "ports"})
    if len(text(rule.get("name", ""), f"{place}.name")) > MOST_LETTERS:
        raise InputError("the name is too long", place=f"{place}.name", remedy=f"at most {MOST_LETTERS}")
    action = rule.get("action")
    if not isinstance(action, str) or action not in ACTIONS[kind]:
        remedy = f"one of {', '.join(ACTIONS[kind])}"
        raise InputError(f"unknown action {shown(action)}", place=f"{place}.action", remedy=remedy)
    peers = _some(rule.get(peers_field), f"{place}.{peers_field}", MOST_PEERS)
    if not peers:
        remedy = "name one, namespaces: {} for all pods"
        raise InputError("no peers", place=f"{place}.{peers_field}", remedy=remedy)
    places = [f"{place}.{peers_field}[{i}]" for i in range(len(peers))]
    found = [
        one
        for peer, at in zip(peers, places, strict=True)
        for one in _peer(peer, direction, action, at, prefixes)
    ]
    ports = _some(rule.get("ports"), f"{place}.ports", MOST_PORTS)
    texts = [one for i, each in enumerate(ports) for one in _ports(each, f"{place}.ports[{i}]")]
    return found, texts or None, action.lower()


def _peer(given: Any, direction: str, action: str, place: str, prefixes: Sequence[Network]) -> list[PeerText]:
    known = {"namespaces", "pods"} | ({"nodes", "networks"} if direction == "egress" else set())
    peer = fields(given, place, known)
    match only(peer, place, f"one of {', '.join(sorted(known))}"):
        case "nodes":
            if action != "Allow":
                what = "a node's addresses outside of the fabric are not among what is selected"
                raise InputError(what, place=f"{place}.nodes", remedy="name them under networks")
            return [formatted(ANY_NODE | selector(peer["nodes"], f"{place}.nodes", NODE_LABELS))]
        case "networks":
            return _networks(peer["networks"], f"{place}.networks", prefixes)
        case _:
            return [_pods(peer, place)]


def _networks(given: Any, place: str, prefixes: Sequence[Network]) -> list[PeerText]:
    """Addresses outside; and the whole fabric, where they hold all of its prefixes."""
    texts = [text(one, f"{place}[{i}]") for i, one in enumerate(_some(given, place, MOST_NETWORKS))]
    networks = [parse_outside(one, f"{place}[{i}]") for i, one in enumerate(texts)]
    if not networks or not prefixes:
        what, remedy = "no networks", "name one"
        if networks:
            what, remedy = "networks, and the fabric's prefixes are not known", "give them to the translator"
        raise InputError(what, place=place, remedy=remedy)
    held = [prefix for prefix in prefixes if any(lies_in(prefix, one) for one in networks)]
    cut = [one for one in networks for prefix in prefixes if one != prefix and lies_in(one, prefix)]
    peers: list[PeerText] = [{"cidr": str(one)} for one in networks]
    if len(held) == len(prefixes):
        return [*peers, {"entity": "fabric"}]
    if held or cut:
        what = "they hold some addresses of the fabric and not all, and labels tell who is who there"
        raise InputError(what, place=place, remedy="keep to addresses outside of it, and select pods")
    return peers


def _ports(given: Any, place: str) -> list[str]:
    one = fields(given, place, {"portNumber", "portRange", "namedPort"})
    match only(one, place, "one of portNumber, portRange, namedPort"):
        case "portNumber":
            number = fields(one["portNumber"], f"{place}.portNumber", {"protocol", "port"})
            name = protocol(number.get("protocol"), f"{place}.portNumber.protocol")
            return [f"{name}/{port(number.get('port'), f'{place}.portNumber.port')}"]
        case "portRange":
            span = fields(one["portRange"], f"{place}.portRange", {"protocol", "start", "end"})
            name = protocol(span.get("protocol"), f"{place}.portRange.protocol")
            first, last = (port(span.get(key), f"{place}.portRange.{key}") for key in ("start", "end"))
            if last < first:
                raise InputError(f"end {last} is below start {first}", place=f"{place}.portRange")
            return [f"{name}/{first}-{last}"]
        case _:
            named = word(NAMED, one["namedPort"], f"{place}.namedPort")
            return [f"{name}/{named}" for name in PROTOCOLS.values()]


def _some(given: Any, place: str, most: int) -> Sequence[Any]:
    found = sequence(given, place)
    if len(found) > most:
        raise InputError(f"{len(found)} of them", place=place, remedy=f"at most {most}")
    return found
