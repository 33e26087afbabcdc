"""Kubernetes policies to documents of ours (pure).

    NetworkPolicy                 networking.k8s.io/v1                 --> tier normal
    AdminNetworkPolicy            policy.networking.k8s.io/v1alpha1    --> tier admin
    BaselineAdminNetworkPolicy    the same                             --> tier baseline

A pod is a workload whose labels are the pod's own and, under names that no pod
may use, those of its namespace (`selectors`). Nothing is lost on the way: what our
language cannot say is an `InputError` that names the object and the field, as is
everything that the API server would not take.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from meshfabric.k8s import adminpolicy, networkpolicy
from meshfabric.k8s.adminpolicy import admin_policy, baseline_policy
from meshfabric.k8s.networkpolicy import network_policy
from meshfabric.k8s.objects import mapping
from meshfabric.model.addresses import Network
from meshfabric.model.errors import InputError
from meshfabric.model.policytext import PolicyText

NETWORK_POLICY = (networkpolicy.API_VERSION, networkpolicy.KIND)
ADMIN = (adminpolicy.API_VERSION, adminpolicy.ADMIN)
BASELINE = (adminpolicy.API_VERSION, adminpolicy.BASELINE)


def translate(objects: Iterable[Any], prefixes: Sequence[Network] = ()) -> list[PolicyText]:
    """A document for each object, in their order; raises `InputError` for the first that is wrong.

    `prefixes` are the fabric's, without which networks of the operators' policies are refused.
    """
    texts: dict[str, PolicyText] = {}
    for one in objects:
        text = translate_one(one, prefixes)
        if text.name in texts:
            raise InputError("two objects have this name", place=text.description, remedy="give one of them")
        texts[text.name] = text
    return list(texts.values())


def translate_one(given: Any, prefixes: Sequence[Network] = ()) -> PolicyText:
    """The document that says what one object says; raises `InputError` with object and field."""
    one = mapping(given, "object")
    match (one.get("apiVersion"), one.get("kind")):
        case kind if kind == NETWORK_POLICY:
            return network_policy(one)
        case kind if kind == ADMIN:
            return admin_policy(one, prefixes)
        case kind if kind == BASELINE:
            return baseline_policy(one, prefixes)
    what = f"an object is no {networkpolicy.KIND} of {networkpolicy.API_VERSION}"
    what += f", {adminpolicy.ADMIN} or {adminpolicy.BASELINE} of {adminpolicy.API_VERSION}"
    raise InputError(what, remedy="look at its apiVersion and kind")
