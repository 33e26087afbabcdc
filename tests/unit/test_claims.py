"""Who came first: owners follow from the claims, not from the order in which they came."""

from ipaddress import ip_network

from hypothesis import given
from hypothesis import strategies as st

from meshfabric.model.addresses import Prefix, prefix_of
from meshfabric.model.node import EndpointRecord
from meshfabric.store.claims import (
    WEAK,
    BlockClaims,
    Claim,
    Claims,
    holder_of,
    last_address,
    renewed,
    shortened,
)

blocks = st.builds(
    lambda third, length, host: prefix_of(ip_network(f"10.0.{third}.{host}/{length}", strict=False)),
    st.integers(0, 2),
    st.integers(20, 32),
    st.integers(0, 255),
) | st.sampled_from([prefix_of(ip_network(text)) for text in ("fd00::/16", "fd00:1::/64", "fd00:1::/126")])


def _overlap(one: Prefix, other: Prefix) -> bool:
    return one.address <= last_address(other) and other.address <= last_address(one)


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.lists(blocks, max_size=3), st.integers(1, 9)), max_size=12)
)
def test_block_claims_find_what_a_scan_finds(steps: list[tuple[str, list[Prefix], int]]) -> None:
    claims = BlockClaims()
    slow: dict[tuple[str, Prefix], int] = {}
    for holder, wanted, revision in steps:
        before = dict(slow)
        slow = {pair: since for pair, since in slow.items() if pair[0] != holder}
        slow |= {(holder, one): min(revision, before.get((holder, one), revision)) for one in wanted}
        rivals = claims.claim(holder, wanted, revision)
        changed = {
            one for pair in {*before, *slow} if before.get(pair) != slow.get(pair) for one in (pair[1],)
        }
        touching = {name for name, one in slow if any(_overlap(one, other) for other in changed)}
        assert rivals == touching - {holder}
        for block in {one for _, one in slow} | set(wanted):
            found = sorted((since, name) for (name, one), since in slow.items() if _overlap(one, block))
            assert sorted(claims.on(block)) == found
    for name in "abc":
        claims.claim(name, [], 0)
    assert list(claims.on(Prefix(0, bytes(16)))) == []


def test_the_earliest_claim_owns() -> None:
    claims = Claims[str]()
    claims.claim("late", ["k"], 7)
    assert claims.claim("early", ["k", "other"], 5) == {"late"}
    assert claims.first("late", "k") == "early"
    assert claims.first("early", "k") == "early"
    assert claims.claim("early", ["other"], 8) == {"late"}
    assert claims.first("late", "k") == "late"
    assert claims.since("early") == 5  # kept over the rewriting


def test_a_claim_keeps_its_age_only_while_it_lasts() -> None:
    claims = Claims[str]()
    claims.claim("a", ["k"], 5)
    claims.claim("a", ["k"], 9)
    assert list(claims.on("k")) == [(5, "a")]
    claims.claim("a", [], 10)
    claims.claim("a", ["k"], 11)
    assert list(claims.on("k")) == [(11, "a")]


def test_a_weak_claim_yields_to_any() -> None:
    claims = Claims[str]()
    claims.claim("a", ["new"], 5, weakly=["old"])
    assert list(claims.on("old")) == [(WEAK, "a")]
    assert claims.first("a", "old") == "a"
    assert claims.claim("b", ["old"], 99) == {"a"}
    assert claims.first("a", "old") == "b"


def test_equal_revisions_go_by_name() -> None:
    claims = Claims[str]()
    claims.claim("b", ["k"], 5)
    claims.claim("a", ["k"], 5)
    assert claims.first("b", "k") == "a"


def test_prefix_arithmetic() -> None:
    prefix = prefix_of(ip_network("10.1.2.0/24"))
    assert shortened(prefix, 96 + 8) == prefix_of(ip_network("10.0.0.0/8"))
    assert last_address(prefix) == prefix_of(ip_network("10.1.2.255/32")).address
    assert last_address(Prefix(0, bytes(16))) == b"\xff" * 16


def _claim(since: int, epoch: int = 0, handoff_to: str = "") -> Claim:
    return Claim(EndpointRecord("w", "vm", {}, epoch, handoff_to), since)


def test_a_floating_address_moves_only_with_consent() -> None:
    assert holder_of({"a": _claim(10), "b": _claim(20, 9)}, ()) == "a"
    assert holder_of({"a": _claim(10, 0, "b"), "b": _claim(20, 1)}, ()) == "b"
    assert holder_of({"a": _claim(10, 0, "b"), "b": _claim(20, 0)}, ()) == "a"
    assert holder_of({"a": _claim(10, 0, "b"), "b": _claim(20, 1), "c": _claim(5, 2)}, ()) == "c"
    assert holder_of({"a": _claim(10, 0, "b"), "b": _claim(20, 1, "c"), "c": _claim(30, 2)}, ()) == "c"
    assert holder_of({"a": _claim(10, 0, "gone"), "b": _claim(20, 1)}, ()) == "a"


def test_a_tombstone_stands_in_for_consent() -> None:
    assert holder_of({"a": _claim(10), "b": _claim(20, 1)}, {"a"}) == "b"
    assert holder_of({"a": _claim(10)}, {"a"}) == "a"
    assert holder_of({"a": _claim(10, 0, "b"), "b": _claim(20, 1)}, {"b"}) == "a"


def test_a_renewed_claim_keeps_its_age_unless_it_is_a_new_one() -> None:
    handed = _claim(10, 0, "b")
    assert renewed(None, handed.record, 10) == handed
    assert renewed(_claim(10), handed.record, 20).since == 10
    assert renewed(handed, handed.record, 30).since == 10
    assert renewed(handed, _claim(0).record, 30).since == 30  # taken back
    assert renewed(_claim(10), _claim(0, 1).record, 30).since == 30  # another epoch
