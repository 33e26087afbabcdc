"""Kubernetes NetworkPolicy in our language: each case of the API's description, and anything for input."""

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshfabric.k8s.networkpolicy import policy_name
from meshfabric.k8s.selectors import namespace_labels
from meshfabric.k8s.translate import translate, translate_one
from meshfabric.model.errors import InputError
from meshfabric.model.labels import make_labels, matches
from meshfabric.model.policy import Policy
from meshfabric.model.policytext import EgressText, IngressText, PolicyText, read_policy
from meshfabric.model.versions import OUTSIDE
from meshfabric.model.yamltext import parse_documents

HERE = "k8s.meshfabric.io/namespace=default"
ANY_NAMESPACE = "k8s.meshfabric.io/namespace"


def network_policy(name: str = "p", namespace: str = "default", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"podSelector": {}, **spec},
    }


def translated(**spec: Any) -> PolicyText:
    return translate_one(network_policy(**spec))


def ingress_peers(*peers: Any) -> Any:
    (rule,) = translated(ingress=[{"from": list(peers)}]).ingress or []
    return rule.peers


def ingress_ports(*ports: Any) -> Any:
    (rule,) = translated(ingress=[{"ports": list(ports)}]).ingress or []
    return rule.ports


def test_the_example_of_the_documentation() -> None:
    text = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: test-network-policy, namespace: default}
spec:
  podSelector: {matchLabels: {role: db}}
  policyTypes: [Ingress, Egress]
  ingress:
  - from:
    - ipBlock: {cidr: 172.17.0.0/16, except: [172.17.1.0/24]}
    - namespaceSelector: {matchLabels: {project: myproject}}
    - podSelector: {matchLabels: {role: frontend}}
    ports: [{protocol: TCP, port: 6379}]
  egress:
  - to: [{ipBlock: {cidr: 10.0.0.0/24}}]
    ports: [{protocol: TCP, port: 5978}]
