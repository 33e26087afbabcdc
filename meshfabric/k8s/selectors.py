"""Selectors of pods, namespaces and nodes as terms of ours, and the labels that those have here (pure).

    k8s.meshfabric.io/namespace=shop             of a pod: its namespace's name
    k8s.meshfabric.io/ns/team=blue               its namespace's label team=blue
    k8s.meshfabric.io/node=kube1                 of a host: it is a Kubernetes node of that name
    k8s.meshfabric.io/node/zone=a                with a label zone=a

No pod may use such names. Who makes a pod or a node a workload adds them
(`namespace_labels`, `node_labels`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from meshfabric.k8s.objects import fields, mapping, or_empty, sequence, shown
from meshfabric.model.errors import InputError
from meshfabric.model.labels import (
    EVERYTHING,
    KIND_LABEL,
    Term,
    check_labels,
    format_selector,
    is_reserved,
)

K8S_PREFIX = "k8s.meshfabric.io/"
NAMESPACE = K8S_PREFIX + "namespace"
NAMESPACE_LABELS = K8S_PREFIX + "ns/"
NODE = K8S_PREFIX + "node"
NODE_LABELS = K8S_PREFIX + "node/"

OPERATORS = {"In": "in", "NotIn": "notin", "Exists": "exists", "DoesNotExist": "absent"}
WITH_VALUES = frozenset({"In", "NotIn"})

Terms = set[Term]
IN_ANY_NAMESPACE: Terms = {Term(NAMESPACE, "exists", ())}
ANY_NODE: Terms = {Term(NODE, "exists", ()), Term(KIND_LABEL, "in", ("host",))}


def namespace_labels(namespace: str, labels: Mapping[str, str]) -> dict[str, str]:
    """What the namespace of a pod adds to the labels of the workload."""
    return {NAMESPACE: namespace, **{NAMESPACE_LABELS + key: value for key, value in labels.items()}}


def node_labels(name: str, labels: Mapping[str, str]) -> dict[str, str]:
    """What a Kubernetes node adds to the labels of its host."""
    return {NODE: name, **{NODE_LABELS + key: value for key, value in labels.items()}}


def in_namespace(namespace: str) -> Terms:
    """The pods of one namespace."""
    return {Term(NAMESPACE, "in", (namespace,))}


def selector(given: Any, place: str, prefix: str = "") -> Terms:
    """A LabelSelector; all of its terms must hold. `prefix` goes before each key."""
    selector = fields(given, place, {"matchLabels", "matchExpressions"})
    pairs = mapping(or_empty(selector.get("matchLabels")), f"{place}.matchLabels")
    terms = {_term(key, "In", [value], f"{place}.matchLabels", prefix) for key, value in pairs.items()}
    for i, one in enumerate(sequence(selector.get("matchExpressions"), f"{place}.matchExpressions")):
        at = f"{place}.matchExpressions[{i}]"
        needed = fields(one, at, {"key", "operator", "values"})
        values = sequence(needed.get("values"), f"{at}.values")
        terms.add(_term(needed.get("key"), needed.get("operator"), values, at, prefix))
    return terms


def _term(key: Any, operator: Any, values: Sequence[Any], place: str, prefix: str) -> Term:
    if not isinstance(operator, str) or operator not in OPERATORS:
        raise InputError(
            f"unknown operator {shown(operator)}", place=place, remedy=f"one of {', '.join(OPERATORS)}"
        )
    if not isinstance(key, str) or not all(isinstance(value, str) for value in values):
        raise InputError("keys and values of labels are text", place=place, remedy="put them in quotes")
    if (operator in WITH_VALUES) != bool(values):
        remedy = "In and NotIn have values, the others none"
        raise InputError(f"{operator} with {len(values)} values", place=place, remedy=remedy)
    if key.startswith(K8S_PREFIX) or is_reserved(key):
        raise InputError(f"label {key!r} is the fabric's own", place=place, remedy="use a namespaceSelector")
    for value in values or [""]:
        check_labels({prefix + key: value}, place)
    return Term(prefix + key, OPERATORS[operator], tuple(sorted(set(values))))


def formatted(terms: Terms) -> str:
    """As a document has it."""
    return format_selector(tuple(sorted(terms))) or EVERYTHING
