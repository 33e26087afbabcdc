"""The operators' policies of Kubernetes in our language: each case of the API's description, and anything."""

from collections.abc import Sequence
from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshfabric.k8s.selectors import node_labels
from meshfabric.k8s.translate import translate, translate_one
from meshfabric.model.addresses import Network
from meshfabric.model.errors import InputError
from meshfabric.model.labels import make_labels, matches, parse_selector
from meshfabric.model.policytext import EgressText, IngressText, PolicyText, read_policy
from meshfabric.model.versions import OUTSIDE
from meshfabric.model.yamltext import parse_documents

ANY_POD = "k8s.meshfabric.io/namespace"
NS = "k8s.meshfabric.io/ns/"
PREFIXES = (ip_network("10.64.0.0/16"), ip_network("fd64::/32"))
ALL: Any = {"namespaces": {}}
LABELLED = {"matchLabels": {"a": "b"}}


def policy(kind: str = "AdminNetworkPolicy", name: str = "p", **spec: Any) -> dict[str, Any]:
    priority = {"priority": 5} if kind == "AdminNetworkPolicy" else {}
    return {
        "apiVersion": "policy.networking.k8s.io/v1alpha1",
        "kind": kind,
        "metadata": {"name": name},
        "spec": {**priority, "subject": ALL, **spec},
    }


def baseline(**spec: Any) -> dict[str, Any]:
    return policy("BaselineAdminNetworkPolicy", "default", **spec)


def egress(prefixes: Sequence[Network] = PREFIXES, **rule: Any) -> EgressText:
    """The one rule of a policy for what goes out."""
    whole = {"action": "Allow", "to": [ALL], **rule}
    (found,) = translate_one(policy(egress=[whole]), prefixes).egress or []
    return found


def peers(*given: Any, prefixes: Sequence[Network] = PREFIXES, action: str = "Allow") -> Any:
    return egress(prefixes, to=list(given), action=action).peers


def ports(*given: Any) -> Any:
    return egress(ports=list(given)).ports


def test_the_story_of_sensitive_namespaces() -> None:
    text = """
apiVersion: policy.networking.k8s.io/v1alpha1
kind: AdminNetworkPolicy
metadata: {name: cluster-control}
spec:
  priority: 34
  subject: {namespaces: {matchLabels: {sensitive: "true"}}}
  ingress:
  - {name: monitoring, action: Allow, from: [{namespaces: {matchLabels: {kind: monitoring}}}]}
  - action: Deny
    from: [{namespaces: {}}]
  egress:
  - action: Pass
    to: [{pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: dns}}}}]
    ports: [{portNumber: {protocol: UDP, port: 53}}]
"""
    (made,) = translate(parse_documents(text, "anp.yaml", dict[str, Any]))
    assert made == PolicyText(
        "k8s-admin.cluster-control",
        f"{ANY_POD}, {NS}sensitive=true",
        [
            IngressText([f"{ANY_POD}, {NS}kind=monitoring"], None, "allow"),
            IngressText([ANY_POD], None, "deny"),
        ],
        [EgressText([f"app=dns, {ANY_POD}"], ["udp/53"], "pass")],
        "AdminNetworkPolicy cluster-control",
        min_version=OUTSIDE,
        tier="admin",
        priority=34,
        first_match=True,
    )


def test_the_baseline_is_asked_last() -> None:
    made = translate_one(baseline(ingress=[{"action": "Deny", "from": [ALL]}]))
    assert (made.name, made.tier, made.priority) == ("k8s-baseline.default", "baseline", 1000)
    assert (made.ingress, made.egress) == ([IngressText([ANY_POD], None, "deny")], None)
    assert made.first_match


