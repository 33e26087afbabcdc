"""Policies in words, for `policy check` and `policy show` (pure)."""

from collections.abc import Iterator

from meshfabric.model.labels import Selector, format_selector
from meshfabric.model.networks import Cidr
from meshfabric.model.policy import Action, Entity, Mode, Peer, Policy, Rule, Tier, format_expiry
from meshfabric.model.ports import Ports, format_ports

INDENT = "  "
AUDIT = "in audit: stops nothing; what it would stop is listed by meshfabric policy audit"
NOT_RULED = "not ruled by this policy"
TIERS = {
    Tier.ADMIN: "before all policies of tier normal",
    Tier.BASELINE: "only where no policy of tier normal selects",
}
ENTITIES = {
    Entity.FABRIC: "anyone in the fabric",
    Entity.HOST: "the host of its own node",
    Entity.WORLD: "anyone outside of the fabric",
    Entity.KUBE_APISERVER: "the API servers that the fabric's configuration names",
}


def describe(policy: Policy) -> str:
    """What a policy does, some lines without a last newline."""
    return "\n".join(
        [
            f"{policy.name} is about {_subject(policy.select)}",
            f"{INDENT}tier: {_tier(policy)}",
            *([f"{INDENT}{AUDIT}"] if policy.mode is Mode.AUDIT else []),
            *([f"{INDENT}until: {format_expiry(policy.expires)}"] if policy.expires else []),
            *_direction(policy, "in", "from", "come in", policy.ingress, policy.ingress_default),
            *_direction(policy, "out", "to", "leave", policy.egress, policy.egress_default),
        ]
    )


def _tier(policy: Policy) -> str:
    if policy.tier is Tier.NORMAL:
        return str(policy.tier.value)
    return f"{policy.tier.value}, priority {policy.priority}: {TIERS[policy.tier]}"


def _direction(
    policy: Policy, name: str, word: str, verb: str, rules: tuple[Rule, ...] | None, default: Action
) -> Iterator[str]:
    if rules is None:
        yield f"{INDENT}{name}: {NOT_RULED}"
        return
    yield f"{INDENT}{name}: {_head(policy, verb, rules, default)}".rstrip()
    for rule in rules:
        action = "" if _only_allows(policy, rules, default) else f"{rule.action.value} "
        until = f", until {format_expiry(rule.expires)}" if rule.expires else ""
        yield f"{INDENT * 2}{action}{_ports(rule.ports)} {word} {_peers(rule.peers)}{until}"


def _head(policy: Policy, verb: str, rules: tuple[Rule, ...], default: Action) -> str:
    if policy.tier is not Tier.NORMAL:
        return "the first of these that covers a packet holds" if policy.first_match else ""
    if default is Action.ALLOW:
        return f"anything may {verb}, but what a rule or another policy denies"
    if not rules:
        return f"nothing may {verb}, but what other policies allow"
    what = "this" if _only_allows(policy, rules, default) else "what a rule allows"
    return f"only {what} may {verb}, and what other policies allow"


def _only_allows(policy: Policy, rules: tuple[Rule, ...], default: Action) -> bool:
    allows = all(rule.action is Action.ALLOW for rule in rules)
    return policy.tier is Tier.NORMAL and default is Action.DENY and allows


def _subject(selector: Selector) -> str:
    return f"workloads with {format_selector(selector)}" if selector else "every workload"


def _peers(peers: tuple[Peer, ...] | None) -> str:
    if peers is None:
        return "anyone"
    return " or ".join(map(_peer, peers)) or "nobody"


def _peer(peer: Peer) -> str:
    if isinstance(peer, Entity):
        return ENTITIES[peer]
    return _cidr(peer) if isinstance(peer, Cidr) else _subject(peer)


def _cidr(cidr: Cidr) -> str:
    left_out = f" but {', '.join(map(str, cidr.exceptions))}" if cidr.exceptions else ""
    return f"addresses outside of the fabric in {cidr.network}{left_out}"


def _ports(ports: tuple[Ports, ...] | None) -> str:
    if ports is None:
        return "anything"
    return ", ".join(map(format_ports, ports)) or "nothing"
