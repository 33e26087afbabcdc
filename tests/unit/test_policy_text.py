"""What documents of the newer language mean, what old records go on to mean, and each mistake in a line."""

from datetime import UTC, datetime, timedelta, timezone

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshfabric.model.errors import InputError
from meshfabric.model.labels import parse_selector
from meshfabric.model.peertext import PeerText
from meshfabric.model.policy import (
    Action,
    Entity,
    Peer,
    Policy,
    Tier,
    expiries,
    format_expiry,
    format_peer,
    format_rule,
    format_tier,
    in_force,
)
from meshfabric.model.policytext import (
    DefaultText,
    EgressText,
    IngressText,
    PolicyText,
    parse_expiry,
    read_policy,
    stamped,
)
from meshfabric.model.versions import LANGUAGE, OUTSIDE, TIERS
from meshfabric.store.checks import Fact, read_record
from meshfabric.store.keys import Located, RecordKind
from meshfabric.store.rights import endpoint_labels

NEW_YEAR = datetime(2027, 1, 1, tzinfo=UTC)


def document(*rules: IngressText, version: int = LANGUAGE, **fields: object) -> PolicyText:
    return PolicyText("p", "*", list(rules), min_version=version, **fields)  # type: ignore[arg-type]  # fields as a user's file gives them


def peers_of(*peers: PeerText, version: int = LANGUAGE) -> tuple[Peer, ...]:
    (rule,) = read_policy(PolicyText("p", "*", [IngressText(list(peers))], min_version=version)).rules
    return rule.peers or ()


def test_a_document_of_old_means_what_it_did() -> None:
    policy = read_policy(PolicyText("p", "app=web", [IngressText()]))
    assert (policy.tier, policy.ingress_default, policy.egress, policy.expires) == (
        Tier.NORMAL,
        Action.DENY,
        None,
        None,
    )
    assert [rule.action for rule in policy.rules] == [Action.ALLOW]


def test_entities_and_nodes() -> None:
    fabric, host, node = peers_of({"entity": "fabric"}, {"entity": "host"}, {"node": "n2"})
    assert (fabric, host) == (Entity.FABRIC, Entity.HOST)
    assert dict(endpoint_labels("host", "n2", {}))["meshfabric.io/node"] == "n2"
    assert node == parse_selector("meshfabric.io/kind=host, meshfabric.io/node=n2")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("10.0.0.0/8", "cidr 10.0.0.0/8"),
        (" 192.0.2.1 ", "cidr 192.0.2.1/32"),
        ("::/0", "cidr ::/0"),
        ("0.0.0.0/0", "cidr 0.0.0.0/0"),
        ({"cidr": "2001:db8::/32"}, "cidr 2001:db8::/32"),
        (
            {"cidr": "10.0.0.0/8", "except": ["10.2.0.0/16", "10.1.0.0/16", "10.2.0.0/16"]},
            "cidr 10.0.0.0/8 except 10.1.0.0/16, 10.2.0.0/16",
        ),
    ],
)
def test_addresses_outside(text: PeerText, shown: str) -> None:
    assert [format_peer(peer) for peer in peers_of(text)] == [shown]


def test_in_a_record_of_old_a_prefix_is_a_label_however_odd() -> None:
    assert peers_of("10.0.0.0/8", version=1) == (parse_selector("10.0.0.0/8"),)


def test_in_a_record_of_old_they_are_labels() -> None:
    texts: list[PeerText] = [{"entity": "fabric"}, {"node": "n2"}]
    assert peers_of(*texts, version=1) == tuple(map(parse_selector, ("entity=fabric", "node=n2")))
    record = {"name": "p", "select": "*", "ingress": [{"from": [{"node": "n2"}]}]}
    for version, expected in ((1, "node=n2"), (LANGUAGE, "meshfabric.io/kind=host, meshfabric.io/node=n2")):
        raw = msgspec.json.encode(record | {"min_version": version})
        fact = read_record(Located(RecordKind.POLICY, "p"), raw, 1)
        assert isinstance(fact, Fact)
        assert format_rule(fact.value.ingress[0]) == f"{expected} on anything"


