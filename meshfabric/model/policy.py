"""Who may talk to whom, as checked values; `policytext` owns the documents that people write.

Policies stand in three tiers, asked in this order for each direction of each
workload (docs/policy.md has the whole table):

    admin      by priority; allow and deny are final, pass goes on to normal
    normal     once one selects: what no rule allows is denied
    baseline   by priority, and only where no normal policy selects

What has expired counts as absent: `in_force` leaves it out. The world has no
clock; whoever feeds it policies asks `in_force` (`agent.expiry`).
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from enum import Enum

import msgspec

from meshfabric.model.addresses import Network
from meshfabric.model.labels import Selector, format_selector
from meshfabric.model.networks import Cidr
from meshfabric.model.ports import Ports, format_ports

LAST_PRIORITY = 1000
MAX_IN_ORDER = 128
"""Rules of one direction of a policy whose first match holds."""
DEFAULT_PRIORITY = 500


class Tier(Enum):
    """Whose word it is: the operators' over all, the workloads', or what holds where nobody spoke."""

    ADMIN = "admin"
    NORMAL = "normal"
    BASELINE = "baseline"


class Action(Enum):
    """What becomes of what a rule covers; `PASS` (admin only): what the next tiers say."""

    ALLOW = "allow"
    PASS = "pass"
    DENY = "deny"


class Mode(Enum):
    """Whether a policy is enforced, or it is only told what it would stop."""

    ENFORCE = "enforce"
    AUDIT = "audit"


class Entity(Enum):
    """Peers that neither label nor address tells: anyone in the fabric, the host of the workload's own
    node, anyone outside of the fabric, and the API servers that the fabric's configuration names.
    """

    FABRIC = "fabric"
    HOST = "host"
    WORLD = "world"
    KUBE_APISERVER = "kube-apiserver"


Peer = Selector | Entity | Cidr


class Rule(msgspec.Struct, frozen=True):
    """What it covers: any of the peers (None: anyone) on any of the ports (None: anything)."""

    peers: tuple[Peer, ...] | None
    ports: tuple[Ports, ...] | None
    action: Action = Action.ALLOW
    expires: datetime | None = None


Rules = tuple[Rule, ...]


class Policy(msgspec.Struct, frozen=True):
    """A checked document; a direction that is None is not ruled by it.

    `priority`: lower numbers first, of no meaning in the normal tier. The
    defaults say what becomes of what no rule covers, in the normal tier only.
    `first_match`, in the other tiers: of its rules the first that covers holds.
    """

    name: str
    select: Selector
    ingress: Rules | None
    egress: Rules | None
    tier: Tier = Tier.NORMAL
    priority: int = DEFAULT_PRIORITY
    ingress_default: Action = Action.DENY
    egress_default: Action = Action.DENY
    expires: datetime | None = None
    mode: Mode = Mode.ENFORCE
    first_match: bool = False

    @property
    def rules(self) -> Rules:
        """Those of both directions."""
        return (*(self.ingress or ()), *(self.egress or ()))


def in_force(policy: Policy, now: datetime) -> Policy | None:
    """The policy without the rules that have expired by `now`; None if it has itself."""
    if _is_over(policy.expires, now):
        return None
    if not any(_is_over(rule.expires, now) for rule in policy.rules):
        return policy
    ingress, egress = _living(policy.ingress, now), _living(policy.egress, now)
    return msgspec.structs.replace(policy, ingress=ingress, egress=egress)


def expiries(policy: Policy) -> Iterator[datetime]:
    """The moments at which something of it expires, in no order."""
    yield from filter(None, (policy.expires, *(rule.expires for rule in policy.rules)))


def cidrs_of(policy: Policy) -> Iterator[Cidr]:
    """The CIDRs among the peers of its rules, as often as they occur."""
    peers = (peer for rule in policy.rules for peer in rule.peers or ())
    return (peer for peer in peers if isinstance(peer, Cidr))


def reaches_outside(policy: Policy) -> bool:
    """Whether it names anyone by an address outside."""
    servers = any(Entity.KUBE_APISERVER in (rule.peers or ()) for rule in policy.rules)
    return servers or next(cidrs_of(policy), None) is not None


def networks_of(policy: Policy) -> set[Network]:
    """Every network that it names."""
    return {network for cidr in cidrs_of(policy) for network in cidr.networks}


def format_rule(rule: Rule) -> str:
    """`app=web | tier=gold on tcp/443`, for listings."""
    peers = "anyone" if rule.peers is None else " | ".join(map(format_peer, rule.peers)) or "nobody"
    ports = "anything" if rule.ports is None else ", ".join(map(format_ports, rule.ports)) or "nothing"
    return f"{peers} on {ports}"


def format_peer(peer: Peer) -> str:
    """`app=web`, `entity fabric`, or `cidr 10.0.0.0/8 except 10.1.0.0/16`."""
    if isinstance(peer, Entity):
        return f"entity {peer.value}"
    return format_cidr(peer) if isinstance(peer, Cidr) else format_selector(peer)


def format_cidr(cidr: Cidr) -> str:
    """`cidr 10.0.0.0/8 except 10.1.0.0/16`."""
    left_out = f" except {', '.join(map(str, cidr.exceptions))}" if cidr.exceptions else ""
    return f"cidr {cidr.network}{left_out}"


def format_tier(policy: Policy) -> str:
    """`normal`, `admin 10`, `normal, audit`."""
    text = policy.tier.value if policy.tier is Tier.NORMAL else f"{policy.tier.value} {policy.priority}"
    return f"{text}, audit" if policy.mode is Mode.AUDIT else text


def format_expiry(expires: datetime | None) -> str:
    """RFC 3339 in UTC; empty for what does not expire."""
    return expires.astimezone(UTC).isoformat().replace("+00:00", "Z") if expires else ""


def _is_over(expires: datetime | None, now: datetime) -> bool:
    return expires is not None and expires <= now


def _living(rules: Rules | None, now: datetime) -> Rules | None:
    if rules is None:
        return None
    return tuple(rule for rule in rules if not _is_over(rule.expires, now))
