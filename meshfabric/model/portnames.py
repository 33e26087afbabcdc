"""Names that workloads give their ports, and what a policy's `tcp/http` is at one of them.

    ports: {http: tcp/8080}      of a workload
    tcp/http                     in a policy: 8080 at that workload, nothing at one without the name

An identity is a label set, so the names are part of it, under keys that nobody
can give as labels: `port.meshfabric.io/http=tcp.8080`.
"""

from collections.abc import Iterator, Mapping

from meshfabric.model.errors import InputError
from meshfabric.model.labels import PORT_PREFIX, Labels, Selector, Term
from meshfabric.model.ports import NAMED, PROTOCOLS, Ports, format_ports, parse_ports

MAX_NAMES = 16
BETWEEN = "."  # protocol and port in a label's value, which has no room for more


def port_labels(ports: Mapping[str, str], place: str = "") -> dict[str, str]:
    """`{http: tcp/8080}` as labels; raises `InputError`."""
    if len(ports) > MAX_NAMES:
        raise InputError(f"{len(ports)} names of ports", place=place, remedy=f"keep to {MAX_NAMES}")
    return {PORT_PREFIX + name: _value(name, text, place) for name, text in ports.items()}


def named_ports(labels: Labels) -> dict[str, str]:
    """What `port_labels` was given."""
    return {
        key.removeprefix(PORT_PREFIX): value.replace(BETWEEN, "/")
        for key, value in labels
        if key.startswith(PORT_PREFIX)
    }


def resolved(ports: Ports, labels: Labels) -> Ports | None:
    """A named port as the number that it has at this label set, None if it has none; others as they are."""
    if not ports.name:
        return ports
    text = named_ports(labels).get(ports.name)
    found = parse_ports(text) if text else None
    return found if found and found.protocol == ports.protocol else None


def with_port(selector: Selector, name: str) -> Selector:
    """Those of a selector that have a port of this name."""
    return tuple(sorted({*selector, Term(PORT_PREFIX + name, "exists", ())}))


def split(ports: tuple[Ports, ...] | None) -> tuple[tuple[Ports, ...] | None, tuple[Ports, ...]]:
    """Those with numbers, None for anything, and those with names."""
    if ports is None:
        return None, ()
    return tuple(one for one in ports if not one.name), tuple(one for one in ports if one.name)


def format_names(labels: Labels) -> Iterator[str]:
    """`http=tcp/8080`, for listings."""
    return (f"{name}={text}" for name, text in named_ports(labels).items())


def _value(name: str, text: str, place: str) -> str:
    if not NAMED.fullmatch(name):
        remedy = "lower-case letters, digits and dashes, a letter among them, at most 15"
        raise InputError(f"{name!r} is no name of a port", place=place, remedy=remedy)
    ports = parse_ports(text, place)
    protocol, _, number = format_ports(ports).partition("/")
    if ports.name or ports.first != ports.last or protocol not in PROTOCOLS or protocol.startswith("icmp"):
        raise InputError(f"{name} is {text!r}, which is no port", place=place, remedy="write http=tcp/8080")
    return f"{protocol}{BETWEEN}{number}"
