"""Routes, rules and neighbours: from any set to any set, and never a step on others' toes."""

import itertools
import subprocess

import pytest

from meshfabric.kernel import links
from meshfabric.kernel.links import Route
from meshfabric.kernel.routes import MAIN, PROTOCOL
from meshfabric.model.errors import PermanentError, TemporaryError
from tests.kernel.cell import namespace

TABLE = 19780
GATEWAY4, GATEWAY6, GATEWAY_MAC = "169.254.1.1", "fe80::6d66", "02:6d:66:00:00:01"

SETS: list[set[Route]] = [
    set(),
    {Route("0.0.0.0/0", unreachable=True), Route("::/0", unreachable=True)},
    {
        Route("10.0.0.0/8", "mfhost0", GATEWAY4, "10.1.0.1", onlink=True),
        Route("fd00::/16", "mfhost0", GATEWAY6, "fd00::1", onlink=True),
        Route("10.0.0.0/8", unreachable=True, metric=4096),
        Route("fd00::/16", unreachable=True, metric=4096),
    },
    {
        Route("10.0.0.0/8", "mfhost1", "169.254.1.9", onlink=True),  # the same places, other ways
        Route("fd00::/16", unreachable=True),
        Route("10.0.0.0/8", "mfhost0", metric=4096),
        Route("fd00::/16", "mfhost1", metric=4096),
    },
    {Route("192.0.2.0/24", "mfhost0"), Route("0.0.0.0/0", "mfhost0", "192.0.2.1")},
    {Route("192.0.2.0/24", "mfhost0", mtu=1400), Route("fd00::/16", "mfhost0", mtu=1400)},
    {Route("192.0.2.0/24", "mfhost0", mtu=1500), Route("fd00::/16", "mfhost1", mtu=9000)},
    {Route("fd00::/16", "mfhost0", GATEWAY6, "fd00::1", 1024, onlink=True)},
]


def _host() -> None:
    links.ensure_veth("mfhost0", "mfhost1")
    for name in ("mfhost0", "mfhost1"):
        links.ensure_sysctls(name, links.FABRIC_SYSCTLS)
        links.set_up(name)
    links.ensure_addresses("mfhost0", {"10.1.0.1/32", "fd00::1/128"})


def _ours(table: int) -> set[Route]:
    return set(links.observe_routes(table, PROTOCOL))


def _normal(routes: set[Route]) -> set[Route]:
    return {one.normal() for one in routes}


@pytest.mark.parametrize("table", [MAIN, TABLE])
def test_from_any_set_to_any_other(table: int) -> None:
    _host()
    others = set(links.observe_routes(table)) - _ours(table)
    for before, after in itertools.permutations(SETS, 2):
        links.ensure_routes(table, before)
        assert links.ensure_routes(table, after)
        assert _ours(table) == _normal(after)
        assert not links.ensure_routes(table, after)
    assert set(links.observe_routes(table)) - _ours(table) == others


def test_another_programs_routes_stay() -> None:
    _host()
    subprocess.run(["ip", "route", "add", "10.5.0.0/16", "dev", "mfhost0"], check=True)
    links.ensure_routes(MAIN, SETS[2])
    with pytest.raises(PermanentError, match=r"another program has a route to 10\.5\.0\.0/16 metric 0"):
        links.ensure_routes(MAIN, SETS[2] | {Route("10.5.0.0/16", "mfhost1")})
    links.ensure_routes(MAIN, set())
    assert Route("10.5.0.0/16", "mfhost0") in links.observe_routes(MAIN)


def test_two_fabrics_keep_apart_by_their_protocol() -> None:
    _host()
    links.ensure_routes(MAIN, {Route("10.0.0.0/8", "mfhost0")}, 0x6D)
    links.ensure_routes(MAIN, {Route("11.0.0.0/8", "mfhost0")}, 0x6E)
    links.ensure_routes(MAIN, set(), 0x6D)
    assert links.observe_routes(MAIN, 0x6E) == [Route("11.0.0.0/8", "mfhost0")]


def test_a_route_by_an_absent_device_is_worth_another_try() -> None:
    with pytest.raises(TemporaryError, match="device mfhost0: no such device"):
        links.ensure_routes(MAIN, {Route("10.0.0.0/8", "mfhost0")})


def test_routes_that_went_with_their_device_come_again() -> None:
    _host()
    links.ensure_routes(MAIN, SETS[2])
    links.delete("mfhost0")
    _host()
    assert links.ensure_routes(MAIN, SETS[2])
    assert _ours(MAIN) == _normal(SETS[2])


def test_rules_send_marks_to_tables_for_both_families() -> None:
    with namespace() as pod:
        for wanted in ({0x4D460000: 19780, 0x4D460009: 19781}, {0x4D460000: 19781}, {}):
            assert links.ensure_rules(wanted, netns=pod)
            assert not links.ensure_rules(wanted, netns=pod)
            assert links.observe_rules(netns=pod) == wanted
        assert links.observe_rules() == {}


def test_a_rule_that_lost_one_family_is_completed() -> None:
    links.ensure_rules({0x4D460000: 19780})
    subprocess.run(["ip", "-6", "rule", "del", "fwmark", "0x4d460000"], check=True)
    assert links.observe_rules() == {}
    assert links.ensure_rules({0x4D460000: 19780})
    assert links.observe_rules() == {0x4D460000: 19780}


def test_rules_of_others_stay() -> None:
    subprocess.run(["ip", "rule", "add", "fwmark", "7", "table", "7", "priority", "90"], check=True)
    links.ensure_rules({0x4D460000: 19780})
    links.ensure_rules({})
    assert "fwmark 0x7" in subprocess.check_output(["ip", "rule"], text=True)


def test_a_mark_leaves_by_its_own_table_or_not_at_all() -> None:
    _host()
    links.ensure_routes(MAIN, {Route("0.0.0.0/0", "mfhost0")})
    links.ensure_routes(TABLE, {Route("0.0.0.0/0", unreachable=True), Route("198.51.100.0/24", "mfhost1")})
    links.ensure_rules({0x4D460000: TABLE})
    asked = ["ip", "route", "get", "192.0.2.1", "mark", "0x4d460000"]
    assert subprocess.run(asked, capture_output=True, check=False).returncode != 0
    assert "dev mfhost0" in subprocess.check_output(asked[:4], text=True)
    asked[3] = "198.51.100.1"
    assert "dev mfhost1" in subprocess.check_output(asked, text=True)


def test_neighbours_are_permanent_and_exact() -> None:
    _host()
    for wanted in ({GATEWAY4: GATEWAY_MAC, GATEWAY6: GATEWAY_MAC}, {GATEWAY4: "02:6d:66:00:00:02"}, {}):
        assert links.ensure_neighbours("mfhost0", wanted)
        assert not links.ensure_neighbours("mfhost0", wanted)
        shown = subprocess.check_output(
            ["ip", "neigh", "show", "dev", "mfhost0", "nud", "permanent"], text=True
        )
        assert {line.split()[0]: line.split()[2] for line in shown.splitlines()} == wanted
