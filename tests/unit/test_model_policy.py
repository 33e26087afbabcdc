"""Policy documents: checked values, their texts, and one line for each mistake."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshfabric.model.errors import InputError
from meshfabric.model.policy import Rule, format_rule
from meshfabric.model.policytext import DefaultText, EgressText, IngressText, PolicyText, read_policy
from meshfabric.model.ports import MAX_PORT, PROTOCOLS, Ports, format_ports, parse_ports
from tests.strategies import policy_texts

PORT_REMEDY = "write tcp/443, udp/8000-8100, tcp/http or icmp"
ports = st.integers(1, MAX_PORT)


@given(st.sampled_from(["tcp", "udp", "sctp"]), ports, ports)
def test_a_range_reads_back_as_itself(name: str, one: int, other: int) -> None:
    wanted = Ports(PROTOCOLS[name], min(one, other), max(one, other))
    assert parse_ports(format_ports(wanted)) == wanted
    assert parse_ports(f"{name}/{wanted.first}-{wanted.last}") == wanted


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_protocol_alone_is_all_of_it(name: str) -> None:
    assert parse_ports(name) == Ports(PROTOCOLS[name], 0, MAX_PORT)
    assert format_ports(parse_ports(name)) == name


@pytest.mark.parametrize("text", ["", "TCP", "http", "6", "/443", "tcp udp", "tcp:443"])
def test_an_unknown_protocol_is_named(text: str) -> None:
    with pytest.raises(InputError) as error:
        parse_ports(text, "web: ingress[0]")
    expected = "one of icmp, tcp, udp, icmpv6, sctp"
    assert str(error.value) == f"web: ingress[0]: unknown protocol in {text!r} ({expected})"


@pytest.mark.parametrize(
    "text",
    [
        *("tcp/", "tcp/-", "tcp/ht_tp", "tcp/1-2-3", "tcp/443-", "tcp/-443", "tcp/ 443", "tcp/+1", "tcp/1.5"),
        *("tcp/000001", "udp/53,54", "tcp/\uff14\uff14\uff13", "tcp/443\n", "tcp/HTTP", "tcp/-http"),
        *("tcp/http-", "tcp/a--b", "tcp/sixteen-letters-", "tcp/http\n"),
    ],
)
def test_a_port_that_cannot_be_read_is_named(text: str) -> None:
    with pytest.raises(InputError) as error:
        parse_ports(text)
    assert str(error.value) == f"cannot read port {text!r} ({PORT_REMEDY})"


@pytest.mark.parametrize(
    ("text", "number", "back"),
    [
        ("icmp/8", 8, "icmp/echo-request"),
        ("icmp/echo-request", 8, "icmp/echo-request"),
        ("icmpv6/128", 128, "icmpv6/echo-request"),
        ("icmpv6/packet-too-big", 2, "icmpv6/packet-too-big"),
        ("icmp/255", 255, "icmp/255"),
        ("icmpv6/0", 0, "icmpv6/0"),
    ],
)
def test_types_of_icmp(text: str, number: int, back: str) -> None:
    ports = parse_ports(text)
    assert ports == Ports(PROTOCOLS[text.partition("/")[0]], number, number)
    assert (format_ports(ports), parse_ports(back)) == (back, ports)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "icmp/0",
            "'icmp/0': an answer passes with its question (write icmp/echo-request for the end that asks)",
        ),
        ("icmpv6/echo-reply", "(write icmpv6/echo-request for the end that asks)"),
        ("icmp/256", "cannot read type 'icmp/256' (a number up to 255, or one of destination-unreachable, "),
        ("icmp/packet-too-big", "cannot read type 'icmp/packet-too-big'"),
        ("icmp/8-10", "cannot read type"),
        ("icmpv6/", "cannot read type"),
    ],
)
def test_types_that_are_none(text: str, said: str) -> None:
    with pytest.raises(InputError) as error:
        parse_ports(text)
    assert said in str(error.value)


@pytest.mark.parametrize("text", ["tcp/http", "udp/dns-tcp", "sctp/s1ap", "tcp/9p", "tcp/fifteen-letters"])
def test_a_port_by_its_name(text: str) -> None:
    protocol, _, name = text.partition("/")
    assert parse_ports(text) == Ports(PROTOCOLS[protocol], name=name)
    assert format_ports(parse_ports(text)) == text


@pytest.mark.parametrize("text", ["tcp/0", "tcp/65536", "udp/99999", "tcp/10-9", "tcp/0-10", "tcp/1-65536"])
def test_a_port_out_of_range_is_named(text: str) -> None:
    with pytest.raises(InputError) as error:
        parse_ports(text, "p")
    assert str(error.value) == f"p: port {text!r} out of range (1 to 65535, the lower one first)"


@given(policy_texts())
def test_a_document_keeps_its_shape(text: PolicyText) -> None:
    policy = read_policy(text)
    assert policy.name == text.name
    default = text.default or DefaultText()
    assert_same_shape([] if default.ingress and text.ingress is None else text.ingress, policy.ingress)
    assert_same_shape([] if default.egress and text.egress is None else text.egress, policy.egress)


def assert_same_shape(
    texts: Sequence[IngressText | EgressText] | None, rules: tuple[Rule, ...] | None
) -> None:
    """Nothing, nobody and nothing in particular stay three different things."""
    assert (texts is None) == (rules is None)
    for text, rule in zip(texts or (), rules or (), strict=True):
        assert (text.peers is None) == (rule.peers is None)
        assert len(text.peers or ()) == len(rule.peers or ())
        assert (text.ports is None) == (rule.ports is None)
        assert set(map(parse_ports, text.ports or ())) == set(rule.ports or ())


def test_ports_are_sorted_and_said_once() -> None:
    policy = read_policy(PolicyText("p", "*", [IngressText(None, ["udp/2", "tcp/9", "udp/2", "tcp/1"])]))
    assert policy.ingress == (Rule(None, (Ports(6, 1, 1), Ports(6, 9, 9), Ports(17, 2, 2))),)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            PolicyText("p", "app=web"),
            "a.yaml: a policy needs ingress or egress (write `ingress: []` to deny all)",
        ),
        (
            PolicyText("P", "app=web", []),
            "a.yaml: name: policy 'P' is no valid name "
            "(lower-case letters, digits, dots and dashes, at most 63)",
        ),
        (
            PolicyText("p", "app~web", []),
            "a.yaml: select: cannot read selector at 'app~web' "
            "(use =, !=, in (..), notin (..), key or !key, separated by commas)",
        ),
        (
            PolicyText("p", {"a": "b c"}, []),
            "a.yaml: select: bad label 'a=b c' (letters, digits and -_./ only, at most 253)",
        ),
        (
            PolicyText("p", "*", [IngressText(), IngressText(["a", "b!"])]),
            "a.yaml: ingress[1]: cannot read selector at 'b!' "
            "(use =, !=, in (..), notin (..), key or !key, separated by commas)",
        ),
        (
            PolicyText("p", "*", None, [EgressText(None, ["tcp/70000"])]),
            "a.yaml: egress[0]: port 'tcp/70000' out of range (1 to 65535, the lower one first)",
        ),
    ],
)
def test_a_bad_document_is_one_line_with_its_field(text: PolicyText, expected: str) -> None:
    with pytest.raises(InputError) as error:
        read_policy(text, "a.yaml")
    assert str(error.value) == expected


def test_fields_are_named_without_a_file_too() -> None:
    with pytest.raises(InputError) as error:
        read_policy(PolicyText("p", "*", [IngressText(None, ["x"])]))
    assert str(error.value) == "ingress[0]: unknown protocol in 'x' (one of icmp, tcp, udp, icmpv6, sctp)"


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (IngressText(), "anyone on anything"),
        (IngressText([]), "nobody on anything"),
        (IngressText(None, []), "anyone on nothing"),
        (IngressText(["app=web", "tier"], ["tcp/443", "icmp"]), "app=web | tier on icmp, tcp/443"),
        (IngressText(["*", {"b": "2", "a": "1"}]), "* | a=1, b=2 on anything"),
    ],
)
def test_a_rule_reads_like_a_sentence(rule: IngressText, text: str) -> None:
    policy = read_policy(PolicyText("p", "*", [rule]))
    assert policy.ingress is not None
    assert format_rule(policy.ingress[0]) == text