@pytest.mark.parametrize(
    ("subject", "select"),
    [
        ({"namespaces": {}}, ANY_POD),
        ({"namespaces": {"matchLabels": {"team": "red"}}}, f"{ANY_POD}, {NS}team=red"),
        (
            {"namespaces": {"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["x", "y"]}]}},
            f"{ANY_POD}, {NS}a notin (x, y)",
        ),
        ({"pods": {"namespaceSelector": {}, "podSelector": {}}}, ANY_POD),
        (
            {"pods": {"namespaceSelector": LABELLED, "podSelector": {"matchLabels": {"c": "d"}}}},
            f"c=d, {ANY_POD}, {NS}a=b",
        ),
        ({"namespaces": None, "pods": {"podSelector": {"matchLabels": {"c": "d"}}}}, f"c=d, {ANY_POD}"),
    ],
)  # fmt: skip
def test_subjects_and_peers_are_pods_in_namespaces(subject: dict[str, Any], select: str) -> None:
    rules = [{"action": "Allow", "from": [subject]}]
    made = translate_one(policy(subject=subject, ingress=rules, egress=[{"action": "Deny", "to": [subject]}]))
    assert made.select == select
    assert made.ingress == [IngressText([select], None, "allow")]
    assert made.egress == [EgressText([select], None, "deny")]


def test_nodes_are_their_hosts() -> None:
    (every,) = peers({"nodes": {}})
    (zone,) = peers({"nodes": {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}})
    host = make_labels({"meshfabric.io/kind": "host", **node_labels("kube1", {"zone": "a"})})
    machine, pod = make_labels({"meshfabric.io/kind": "host"}), make_labels(node_labels("kube1", {}))
    assert [matches(parse_selector(every), one) for one in (host, machine, pod)] == [True, False, False]
    assert matches(parse_selector(zone), host)


@pytest.mark.parametrize(
    ("networks", "fabric", "expected"),
    [
        (["192.0.2.0/24"], PREFIXES, [{"cidr": "192.0.2.0/24"}]),
        (["192.0.2.1/32", "2001:db8::/32"], PREFIXES, [{"cidr": "192.0.2.1/32"}, {"cidr": "2001:db8::/32"}]),
        (["0.0.0.0/0", "::/0"], PREFIXES, [{"cidr": "0.0.0.0/0"}, {"cidr": "::/0"}, {"entity": "fabric"}]),
        (["0.0.0.0/0"], PREFIXES[:1], [{"cidr": "0.0.0.0/0"}, {"entity": "fabric"}]),
        (["10.64.0.0/16"], PREFIXES[:1], [{"cidr": "10.64.0.0/16"}, {"entity": "fabric"}]),
    ],
)
def test_networks_are_addresses_outside_or_all_of_the_fabric(
    networks: list[str], fabric: Sequence[Network], expected: list[dict[str, str]]
) -> None:
    assert peers({"networks": networks}, prefixes=fabric) == expected


@pytest.mark.parametrize(
    ("port", "said"),
    [
        ({"portNumber": {"protocol": "TCP", "port": 80}}, ["tcp/80"]),
        ({"portNumber": {"port": 80}}, ["tcp/80"]),
        ({"portNumber": {"protocol": "SCTP", "port": 7}}, ["sctp/7"]),
        ({"portRange": {"protocol": "UDP", "start": 1, "end": 9}}, ["udp/1-9"]),
        ({"portRange": {"start": 80, "end": 80}}, ["tcp/80-80"]),
        ({"namedPort": "http"}, ["tcp/http", "udp/http", "sctp/http"]),
    ],
)
def test_ports(port: dict[str, Any], said: list[str]) -> None:
    assert ports(port) == said
    assert ports({"portNumber": {"port": 1}}, port) == ["tcp/1", *said]


def test_without_ports_it_is_all() -> None:
    assert egress().ports is None
    assert ports() is None


@pytest.mark.parametrize("action", ["Allow", "Deny", "Pass"])
def test_actions(action: str) -> None:
    assert egress(action=action).action == action.lower()


RULE = {"action": "Allow", "to": [ALL]}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (policy(), "AdminNetworkPolicy p: spec: it has no rule"),
        (policy(ingress=[], egress=[]), "it has no rule"),
        (policy(priority=1001, egress=[RULE]), "p: spec.priority: 1001 is no priority (0 to 1000)"),
        (policy(priority=None, egress=[RULE]), "None is no priority"),
        (policy(subject={}, egress=[RULE]), "subject: 0 of its fields are set (either namespaces or pods)"),
        (policy(subject={"namespaces": {}, "pods": {}}, egress=[RULE]), "2 of its fields are set"),
        (policy(subject={"nodes": {}}, egress=[RULE]), "spec.subject: 'nodes' cannot be said yet"),
        (policy(egress=[{"to": [ALL]}]), "spec.egress[0].action: unknown action None"),
        (policy(egress=[{**RULE, "action": "allow"}]), "(one of Allow, Deny, Pass)"),
        (baseline(egress=[{**RULE, "action": "Pass"}]), "unknown action 'Pass' (one of Allow, Deny)"),
        (baseline(priority=3, egress=[RULE]), "default: spec: 'priority' cannot be said yet"),
        (policy("BaselineAdminNetworkPolicy", "mine", egress=[RULE]), "there is one, called default"),
        (policy(egress=[{"action": "Deny"}]), "spec.egress[0].to: no peers"),
        (policy(ingress=[{"action": "Deny", "to": [ALL]}]), "spec.ingress[0]: 'to' cannot be said yet"),
        (policy(ingress=[{"action": "Allow", "from": [{"nodes": {}}]}]), "'nodes' cannot be said yet"),
        (policy(egress=[{**RULE, "to": [{}]}]), "egress[0].to[0]: 0 of its fields are set"),
        (policy(egress=[{**RULE, "to": [{"domainNames": ["a.b"]}]}]), "'domainNames' cannot be said yet"),
        (policy(egress=[{"action": "Deny", "to": [{"nodes": {}}]}]), "nodes: a node's addresses outside"),
        (policy(egress=[{"action": "Pass", "to": [{"nodes": {}}]}]), "(name them under networks)"),
        (policy(egress=[{**RULE, "to": [{"networks": ["0.0.0.0/0"]}]}]), "they hold some addresses of"),
        (policy(egress=[{**RULE, "to": [{"networks": ["10.64.1.0/24"]}]}]), "labels tell who is who there"),
        (policy(egress=[{**RULE, "to": [{"networks": ["10.64.0.0/17"]}]}]), "they hold some addresses"),
        (policy(egress=[{**RULE, "to": [{"networks": ["10.64.0.0/16"]}]}]), "they hold some addresses"),
        (policy(egress=[{**RULE, "to": [{"networks": ["10.64.1.1/16"]}]}]), "networks[0]: '10.64.1.1/16' is"),
        (policy(egress=[{**RULE, "to": [{"networks": []}]}]), "to[0].networks: no networks (name one)"),
        (policy(egress=[{**RULE, "to": [{"networks": 26 * ["192.0.2.0/24"]}]}]), "26 of them (at most 25)"),
        (policy(egress=101 * [RULE]), "spec.egress: 101 of them (at most 100)"),
        (policy(egress=[{**RULE, "name": 101 * "x"}]), "egress[0].name: the name is too long"),
        (policy(egress=[{**RULE, "ports": [{"portNumber": {"port": 0}}]}]), "port: 0 is no port"),
        (policy(egress=[{**RULE, "ports": [{"portRange": {"start": 9, "end": 1}}]}]), "end 1 is below"),
        (policy(egress=[{**RULE, "ports": [{"portRange": {"start": 9}}]}]), "end: None is no port"),
        (policy(egress=[{**RULE, "ports": [{"namedPort": "H"}]}]), "ports[0].namedPort: 'H' is no name"),
        (policy(egress=[{**RULE, "ports": [{}]}]), "0 of its fields are set (one of portNumber, portRange"),
        (
            policy(egress=[{**RULE, "ports": [{"namedPort": "a", "portNumber": {"port": 1}}]}]),
            "ports[0]: 2 of its fields are set",
        ),
        (policy(name="Upper", egress=[RULE]), "metadata.name: 'Upper' is no name"),
    ],
)  # fmt: skip
def test_what_cannot_be_said_names_object_and_field(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as error:
        translate_one(given, PREFIXES)
    assert said in str(error.value)
    assert given["kind"] in str(error.value)


def test_networks_want_the_fabrics_prefixes() -> None:
    with pytest.raises(InputError, match="the fabric's prefixes are not known"):
        peers({"networks": ["192.0.2.0/24"]}, prefixes=())


def test_no_two_kinds_share_a_name() -> None:
    plain: dict[str, Any] = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy"}
    plain |= {"metadata": {"name": "p", "namespace": "admin"}, "spec": {}}
    made = translate([plain, policy(egress=[RULE]), baseline(egress=[RULE])])
    assert [one.name for one in made] == ["k8s.admin.p", "k8s-admin.p", "k8s-baseline.default"]


leaves = (
    st.none() | st.booleans() | st.integers(-1, 70000) | st.sampled_from(["a", "Allow", "10.0.0.0/8", "TCP"])
)
FIELDS = (
    "namespaces pods nodes networks namespaceSelector podSelector portNumber portRange namedPort start end"
)
keys = st.sampled_from([*FIELDS.split(), "action", "to", "from", "ports", "matchLabels", "protocol"])
anything = st.recursive(
    leaves, lambda part: st.lists(part, max_size=3) | st.dictionaries(keys, part, max_size=3), max_leaves=12
)
rules = st.lists(
    st.fixed_dictionaries(
        {"action": st.sampled_from(["Allow", "Deny"])},
        optional={"to": anything, "from": anything, "ports": anything},
    )
    | anything,
    max_size=2,
)


@given(rules, rules, anything)
@settings(max_examples=500, deadline=None)
def test_whatever_comes_is_a_document_or_an_input_error(coming: Any, going: Any, subject: Any) -> None:
    for one in (
        policy(ingress=coming, egress=going),
        baseline(subject=subject, egress=going),
        policy(subject=subject, ingress=coming),
    ):
        assert outcome(one).isprintable()


def outcome(one: Any) -> str:
    """The name of the document, which can be read, or the error."""
    try:
        return read_policy(translate_one(one, PREFIXES)).name
    except InputError as error:
        return str(error)
