"""Names of ports as labels, and back."""

import pytest

from meshfabric.model.errors import InputError
from meshfabric.model.labels import make_labels, matches, parse_selector
from meshfabric.model.portnames import named_ports, port_labels, resolved, split, with_port
from meshfabric.model.ports import parse_ports

WEB = {"http": "tcp/8080", "metrics": "tcp/9100", "s1": "sctp/7"}
LABELS = make_labels({"app": "web", **port_labels(WEB)})


def test_they_read_back_as_themselves() -> None:
    assert dict(LABELS)["port.meshfabric.io/http"] == "tcp.8080"
    assert named_ports(LABELS) == WEB


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("tcp/http", "tcp/8080"),
        ("sctp/s1", "sctp/7"),
        ("udp/http", None),
        ("tcp/no", None),
        ("udp/53", "udp/53"),
    ],
)
def test_a_name_is_a_number_at_those_who_have_it(text: str, number: str | None) -> None:
    assert resolved(parse_ports(text), LABELS) == (parse_ports(number) if number else None)
    assert resolved(parse_ports(text), ()) == (parse_ports(text) if number == text else None)


def test_those_of_a_selector_that_have_a_name() -> None:
    selector = with_port(parse_selector("app=web"), "http")
    assert selector == parse_selector("app=web, port.meshfabric.io/http")
    assert matches(selector, LABELS)
    assert not matches(selector, make_labels({"app": "web"}))


def test_numbers_and_names_apart() -> None:
    numbers, names = parse_ports("tcp/80"), parse_ports("tcp/http")
    assert split((numbers, names)) == ((numbers,), (names,))
    assert split(None) == (None, ())


@pytest.mark.parametrize(
    ("ports", "said"),
    [
        ({"HTTP": "tcp/80"}, "'HTTP' is no name of a port"),
        ({"80": "tcp/80"}, "'80' is no name"),
        ({"a/b": "tcp/80"}, "is no name"),
        ({"http": "http"}, "unknown protocol"),
        ({"http": "tcp"}, "http is 'tcp', which is no port (write http=tcp/8080)"),
        ({"http": "tcp/80-81"}, "which is no port"),
        ({"http": "tcp/www"}, "which is no port"),
        ({"ping": "icmp/8"}, "which is no port"),
        ({f"p{i}": "tcp/1" for i in range(17)}, "17 names of ports"),
    ],
)
def test_what_is_no_port_is_said(ports: dict[str, str], said: str) -> None:
    with pytest.raises(InputError, match=r"^ports: ") as error:
        port_labels(ports, "ports")
    assert said in str(error.value)