@pytest.mark.parametrize(
    "text",
    [
        document(IngressText([{"entity": "host"}]), version=TIERS),
        document(IngressText([{"node": "n1"}]), version=TIERS),
        document(IngressText(None, None, "deny"), version=TIERS),
        document(IngressText(expires="2026-12-31T23:59:59Z"), version=TIERS),
        document(tier="admin", version=TIERS),
        document(priority=1, version=TIERS),
        document(default=DefaultText("allow"), version=TIERS),
        document(expires="2026-12-31T23:59:59Z", version=TIERS),
        PolicyText("p", "*", None, [EgressText(["10.0.0.0/8"])], min_version=OUTSIDE),
        document(IngressText([{"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}]), version=OUTSIDE),
        document(IngressText(["app=web", {"entity": "world"}]), version=OUTSIDE),
        document(IngressText(None, ["tcp/443", "tcp/http"]), version=OUTSIDE),
        document(IngressText(None, ["icmpv6/128"]), version=OUTSIDE),
        document(mode="audit", version=OUTSIDE),
        document(IngressText(), tier="admin", first_match=True, version=OUTSIDE),
        document(IngressText([{"entity": "kube-apiserver"}]), tier="admin", version=OUTSIDE),
    ],
)
def test_what_older_agents_would_misread_is_stamped(text: PolicyText) -> None:
    assert stamped(msgspec.structs.replace(text, min_version=1)) == text
    newer = msgspec.structs.replace(text, min_version=LANGUAGE + 1)
    assert stamped(newer) == newer


def test_what_they_understand_is_not() -> None:
    old = PolicyText("p", {"node": "n1"}, [IngressText(["app=web", {"tier": "gold"}], ["tcp/443"])], [])
    assert stamped(old) == old


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (document(tier="root"), "tier: unknown tier 'root' (one of admin, normal, baseline)"),
        (document(priority=5), "priority: policies of tier normal have no priority"),
        (
            document(IngressText(), tier="admin", priority=1001),
            "priority: priority 1001 out of range (0 to 1000)",
        ),
        (document(IngressText(), tier="baseline", priority=-1), "priority: priority -1 out of range"),
        (
            document(IngressText(action="drop")),
            "ingress[0]: unknown action 'drop' (one of allow, pass, deny)",
        ),
        (document(IngressText(), IngressText(action="audit")), "ingress[1]: a rule alone cannot be in audit"),
        (document(mode="dry-run"), "mode: unknown mode 'dry-run' (one of enforce, audit)"),
        (document(IngressText(), first_match=True), "first_match: rules of tier normal have no order"),
        (
            document(*129 * [IngressText()], tier="admin", first_match=True),
            "ingress: 129 rules in order (keep to 128)",
        ),
        (document(IngressText(action="pass")), "ingress[0]: a rule of tier normal cannot pass"),
        (document(IngressText(action="pass"), tier="baseline"), "a rule of tier baseline cannot pass"),
        (document(tier="admin"), "ingress: an empty list says nothing in tier admin (write `- action: deny`"),
        (
            document(IngressText(), tier="admin", default=DefaultText("deny")),
            "default: a policy of tier admin",
        ),
        (document(default=DefaultText("pass")), "default: a default cannot pass (allow or deny)"),
        (document(default=DefaultText("none")), "default: unknown default 'none'"),
        (PolicyText("p", "*", default=DefaultText()), "a policy needs ingress or egress"),
        (document(expires="2026-12-31"), "expires: '2026-12-31' is no date and time"),
        (
            document(expires="2026-12-31T23:59:59"),
            "has no time zone (end it with Z, or an offset like +02:00)",
        ),
        (document(expires="2026-02-30T00:00:00Z"), "is no date and time (write 2026-12-31T23:59:59Z)"),
        (document(expires="0001-01-01T00:00:00+23:00"), "is no date and time"),
        (document(IngressText(expires="")), "ingress[0]: '' is no date and time"),
        (document(IngressText([{"cidr": "192.0.2.7/24"}])), "192.0.2.7/24 has host bits set"),
        (document(IngressText(["2001:db8::1/32"])), "2001:db8::1/32 has host bits set"),
        (document(IngressText([{"cidr": "world"}])), "'world' is no prefix"),
        (document(IngressText(["::ffff:192.0.2.0/120"])), "holds IPv4-mapped addresses"),
        (document(IngressText([{"cidr": ["10.0.0.0/8"]}])), "ingress[0]: cidr is one prefix, except a list"),
        (document(IngressText([{"cidr": "10.0.0.0/8", "except": "10.1.0.0/16"}])), "except a list"),
        (document(IngressText([{"cidr": "10.0.0.0/8", "app": "a"}])), "cidr is one prefix, except a list"),
        (
            document(IngressText([{"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}])),
            "11.0.0.0/16 is no part of 10.0.0.0/8 (take the exception out)",
        ),
        (document(IngressText([{"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8"]}])), "is no part of"),
        (document(IngressText([{"cidr": "10.0.0.0/8", "except": ["::/0"]}])), "is no part of"),
        (document(IngressText([{"app": ["a", "b"]}])), 'list of values (write "app in (a, b)")'),
        (
            document(IngressText([{"entity": "pod"}])),
            "unknown entity 'pod' (one of fabric, host, world, kube-apiserver)",
        ),
        (document(IngressText([{"node": "N1"}])), "node 'N1' is no valid name"),
        (document(IngressText([{"app": "a", "node": "b"}])), '(write labels as text: "app=a,node=b")'),
        (document(IngressText(None, ["icmp/echo-reply"])), "an answer passes with its question"),
    ],
)
def test_a_mistake_is_one_line_with_its_field(text: PolicyText, said: str) -> None:
    with pytest.raises(InputError) as error:
        read_policy(text)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_default_rules_its_direction() -> None:
    policy = read_policy(PolicyText("p", "*", default=DefaultText("deny", "allow")))
    assert (policy.ingress, policy.egress) == ((), ())
    assert (policy.ingress_default, policy.egress_default) == (Action.DENY, Action.ALLOW)
    assert read_policy(PolicyText("p", "*", [], default=DefaultText("allow"))).egress is None


zones = st.integers(-23 * 60, 23 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@given(st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1), timezones=zones))
def test_a_moment_reads_back_as_itself(moment: datetime) -> None:
    assert parse_expiry(moment.isoformat()) == moment
    assert parse_expiry(format_expiry(moment)) == moment


@pytest.mark.parametrize(
    "text", ["2026-12-31T23:00:00Z", "2026-12-31t23:00:00.000z", "2027-01-01T01:00:00.0000000001+02:00"]
)
def test_spellings_of_one_moment(text: str) -> None:
    assert parse_expiry(text) == datetime(2026, 12, 31, 23, tzinfo=UTC)


@given(st.text(max_size=30) | st.from_regex(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}Z", fullmatch=True))
def test_any_text_is_a_moment_or_an_input_error(text: str) -> None:
    assert outcome(text)


def outcome(text: str) -> str:
    """The moment, or what to write instead."""
    try:
        return format_expiry(parse_expiry(text))
    except InputError as error:
        return error.remedy


def expiring(rule: str | None = None, whole: str | None = None) -> Policy:
    return read_policy(document(IngressText(expires=rule), IngressText(["app=web"]), expires=whole))


def test_what_has_expired_counts_as_absent() -> None:
    before, after = NEW_YEAR - timedelta(seconds=1), NEW_YEAR
    text = "2027-01-01T00:00:00Z"
    plain, ruled, whole = expiring(), expiring(text), expiring(None, text)
    assert in_force(plain, after) is plain
    assert in_force(ruled, before) is ruled
    left = in_force(ruled, after)
    assert left is not None
    assert [format_rule(rule) for rule in left.rules] == ["app=web on anything"]
    assert in_force(whole, before) is whole
    assert in_force(whole, after) is None
    assert list(expiries(expiring(text, text))) == [NEW_YEAR, NEW_YEAR]
    assert list(expiries(plain)) == []


def test_a_document_whose_rules_have_all_expired_still_selects() -> None:
    policy = read_policy(document(IngressText(expires="2026-12-31T00:00:00Z")))
    left = in_force(policy, NEW_YEAR)
    assert left is not None
    assert left.ingress == ()


def test_tiers_in_listings() -> None:
    assert format_tier(read_policy(document(IngressText(), tier="admin", priority=7))) == "admin 7"
    assert format_tier(read_policy(document(IngressText(), tier="baseline"))) == "baseline 500"
    assert format_tier(read_policy(document())) == "normal"