"""
    (policy,) = translate(parse_documents(text, "np.yaml", dict[str, Any]))
    assert policy == PolicyText(
        "k8s.default.test-network-policy",
        f"{HERE}, role=db",
        [
            IngressText(
                [
                    {"cidr": "172.17.0.0/16", "except": ["172.17.1.0/24"]},
                    f"{ANY_NAMESPACE}, k8s.meshfabric.io/ns/project=myproject",
                    f"{HERE}, role=frontend",
                ],
                ["tcp/6379"],
            )
        ],
        [EgressText([{"cidr": "10.0.0.0/24"}], ["tcp/5978"])],
        "NetworkPolicy default/test-network-policy",
        min_version=OUTSIDE,
    )


@pytest.mark.parametrize(
    ("spec", "ingress", "egress"),
    [
        ({"policyTypes": ["Ingress"]}, [], None),
        ({"ingress": [{}], "policyTypes": ["Ingress"]}, [IngressText()], None),
        ({"policyTypes": ["Egress"]}, None, []),
        ({"egress": [{}], "policyTypes": ["Egress"]}, None, [EgressText()]),
        ({"policyTypes": ["Ingress", "Egress"]}, [], []),
        ({}, [], None),
        ({"ingress": []}, [], None),
        ({"egress": []}, [], None),
        ({"egress": [{}]}, [], [EgressText()]),
        ({"ingress": [{}], "egress": [{}]}, [IngressText()], [EgressText()]),
        ({"ingress": [{}], "policyTypes": ["Egress"]}, None, []),
        ({"egress": [{}], "policyTypes": ["Ingress"]}, [], None),
        ({"policyTypes": []}, [], None),
        ({"ingress": [{"from": [], "ports": []}]}, [IngressText()], None),
    ],
)
def test_directions(
    spec: dict[str, Any], ingress: list[IngressText] | None, egress: list[EgressText] | None
) -> None:
    """Deny all, allow all and isolate for each direction, and what a missing policyTypes means."""
    text = translated(**spec)
    assert (text.select, text.ingress, text.egress) == (HERE, ingress, egress)


def test_an_object_without_a_spec_isolates_its_namespace() -> None:
    bare = {key: value for key, value in network_policy().items() if key != "spec"}
    assert translate_one(bare) == translated() == translated(podSelector=None)


@pytest.mark.parametrize(
    ("peer", "selects"),
    [
        ({"podSelector": {}}, HERE),
        ({"podSelector": {"matchLabels": {"a": "b"}}}, f"a=b, {HERE}"),
        ({"namespaceSelector": {}}, ANY_NAMESPACE),
        (
            {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "shop"}}},
            f"{ANY_NAMESPACE}, k8s.meshfabric.io/ns/kubernetes.io/metadata.name=shop",
        ),
        (
            {
                "namespaceSelector": {"matchLabels": {"user": "alice"}},
                "podSelector": {"matchLabels": {"r": "c"}},
            },
            f"{ANY_NAMESPACE}, k8s.meshfabric.io/ns/user=alice, r=c",
        ),
        (
            {
                "namespaceSelector": {
                    "matchExpressions": [{"key": "ns", "operator": "In", "values": ["a", "b"]}]
                }
            },
            f"{ANY_NAMESPACE}, k8s.meshfabric.io/ns/ns in (a, b)",
        ),
    ],
)
def test_peers(peer: dict[str, Any], selects: str) -> None:
    assert ingress_peers(peer) == [selects]


def test_peers_add_up() -> None:
    assert ingress_peers({"namespaceSelector": {}}, {"podSelector": {}}) == [ANY_NAMESPACE, HERE]


@pytest.mark.parametrize(
    ("expression", "term"),
    [
        ({"key": "a", "operator": "In", "values": ["x"]}, "a=x"),
        ({"key": "a", "operator": "In", "values": ["y", "x", "x"]}, "a in (x, y)"),
        ({"key": "a", "operator": "In", "values": [""]}, "a="),
        ({"key": "a", "operator": "NotIn", "values": ["x", "y"]}, "a notin (x, y)"),
        ({"key": "a", "operator": "Exists"}, "a"),
        ({"key": "a", "operator": "DoesNotExist", "values": []}, "!a"),
    ],
)
def test_expressions(expression: dict[str, Any], term: str) -> None:
    text = translated(podSelector={"matchExpressions": [expression]})
    assert text.select == f"{term}, {HERE}"
    assert read_policy(text).select


@pytest.mark.parametrize(
    ("port", "said"),
    [
        ({}, "tcp"),
        ({"protocol": "UDP"}, "udp"),
        ({"port": 80}, "tcp/80"),
        ({"protocol": "TCP", "port": 443}, "tcp/443"),
        ({"protocol": "SCTP", "port": 7777}, "sctp/7777"),
        ({"protocol": "TCP", "port": 32000, "endPort": 32768}, "tcp/32000-32768"),
        ({"port": 80, "endPort": 80}, "tcp/80"),
        ({"port": "http"}, "tcp/http"),
        ({"port": "dns-tcp", "protocol": "UDP"}, "udp/dns-tcp"),
    ],
)
def test_ports(port: dict[str, Any], said: str) -> None:
    assert ingress_ports(port) == [said]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (
            {"ingress": [{"from": [{"ipBlock": {"cidr": "172.17.0.0/16", "except": ["172.18.1.0/24"]}}]}]},
            "spec.ingress[0].from[0].ipBlock: 172.18.1.0/24 is no part of 172.17.0.0/16",
        ),
        ({"ingress": [{"from": [{"ipBlock": {}}]}]}, "from[0].ipBlock.cidr: expected text, got None"),
        ({"ingress": [{"from": [{"ipBlock": {"cidr": "web"}}]}]}, "'web' is no prefix"),
        (
            {"ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}}]}]},
            "spec.ingress[0].from[0]: an ipBlock stands alone",
        ),
        ({"egress": [{}, {"ports": [{"port": "HTTP"}]}]}, "spec.egress[1].ports[0].port: 'HTTP' is no name"),
        ({"egress": [{"ports": [{"port": "http", "endPort": 9}]}]}, "endPort without a port's number"),
        ({"podSelector": {"matchLabels": {"port.meshfabric.io/http": "tcp.80"}}}, "is the fabric's own"),
        ({"ingress": [{"from": [{}]}]}, "spec.ingress[0].from[0]: a peer selects nothing"),
        ({"ingress": [{"to": []}]}, "spec.ingress[0]: 'to' cannot be said yet"),
        (
            {"ingress": [{"ports": [{"endPort": 90}]}]},
            "ports[0]: endPort without a port's number",
        ),
        ({"ingress": [{"ports": [{"port": 90, "endPort": 80}]}]}, "endPort 80 is below port 90"),
        ({"ingress": [{"ports": [{"port": 0}]}]}, "spec.ingress[0].ports[0].port: 0 is no port (1 to 65535)"),
        ({"ingress": [{"ports": [{"port": True}]}]}, "True is no port"),
        ({"ingress": [{"ports": [{"protocol": "ICMP"}]}]}, "unknown protocol 'ICMP' (one of TCP, UDP, SCTP)"),
        ({"policyTypes": ["Egres"]}, "spec.policyTypes: unknown type 'Egres' (Ingress or Egress)"),
        ({"policyTypes": "Egress"}, "spec.policyTypes: expected a list, got 'Egress'"),
        ({"podSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}, "In with 0 values"),
        (
            {"podSelector": {"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["b"]}]}},
            "Exists with 1 values",
        ),
        ({"podSelector": {"matchExpressions": [{"key": "a", "operator": "Gt"}]}}, "unknown operator 'Gt'"),
        ({"podSelector": {"matchLabels": {"a": 1}}}, "keys and values of labels are text"),
        ({"podSelector": {"matchLabels": {"a b": "c"}}}, "bad label 'a b=c'"),
        ({"podSelector": {"matchLabels": {"k8s.meshfabric.io/namespace": "x"}}}, "is the fabric's own"),
        ({"audit": True}, "spec: 'audit' cannot be said yet"),
    ],
)
def test_what_cannot_be_said_names_object_and_field(spec: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as error:
        translated(**spec)
    assert str(error.value).startswith("NetworkPolicy default/p: spec")
    assert said in str(error.value)


@pytest.mark.parametrize(
    "other",
    [
        {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress"},
        {**network_policy(), "apiVersion": "v1"},
        network_policy(name="Upper"),
        network_policy(namespace=""),
        {**network_policy(), "metadata": {"name": "p"}},
        None,
        [],
    ],
)
def test_other_objects(other: Any) -> None:
    with pytest.raises(InputError):
        translate_one(other)


def test_two_objects_of_one_name() -> None:
    with pytest.raises(InputError, match="two objects have this name"):
        translate([network_policy(), network_policy("q"), network_policy()])


def test_names_are_valid_and_apart() -> None:
    long = "n" * 63
    pairs = [
        ("a", "b.c"),
        ("a", "b"),
        ("b", "a"),
        (long, "p"),
        (long, "q"),
        ("p", "x" * 200),
        ("p", "x" * 199),
    ]
    names = [translate_one(network_policy(name, namespace)).name for namespace, name in pairs]
    assert len(set(names)) == len(pairs)
    assert names[0] == policy_name("k8s.a.b.c") == "k8s.a.b.c"


def pod(namespace: str, labels: dict[str, str], **of_namespace: str) -> Any:
    return make_labels({**labels, **namespace_labels(namespace, of_namespace)})


def selected(policy: Policy, *pods: Any) -> list[bool]:
    (rule,) = policy.ingress or ()
    peers = [peer for peer in rule.peers or () if isinstance(peer, tuple)]
    return [any(matches(peer, one) for peer in peers) for one in pods]


def test_who_is_selected_in_the_end() -> None:
    """A pod of a like-named label elsewhere, a VM without namespace: neither is a pod of the namespace."""
    policy = read_policy(translated(podSelector={"matchLabels": {"app": "db"}}, ingress=[{"from": [
        {"podSelector": {"matchLabels": {"app": "web"}}},
        {"namespaceSelector": {"matchLabels": {"team": "red"}},
         "podSelector": {"matchLabels": {"app": "ops"}}},
    ]}]))  # fmt: skip
    assert matches(policy.select, pod("default", {"app": "db"}))
    assert not matches(policy.select, pod("other", {"app": "db"}))
    assert not matches(policy.select, make_labels({"app": "db"}))
    assert selected(
        policy,
        pod("default", {"app": "web"}),
        pod("other", {"app": "web"}),
        pod("other", {"app": "ops"}, team="red"),
        pod("other", {"app": "ops", "team": "red"}),
        pod("other", {"app": "web"}, team="red"),
        make_labels({"app": "web"}),
    ) == [True, False, True, False, False, False]


leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
WORDS = "In NotIn Exists a b.c/d TCP UDP Ingress Egress http shop default"
words = st.sampled_from(WORDS.split())
ports = st.sampled_from([0, 1, 80, 443, 65535, 65536, -1])
FIELDS = """from to ports port endPort protocol podSelector namespaceSelector ipBlock matchLabels
matchExpressions key operator values ingress egress policyTypes name namespace a"""
keys = st.sampled_from(FIELDS.split())
anything = st.recursive(
    leaves | words | ports,
    lambda part: st.lists(part, max_size=3) | st.dictionaries(keys | st.text(max_size=3), part, max_size=4),
    max_leaves=12,
)


def listed(part: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(part, max_size=2) | anything


def record(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries({}, optional=fields)


expressions = record(key=words | anything, operator=words | anything, values=listed(words))
selectors = record(
    matchLabels=st.dictionaries(words, words, max_size=2), matchExpressions=listed(expressions)
)
blocks = record(cidr=st.sampled_from(["10.0.0.0/8", "::/0", "x"]), **{"except": listed(words)}) | anything
peers = record(podSelector=selectors, namespaceSelector=selectors, ipBlock=blocks)
port_rules = record(protocol=words | anything, port=ports | words, endPort=ports)
specs = record(
    podSelector=selectors,
    policyTypes=listed(words),
    ingress=listed(record(**{"from": listed(peers), "ports": listed(port_rules)})),
    egress=listed(record(to=listed(peers), ports=listed(port_rules))),
)
objects = st.builds(
    lambda spec, name: {**network_policy(), "spec": spec, "metadata": {"name": name, "namespace": "default"}},
    specs,
    words | st.just("p"),
)


@given(st.lists(objects | anything, max_size=3))
@settings(max_examples=600, deadline=None)
def test_whatever_comes_is_a_document_or_an_input_error(given: Iterable[Any]) -> None:
    assert outcome(given).isprintable()


def outcome(objects: Iterable[Any]) -> str:
    """The names of the documents, which can be read, or the error."""
    try:
        return " ".join(read_policy(text).name for text in translate(objects))
    except InputError as error:
        return str(error)
