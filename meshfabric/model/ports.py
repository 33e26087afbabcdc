"""Protocols and ports as policies name them: `tcp/443`, `udp/8000-8100`, `tcp`, `icmp`."""

import re

import msgspec

from meshfabric.model.errors import InputError

PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17, "icmpv6": 58, "sctp": 132}
PORTLESS = frozenset({"icmp", "icmpv6"})
MAX_PORT = 65535

_PORT = re.compile("[0-9]{1,5}")
_NAMED = re.compile("(?=[0-9-]*[A-Za-z])[A-Za-z0-9-]{1,15}")  # a service's name (RFC 6335, 5.1)


class Ports(msgspec.Struct, frozen=True, order=True):
    """A protocol number with a range of ports, both ends included; ICMP has 0 to 65535."""

    protocol: int
    first: int = 0
    last: int = MAX_PORT


def parse_ports(text: str, place: str = "") -> Ports:
    """`tcp/443`, `udp/8000-8100`, `tcp` or `icmp`; raises `InputError`."""
    name, slash, numbers = text.partition("/")
    protocol = PROTOCOLS.get(name)
    if protocol is None:
        raise InputError(
            f"unknown protocol in {text!r}", place=place, remedy=f"one of {', '.join(PROTOCOLS)}"
        )
    if not slash:
        return Ports(protocol)
    if name not in PORTLESS and _NAMED.fullmatch(numbers):
        what = f"{text!r} names its port, and a workload has no names for its ports yet"
        raise InputError(what, place=place, remedy="write the number")
    first, dash, last = numbers.partition("-")
    bounds = [first, last if dash else first]
    if name in PORTLESS or not all(_PORT.fullmatch(bound) for bound in bounds):
        raise InputError(
            f"cannot read port {text!r}", place=place, remedy="write tcp/443, udp/8000-8100 or icmp"
        )
    low, high = map(int, bounds)
    if not 1 <= low <= high <= MAX_PORT:
        raise InputError(
            f"port {text!r} out of range", place=place, remedy=f"1 to {MAX_PORT}, the lower one first"
        )
    return Ports(protocol, low, high)


def format_ports(ports: Ports) -> str:
    """The text that parses to the same ports."""
    name = next(name for name, number in PROTOCOLS.items() if number == ports.protocol)
    if (ports.first, ports.last) == (0, MAX_PORT):
        return name
    return f"{name}/{ports.first}" + (f"-{ports.last}" if ports.last != ports.first else "")
