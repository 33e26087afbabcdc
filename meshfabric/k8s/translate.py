"""Kubernetes NetworkPolicy objects (networking.k8s.io/v1) to documents of ours (pure).

A pod is a workload whose labels are the pod's own and, under names that no pod
may use, those of its namespace:

    k8s.meshfabric.io/namespace=shop             the namespace's name
    k8s.meshfabric.io/ns/team=blue               its label team=blue

Who makes a pod a workload adds them (`namespace_labels`); a policy that selects
pods of its namespace requires the first. Nothing is lost on the way: what our
language cannot say yet (ipBlock, names of ports) is an `InputError` that names
the object and the field, as is everything that the API server would not take.

Objects are what JSON or YAML gives: foreign, so each value is looked at.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Any

from meshfabric.model.errors import InputError
from meshfabric.model.labels import EVERYTHING, Term, check_labels, format_selector
from meshfabric.model.peertext import PeerText
from meshfabric.model.policytext import EgressText, IngressText, PolicyText, read_policy
from meshfabric.model.ports import MAX_PORT

API_VERSION, KIND = "networking.k8s.io/v1", "NetworkPolicy"
K8S_PREFIX = "k8s.meshfabric.io/"
NAMESPACE = K8S_PREFIX + "namespace"
NAMESPACE_LABELS = K8S_PREFIX + "ns/"

INGRESS, EGRESS = "Ingress", "Egress"
PROTOCOLS = {"TCP": "tcp", "UDP": "udp", "SCTP": "sctp"}
OPERATORS = {"In": "in", "NotIn": "notin", "Exists": "exists", "DoesNotExist": "absent"}
WITH_VALUES = frozenset({"In", "NotIn"})

LONGEST_NAME = 63
DIGEST_CHARACTERS = 40

_LABEL = re.compile("(?=.{1,63}$)[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")  # RFC 1123
_SUBDOMAIN = re.compile(r"(?=.{1,253}$)[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*")

Object = Mapping[str, Any]
Terms = set[Term]


def translate(objects: Iterable[Any]) -> list[PolicyText]:
    """A document for each object, in their order; raises `InputError` for the first that is wrong."""
    texts: dict[str, PolicyText] = {}
    for one in objects:
        text = translate_one(one)
        if text.name in texts:
            raise InputError("two objects have this name", place=text.description, remedy="give one of them")
        texts[text.name] = text
    return list(texts.values())


def translate_one(given: Any) -> PolicyText:
    """The document that says what one NetworkPolicy says; raises `InputError` with object and field."""
    one = _mapping(given, "object")
    if (one.get("apiVersion"), one.get("kind")) != (API_VERSION, KIND):
        raise InputError(f"an object is no {KIND} of {API_VERSION}", remedy="look at its apiVersion and kind")
    metadata = _mapping(one.get("metadata"), f"{KIND}: metadata")
    name = _word(_SUBDOMAIN, metadata.get("name"), f"{KIND}: metadata.name")
    namespace = _word(_LABEL, metadata.get("namespace"), f"{KIND}: metadata.namespace")
    place = f"{KIND} {namespace}/{name}"
    known = {"podSelector", "ingress", "egress", "policyTypes"}
    spec = _fields(_or_empty(one.get("spec")), f"{place}: spec", known)
    pods = _selector(_or_empty(spec.get("podSelector")), f"{place}: spec.podSelector")
    text = PolicyText(
        policy_name(namespace, name), _format(_in_namespace(namespace) | pods), description=place
    )
    return _with_rules(text, spec, namespace, f"{place}: spec")


def policy_name(namespace: str, name: str) -> str:
    """The name of the document: no two objects share one. A namespace has no dots (RFC 1123 label)."""
    whole = f"k8s.{namespace}.{name}"
    if len(whole) <= LONGEST_NAME:
        return whole
    return f"k8s.{sha256(whole.encode()).hexdigest()[:DIGEST_CHARACTERS]}"


def namespace_labels(namespace: str, labels: Mapping[str, str]) -> dict[str, str]:
    """What the namespace of a pod adds to the labels of the workload."""
    return {NAMESPACE: namespace, **{NAMESPACE_LABELS + key: value for key, value in labels.items()}}


def _with_rules(text: PolicyText, spec: Object, namespace: str, place: str) -> PolicyText:
    types = _types(spec, f"{place}.policyTypes")
    ingress = [
        IngressText(*_rule(rule, "from", namespace, f"{place}.ingress[{i}]"))
        for i, rule in enumerate(_list(spec.get("ingress"), f"{place}.ingress"))
    ]
    egress = [
        EgressText(*_rule(rule, "to", namespace, f"{place}.egress[{i}]"))
        for i, rule in enumerate(_list(spec.get("egress"), f"{place}.egress"))
    ]
    made = PolicyText(
        text.name,
        text.select,
        ingress if INGRESS in types else None,
        egress if EGRESS in types else None,
        text.description,
    )
    read_policy(made, place)
    return made


def _types(spec: Object, place: str) -> set[str]:
    """Which directions are ruled; without a word on it ingress, and egress if there are rules for it."""
    given = _list(spec.get("policyTypes"), place)
    for one in given:
        if one not in (INGRESS, EGRESS):
            raise InputError(f"unknown type {_shown(one)}", place=place, remedy=f"{INGRESS} or {EGRESS}")
    if given:
        return set(given)
    return {INGRESS, EGRESS} if spec.get("egress") else {INGRESS}


def _rule(
    given: Any, peers_field: str, namespace: str, place: str
) -> tuple[list[PeerText] | None, list[str] | None]:
    """Peers and ports; an empty list means any, as a missing one does."""
    rule = _fields(given, place, {peers_field, "ports"})
    peers = _list(rule.get(peers_field), f"{place}.{peers_field}")
    ports = _list(rule.get("ports"), f"{place}.ports")
    texts: list[PeerText] = [
        _peer(peer, namespace, f"{place}.{peers_field}[{i}]") for i, peer in enumerate(peers)
    ]
    return texts or None, [_port(port, f"{place}.ports[{i}]") for i, port in enumerate(ports)] or None


def _peer(given: Any, namespace: str, place: str) -> str:
    peer = _fields(given, place, {"podSelector", "namespaceSelector", "ipBlock"})
    if peer.get("ipBlock") is not None:
        raise _not_yet("an ipBlock", f"{place}.ipBlock", "the datapath forwards nothing to the world")
    pods, namespaces = peer.get("podSelector"), peer.get("namespaceSelector")
    if pods is None and namespaces is None:
        raise InputError("a peer selects nothing", place=place, remedy="name a podSelector")
    terms = _selector(_or_empty(pods), f"{place}.podSelector")
    if namespaces is None:
        return _format(terms | _in_namespace(namespace))
    chosen = _selector(namespaces, f"{place}.namespaceSelector", NAMESPACE_LABELS)
    return _format(terms | chosen | {Term(NAMESPACE, "exists", ())})


def _in_namespace(namespace: str) -> Terms:
    return {Term(NAMESPACE, "in", (namespace,))}


def _selector(given: Any, place: str, prefix: str = "") -> Terms:
    """A LabelSelector; all of its terms must hold. `prefix` goes before each key."""
    selector = _fields(given, place, {"matchLabels", "matchExpressions"})
    pairs = _mapping(_or_empty(selector.get("matchLabels")), f"{place}.matchLabels")
    terms = {_term(key, "In", [value], f"{place}.matchLabels", prefix) for key, value in pairs.items()}
    for i, one in enumerate(_list(selector.get("matchExpressions"), f"{place}.matchExpressions")):
        at = f"{place}.matchExpressions[{i}]"
        needed = _fields(one, at, {"key", "operator", "values"})
        values = _list(needed.get("values"), f"{at}.values")
        terms.add(_term(needed.get("key"), needed.get("operator"), values, at, prefix))
    return terms


def _term(key: Any, operator: Any, values: Sequence[Any], place: str, prefix: str) -> Term:
    if not isinstance(operator, str) or operator not in OPERATORS:
        raise InputError(
            f"unknown operator {_shown(operator)}", place=place, remedy=f"one of {', '.join(OPERATORS)}"
        )
    if not isinstance(key, str) or not all(isinstance(value, str) for value in values):
        raise InputError("keys and values of labels are text", place=place, remedy="put them in quotes")
    if (operator in WITH_VALUES) != bool(values):
        remedy = "In and NotIn have values, the others none"
        raise InputError(f"{operator} with {len(values)} values", place=place, remedy=remedy)
    if key.startswith(K8S_PREFIX):
        raise InputError(f"label {key!r} is the fabric's own", place=place, remedy="use a namespaceSelector")
    for value in values or [""]:
        check_labels({prefix + key: value}, place)
    return Term(prefix + key, OPERATORS[operator], tuple(sorted(set(values))))


def _format(terms: Terms) -> str:
    return format_selector(tuple(sorted(terms))) or EVERYTHING


def _port(given: Any, place: str) -> str:
    one = _fields(given, place, {"protocol", "port", "endPort"})
    protocol = one.get("protocol", "TCP")
    if not isinstance(protocol, str) or protocol not in PROTOCOLS:
        remedy = f"one of {', '.join(PROTOCOLS)}"
        raise InputError(f"unknown protocol {_shown(protocol)}", place=f"{place}.protocol", remedy=remedy)
    name = PROTOCOLS[protocol]
    port, last = one.get("port"), one.get("endPort")
    if isinstance(port, str):
        raise _not_yet(f"the named port {_shown(port)}", f"{place}.port", "workloads name no ports")
    if port is None:
        if last is not None:
            raise InputError("endPort without port", place=place, remedy="write both, or none for all")
        return name
    low = _number(port, f"{place}.port")
    high = low if last is None else _number(last, f"{place}.endPort")
    if high < low:
        raise InputError(f"endPort {high} is below port {low}", place=place, remedy="the lower one is port")
    return f"{name}/{low}" if low == high else f"{name}/{low}-{high}"


def _number(given: Any, place: str) -> int:
    if type(given) is not int or not 1 <= given <= MAX_PORT:
        raise InputError(f"{_shown(given)} is no port", place=place, remedy=f"1 to {MAX_PORT}")
    return given


def _not_yet(what: str, place: str, why: str) -> InputError:
    return InputError(f"{what} cannot be said yet: {why}", place=place, remedy="take it out of the policy")


def _fields(given: Any, place: str, known: set[str]) -> Object:
    """A mapping of these fields; others may say what we would leave out, and are refused."""
    found = _mapping(given, place)
    for key in found:
        if key not in known:
            raise InputError(f"{_shown(key)} cannot be said yet", place=place, remedy="leave it out")
    return found


def _or_empty(given: Any) -> Any:
    return {} if given is None else given


def _mapping(given: Any, place: str) -> Object:
    if not isinstance(given, Mapping) or not all(isinstance(key, str) for key in given):
        raise InputError(f"expected a mapping, got {_shown(given)}", place=place, remedy="see the API")
    return given


def _list(given: Any, place: str) -> Sequence[Any]:
    if given is None:
        return ()
    if not isinstance(given, list):
        raise InputError(f"expected a list, got {_shown(given)}", place=place, remedy="see the API")
    return given


def _word(form: re.Pattern[str], given: Any, place: str) -> str:
    if not isinstance(given, str) or not form.fullmatch(given):
        raise InputError(f"{_shown(given)} is no name", place=place, remedy="as the API server writes it")
    return given


def _shown(given: Any) -> str:
    """Somebody's value, short and printable."""
    if isinstance(given, list | dict):
        return "a list" if isinstance(given, list) else "a mapping"
    return ascii(given)[:60]
