"""Names of the store's keys: each parses to what it was built from, and nothing else parses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshfabric.model.addresses import parse_address
from meshfabric.model.errors import InputError
from meshfabric.store import keys
from meshfabric.store.keys import Located, RecordKind, Refusal, full_key, parse_key

ADDRESS = parse_address("10.1.0.7")
BUILT = {
    keys.config_key("lab"): Located(RecordKind.CONFIG),
    keys.rotation_key("lab"): Located(RecordKind.ROTATION),
    keys.allocation_key("lab", "a"): Located(RecordKind.ALLOCATION, "a"),
    keys.grant_key("lab", "a"): Located(RecordKind.GRANT, "a"),
    keys.policy_key("lab", "web-to-db"): Located(RecordKind.POLICY, "web-to-db"),
    keys.full_key("lab", Located(RecordKind.CLASS, "video")): Located(RecordKind.CLASS, "video"),
    keys.revoked_key("lab", "a"): Located(RecordKind.REVOKED, "a"),
    keys.node_key("lab", "rack1.a"): Located(RecordKind.NODE, "rack1.a"),
    keys.alive_key("lab", "a"): Located(RecordKind.ALIVE, "a"),
    keys.endpoint_key("lab", "a", ADDRESS): Located(RecordKind.ENDPOINT, "a", ADDRESS),
}
names = st.from_regex(r"[a-z0-9](?:[a-z0-9.-]{0,61}[a-z0-9])?", fullmatch=True)
addresses = st.ip_addresses().map(lambda one: parse_address(str(one)))


@pytest.mark.parametrize(("key", "located"), BUILT.items())
def test_what_was_built_parses(key: str, located: Located) -> None:
    assert parse_key("lab", key) == located
    assert parse_key("lab", key.encode()) == located
    assert key == keys.state_prefix("lab") + keys.path_of(located)


@given(st.sampled_from(RecordKind), names, addresses)
def test_every_key_parses_to_itself(kind: RecordKind, name: str, address: bytes) -> None:
    located = Located(
        kind,
        "" if kind in keys.SINGLE else name,
        address if kind is RecordKind.ENDPOINT else b"",
    )
    assert parse_key("lab", full_key("lab", located)) == located


@given(
    st.binary(max_size=80) | st.text(max_size=40) | st.sampled_from(sorted(BUILT)).flatmap(st.permutations)
)
def test_what_parses_is_spelled_that_way(garbage: object) -> None:
    key = "".join(garbage) if isinstance(garbage, list) else garbage
    assert isinstance(key, bytes | str)
    found = parse_key("lab", key)
    if isinstance(found, Refusal):
        assert found.why.isprintable()
    else:
        assert full_key("lab", found) == (key.decode() if isinstance(key, bytes) else key)


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("endpoints/a/10.1.0.07", "no IP address"),
        ("endpoints/a/::ffff:10.1.0.7", "written 10.1.0.7"),
        ("endpoints/a/fd00:0::1", "written fd00::1"),
        ("endpoints/a/FD00::1", "written fd00::1"),
        ("endpoints/a/fe80::1%eth0", "no IP address"),
        ("endpoints/a/", "no IP address"),
        ("endpoints/a", "no such key"),
        ("endpoints/a/10.1.0.7/x", "no such key"),
        ("endpoints/A/10.1.0.7", "no valid name"),
        ("nodes/", "no valid name"),
        ("nodes/a/dead", "no such key"),
        ("nodes/a/alive/", "no such key"),
        ("nodes/" + "a" * 64, "no valid name"),
        ("config/", "no valid name"),
        ("configuration", "no valid name"),
        ("services/web", "newer"),
    ],
)
def test_other_spellings_are_refused(path: str, why: str) -> None:
    found = parse_key("lab", keys.state_prefix("lab") + path)
    assert isinstance(found, Refusal)
    assert why in found.why


@pytest.mark.parametrize(
    "key", [b"", b"\xff", b"/meshfabric/v1/lab/report/a", b"/meshfabric/v1/other/state/config"]
)
def test_keys_elsewhere_are_refused(key: bytes) -> None:
    assert isinstance(parse_key("lab", key), Refusal)


def test_builders_refuse_bad_names() -> None:
    with pytest.raises(InputError, match="node 'A/b' is no valid name"):
        keys.node_key("lab", "A/b")
    with pytest.raises(InputError, match="fabric"):
        keys.state_prefix("")
    with pytest.raises(InputError, match="policy"):
        keys.policy_key("lab", "x y")
    with pytest.raises(InputError, match="class 'x y' is no valid name"):
        keys.full_key("lab", Located(RecordKind.CLASS, "x y"))


def test_listing_ranges_hold_every_key_once_and_dependencies_first() -> None:
    ranges = keys.listing_ranges("lab")
    for key in BUILT:
        assert sum(key.startswith(prefix) for prefix in ranges) == 1, key
    assert [prefix.rstrip("/").rpartition("/")[2] for prefix in ranges][-1] == "endpoints"
    assert keys.report_key("lab", "a") == "/meshfabric/v1/lab/report/a"


def test_printable_is_one_short_line() -> None:
    assert keys.printable("a\x1b[2J\nb") == "a?[2J?b"
    assert len(keys.printable("x" * 10_000)) == keys.SHOWN_CHARACTERS + 3
