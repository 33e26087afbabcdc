"""NetworkPolicy objects (networking.k8s.io/v1) to documents of ours (pure).

What a NetworkPolicy selects are pods of its own namespace; all become policies of
tier normal, which add up as they do there.
"""

from hashlib import sha256
from typing import Any

from msgspec import structs

from meshfabric.k8s.objects import (
    LABEL,
    SUBDOMAIN,
    Object,
    fields,
    mapping,
    or_empty,
    port,
    protocol,
    sequence,
    shown,
    text,
    word,
)
from meshfabric.k8s.selectors import IN_ANY_NAMESPACE, NAMESPACE_LABELS, formatted, in_namespace, selector
from meshfabric.model.errors import InputError
from meshfabric.model.networks import parse_cidr
from meshfabric.model.peertext import PeerText
from meshfabric.model.policytext import EgressText, IngressText, PolicyText, read_policy, stamped
from meshfabric.model.ports import NAMED

API_VERSION, KIND = "networking.k8s.io/v1", "NetworkPolicy"
INGRESS, EGRESS = "Ingress", "Egress"
LONGEST_NAME = 63
DIGEST_CHARACTERS = 40


def network_policy(one: Object) -> PolicyText:
    """The document that says what one NetworkPolicy says; raises `InputError` with object and field."""
    metadata = mapping(one.get("metadata"), f"{KIND}: metadata")
    name = word(SUBDOMAIN, metadata.get("name"), f"{KIND}: metadata.name")
    namespace = word(LABEL, metadata.get("namespace"), f"{KIND}: metadata.namespace")
    place = f"{KIND} {namespace}/{name}"
    known = {"podSelector", "ingress", "egress", "policyTypes"}
    spec = fields(or_empty(one.get("spec")), f"{place}: spec", known)
    pods = selector(or_empty(spec.get("podSelector")), f"{place}: spec.podSelector")
    made = PolicyText(
        policy_name(f"k8s.{namespace}.{name}"), formatted(in_namespace(namespace) | pods), description=place
    )
    return _with_rules(made, spec, namespace, f"{place}: spec")


def policy_name(whole: str) -> str:
    """The name of the document: no two objects share one. A namespace has no dots (RFC 1123 label)."""
    if len(whole) <= LONGEST_NAME:
        return whole
    return f"{whole.partition('.')[0]}.{sha256(whole.encode()).hexdigest()[:DIGEST_CHARACTERS]}"


def _with_rules(made: PolicyText, spec: Object, namespace: str, place: str) -> PolicyText:
    types = _types(spec, f"{place}.policyTypes")
    ingress = [
        IngressText(*_rule(rule, "from", namespace, f"{place}.ingress[{i}]"))
        for i, rule in enumerate(sequence(spec.get("ingress"), f"{place}.ingress"))
    ]
    egress = [
        EgressText(*_rule(rule, "to", namespace, f"{place}.egress[{i}]"))
        for i, rule in enumerate(sequence(spec.get("egress"), f"{place}.egress"))
    ]
    ruled = structs.replace(
        made, ingress=ingress if INGRESS in types else None, egress=egress if EGRESS in types else None
    )
    read_policy(stamped(ruled), place)
    return stamped(ruled)


def _types(spec: Object, place: str) -> set[str]:
    """Which directions are ruled; without a word on it ingress, and egress if there are rules for it."""
    given = sequence(spec.get("policyTypes"), place)
    for one in given:
        if one not in (INGRESS, EGRESS):
            raise InputError(f"unknown type {shown(one)}", place=place, remedy=f"{INGRESS} or {EGRESS}")
    if given:
        return set(given)
    return {INGRESS, EGRESS} if spec.get("egress") else {INGRESS}


def _rule(
    given: Any, peers_field: str, namespace: str, place: str
) -> tuple[list[PeerText] | None, list[str] | None]:
    """Peers and ports; an empty list means any, as a missing one does."""
    rule = fields(given, place, {peers_field, "ports"})
    peers = sequence(rule.get(peers_field), f"{place}.{peers_field}")
    ports = sequence(rule.get("ports"), f"{place}.ports")
    peer_texts: list[PeerText] = [
        _peer(peer, namespace, f"{place}.{peers_field}[{i}]") for i, peer in enumerate(peers)
    ]
    return peer_texts or None, [_port(port, f"{place}.ports[{i}]") for i, port in enumerate(ports)] or None


def _peer(given: Any, namespace: str, place: str) -> PeerText:
    peer = fields(given, place, {"podSelector", "namespaceSelector", "ipBlock"})
    pods, namespaces, block = (peer.get(key) for key in ("podSelector", "namespaceSelector", "ipBlock"))
    if block is not None:
        if pods is not None or namespaces is not None:
            raise InputError("an ipBlock stands alone", place=place, remedy="make it a peer of its own")
        return ip_block(block, f"{place}.ipBlock")
    if pods is None and namespaces is None:
        raise InputError("a peer selects nothing", place=place, remedy="name a podSelector")
    terms = selector(or_empty(pods), f"{place}.podSelector")
    if namespaces is None:
        return formatted(terms | in_namespace(namespace))
    chosen = selector(namespaces, f"{place}.namespaceSelector", NAMESPACE_LABELS)
    return formatted(terms | chosen | IN_ANY_NAMESPACE)


def ip_block(given: Any, place: str) -> PeerText:
    """Addresses outside: who is in the fabric is told by labels."""
    block = fields(given, place, {"cidr", "except"})
    network = text(block.get("cidr"), f"{place}.cidr")
    left_out = [text(one, f"{place}.except") for one in sequence(block.get("except"), f"{place}.except")]
    parse_cidr(network, left_out, place)
    return {"cidr": network, "except": left_out} if left_out else {"cidr": network}


def _port(given: Any, place: str) -> str:
    one = fields(given, place, {"protocol", "port", "endPort"})
    name = protocol(one.get("protocol"), f"{place}.protocol")
    first, last = one.get("port"), one.get("endPort")
    if last is not None and not isinstance(first, int):
        raise InputError("endPort without a port's number", place=place, remedy="write both, or none for all")
    if first is None:
        return name
    if isinstance(first, str):
        return f"{name}/{word(NAMED, first, f'{place}.port')}"
    low = port(first, f"{place}.port")
    high = low if last is None else port(last, f"{place}.endPort")
    if high < low:
        raise InputError(f"endPort {high} is below port {low}", place=place, remedy="the lower one is port")
    return f"{name}/{low}" if low == high else f"{name}/{low}-{high}"
