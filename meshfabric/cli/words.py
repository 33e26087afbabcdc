"""Policies in words, for `policy check` and `policy show` (pure)."""

from collections.abc import Iterator

from meshfabric.model.labels import Selector, format_selector
from meshfabric.model.policy import Policy, Ports, Rule, format_ports

INDENT = "  "
NOT_RULED = "not ruled by this policy"


def describe(policy: Policy) -> str:
    """What a policy does, some lines without a last newline."""
    return "\n".join([f"{policy.name} is about {_subject(policy.select)}", *_directions(policy)])


def _directions(policy: Policy) -> Iterator[str]:
    yield from _direction("in", "from", "come in", policy.ingress)
    yield from _direction("out", "to", "leave", policy.egress)


def _direction(name: str, word: str, verb: str, rules: tuple[Rule, ...] | None) -> Iterator[str]:
    if rules is None:
        yield f"{INDENT}{name}: {NOT_RULED}"
        return
    if not rules:
        yield f"{INDENT}{name}: nothing may {verb}, but what other policies allow"
        return
    yield f"{INDENT}{name}: only this may {verb}, and what other policies allow"
    for rule in rules:
        yield f"{INDENT * 2}{_ports(rule.ports)} {word} {_peers(rule.peers)}"


def _subject(selector: Selector) -> str:
    return f"workloads with {format_selector(selector)}" if selector else "every workload"


def _peers(peers: tuple[Selector, ...] | None) -> str:
    if peers is None:
        return "anyone"
    return " or ".join(_subject(peer) for peer in peers) or "nobody"


def _ports(ports: tuple[Ports, ...] | None) -> str:
    if ports is None:
        return "anything"
    return ", ".join(map(format_ports, ports)) or "nothing"
