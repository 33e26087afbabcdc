"""The boot guard from up to down: what of it is there, what is missing, and what belongs to whom."""

import json
import os
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from typer.testing import CliRunner

from meshfabric.cli.app import app
from meshfabric.cli.exits import Code
from meshfabric.guard import install, observed
from meshfabric.guard.file import Guard, parse
from meshfabric.guard.observed import Part
from meshfabric.guard.ruleset import ROUTE_METRIC, ROUTE_PROTOCOL
from meshfabric.kernel import links, nft, tool
from meshfabric.kernel.routes import MAIN, Route, ensure_routes, observe_routes
from meshfabric.model.errors import PermanentError
from tests.features import requires
from tests.kernel.outside import FAR, GUARD, HERE, OUTSIDE, PORT, carded, say

pytestmark = requires("nftables")

ROUNDS = 5


def routes() -> set[str]:
    found = observe_routes(MAIN, ROUTE_PROTOCOL)
    assert all(one.unreachable and one.metric == ROUTE_METRIC for one in found)
    return {one.destination for one in found}


def test_repeating_it_changes_nothing() -> None:
    install.up(GUARD)
    before = observed.status()
    install.up(GUARD)
    assert observed.status() == before
    assert all(part.present for part in before)
    assert routes() == set(GUARD.prefixes)


def test_a_route_of_the_fabric_wins_and_without_one_nothing_is_reached() -> None:
    with carded(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
        ensure_routes(MAIN, {Route("0.0.0.0/0", "card", OUTSIDE[4])}, protocol=5)
        install.up(GUARD)
        with pytest.raises(OSError, match=r"No route to host|Network is unreachable"):
            link.sendto(b"", ("10.64.9.9", PORT))
        shown = json.loads(tool.run(["ip", "-j", "route", "get", FAR[4]]))
        assert shown[0]["dev"] == "card"


def test_each_fabric_has_its_own() -> None:
    other = Guard("lab", ("10.80.0.0/16", "10.81.0.0/16", "10.82.0.1/32"))
    install.up(GUARD)
    install.up(other)
    assert nft.guards() == ["lab", "prod"]
    assert routes() == {*GUARD.prefixes, *other.prefixes}
    install.up(Guard("lab", ("10.81.0.0/16",)))
    assert routes() == {*GUARD.prefixes, "10.81.0.0/16"}
    assert install.down("lab")
    assert (nft.guards(), routes()) == (["prod"], set(GUARD.prefixes))
    assert not install.down("lab"), "it was gone already"
    assert install.down("prod")
    assert (nft.tables(), routes(), observed.status()) == ([], set(), [])


def test_tables_and_routes_of_others_stay() -> None:
    nft.apply("table inet others { chain c { type filter hook input priority 0; }; }")
    theirs = Route("10.64.0.0/16", metric=100, unreachable=True)
    ensure_routes(MAIN, {theirs}, protocol=4)
    install.up(GUARD)
    install.down("prod")
    assert nft.tables() == [("inet", "others")]
    assert observe_routes(MAIN, 4) == [theirs]


def test_who_would_be_cut_off_is_told_and_nothing_is_done() -> None:
    with carded():
        with pytest.raises(
            PermanentError, match=r"card has the address 192.0.2.1 of 192.0.0.0/16"
        ) as refused:
            install.up(Guard("prod", ("10.64.0.0/16", "192.0.0.0/16")))
        assert refused.value.remedy
        assert (nft.tables(), routes()) == ([], set())


def missing() -> list[Part]:
    return [part for part in observed.status() if not part.present]


def test_what_is_missing_is_told() -> None:
    install.up(GUARD)
    assert missing() == []
    ensure_routes(MAIN, set(), ROUTE_PROTOCOL)
    assert [(part.where, part.match) for part in missing()] == [
        ("route", f"to {prefix}") for prefix in sorted(GUARD.prefixes)
    ]
    nft.apply("flush table bridge meshfabric-guard-prod")
    assert len(missing()) == len(GUARD.prefixes) + 8
    install.up(GUARD)
    assert missing() == []


@pytest.mark.parametrize(
    ("change", "opened"),
    [
        ("flush chain inet meshfabric-guard-prod leaves", {("host", "out")}),
        ("delete chain bridge meshfabric-guard-prod bridged", {("bridges", "in"), ("bridges", "out")}),
        ("flush chain inet meshfabric-guard-prod by_others_in", {("host", "in")}),
    ],
)
def test_a_hook_that_asks_no_more_is_told(change: str, opened: set[tuple[str, str]]) -> None:
    install.up(GUARD)
    nft.apply(change)
    assert {(part.where, part.way) for part in missing()} == opened
    install.up(GUARD)
    assert missing() == []


def test_names_and_lengths_of_all_kinds() -> None:
    fabric = "9.a-" + 59 * "x"
    prefixes = (
        "10.64.0.0/13",
        "172.16.0.1/32",
        "192.168.0.0/31",
        "fd00::/9",
        "2001:db8::/127",
        "fc00::1/128",
    )
    install.up(parse(f"fabric: {fabric}\nprefixes: {list(prefixes)}\n", "guard.yaml"))
    assert nft.guards() == [fabric]
    assert (routes(), missing()) == (set(prefixes), [])


def test_the_page_shows_what_is_printed() -> None:
    page = (Path(__file__).parents[2] / "docs" / "guard.md").read_text()
    shown = re.findall(r"^```\n(FABRIC .*?)^```$", page, re.MULTILINE | re.DOTALL)[0].splitlines()
    with carded():
        install.up(GUARD)
        say(HERE[4], FAR[4])
        result = CliRunner().invoke(app, ["guard", "status"])
    assert result.exit_code == Code.OK, result.stderr
    printed = result.stdout.splitlines()
    gap = shown.index("...")
    assert printed[:gap] == shown[:gap]
    assert printed[gap - len(shown) + 1 :] == shown[gap + 1 :]


def test_watching_it_is_told_by_the_exit_code() -> None:
    status = ["guard", "status"]
    assert CliRunner().invoke(app, status).exit_code == Code.FOUND
    install.up(GUARD)
    assert CliRunner().invoke(app, status).exit_code == Code.OK
    ensure_routes(MAIN, set(), ROUTE_PROTOCOL)
    assert CliRunner().invoke(app, status).exit_code == Code.FOUND


def test_two_at_once_do_not_undo_each_others() -> None:
    other = Guard("lab", ("10.80.0.0/16",))
    with ThreadPoolExecutor() as pool:
        for _ in range(ROUNDS):
            list(pool.map(install.up, (GUARD, other, GUARD, other)))
            assert routes() == {*GUARD.prefixes, *other.prefixes}
            list(pool.map(install.down, ("prod", "lab", "prod")))
            assert routes() == set()


def test_the_doctor_tells_it() -> None:
    assert nft.trial() == "no guard is up"
    install.up(GUARD)
    assert nft.trial() == "the guard is up for prod"
    assert {name for _, name in nft.tables()} == {"meshfabric-guard-prod"}, "no trial is left"


def test_it_can_be_up_before_any_device_is() -> None:
    """As at boot: lo itself is still down."""
    assert not any(link.up for link in links.observe())
    install.up(GUARD)
    links.set_up("lo")
    assert missing() == []


def test_who_may_not_is_told() -> None:
    os.setresuid(65534, 65534, 65534)
    with pytest.raises(PermanentError, match=r"nftables: .*Operation not permitted \(run as root") as refused:
        install.up(GUARD)
    assert isinstance(refused.value.__cause__, PermissionError)
