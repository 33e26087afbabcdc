"""Who may talk to whom: all, until a policy selects; then what a rule allows and its answers, no more."""

import contextlib
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from msgspec.structs import replace

from meshfabric.lab import workloads
from meshfabric.lab.state import Lab
from meshfabric.model.versions import LANGUAGE
from tests.features import requires
from tests.lab.places import ANSWER_S, ECHO_PORT, SILENCE_S, Echo, answers, asked, connects, opened, ping
from tests.lab.policies import policy
from tests.lab.store import Store
from tests.lab.streams import Flow, flowing
from tests.lab.whole import address, drops, listing, relabelled, until
from tests.patience import PATIENCE

pytestmark = requires("capabilities")

PORTS = (7443, 8000, 8063, 8100, 8101)
OTHER_PORT = 7444
CUT_WITHIN_S = 5.0 * PATIENCE
EXPIRES_AFTER_S = 3.0 * PATIENCE
GONE_S = 2.0 * PATIENCE  # less, so that what was cut too early is told before its time
MS = 1000
WEB, CLIENT, DB, GUEST = "kube1/web", "kube1/client", "kube2/db", "vm1/guest1"
BOTH: list[dict[str, Any]] = [{"from": ["app=web"]}, {"from": ["app=client"]}]
REVOCATIONS: dict[str, dict[str, Any]] = {
    "a rule goes": {"name": "both", "ingress": BOTH[1:]},
    "an operator denies": {
        "name": "no-web",
        "tier": "admin",
        "min_version": LANGUAGE,
        "ingress": [{"action": "deny", **BOTH[0]}],
    },
}


def is_refused(lab: Lab, source: str, to: str, port: int = ECHO_PORT) -> bool:
    return not connects(lab, source, to, port, answer_s=SILENCE_S)


def fits(wanted: bool, ask: Callable[..., bool], *whom: Any) -> bool:
    """Whether there is an answer just when one is wanted: that one may take its time."""
    return ask(*whom, answer_s=ANSWER_S if wanted else SILENCE_S) == wanted


def last_answer(link: socket.socket, is_cut: Callable[[], bool]) -> float:
    """When an `Echo` was last heard on a connection, which is used until it is silent and known to be cut."""
    link.settimeout(SILENCE_S)
    last = time.monotonic()
    deadline = last + 2 * CUT_WITHIN_S
    while time.monotonic() < deadline:
        if asked(link, b"still there?"):
            last = time.monotonic()
        elif is_cut():
            return last
    raise AssertionError("not cut")


@pytest.mark.parametrize("family", [4, 6])
def test_without_any_policy_everyone_may(fabric: Lab, family: int) -> None:
    with Echo(fabric, DB):
        for source in (WEB, GUEST, "metal1", "kube2/cache"):
            assert connects(fabric, source, address(fabric, DB, family))
    assert [row["policy"] for row in listing(fabric, "kube2", "policies")] == ["baseline:allow-local-host"]


@pytest.mark.parametrize("family", [4, 6])
def test_a_policy_that_selects_denies_what_it_does_not_allow(fabric: Lab, family: int) -> None:
    db, cache = address(fabric, DB, family), address(fabric, "kube2/cache", family)
    rules = [{"from": ["app=web"], "ports": ["tcp/7443"]}]
    with (
        Echo(fabric, DB, "kube2/cache", ports=(7443, OTHER_PORT)),
        policy(fabric, "p", "app=db", ingress=rules),
    ):
        before = drops(fabric, "kube2", "policy_ingress")
        assert connects(fabric, WEB, db, 7443)
        assert drops(fabric, "kube2", "policy_ingress") == before
        assert is_refused(fabric, WEB, db, OTHER_PORT), "another port"
        assert is_refused(fabric, CLIENT, db, 7443), "another peer"
        assert is_refused(fabric, "kube2/cache", db, 7443), "a peer on the same node"
        assert is_refused(fabric, GUEST, db, 7443), "a guest"
        assert is_refused(fabric, "metal1", db, 7443), "another node's host"
        assert not answers(fabric, WEB, db, port=7443, answer_s=SILENCE_S), "another protocol"
        assert ping(fabric, WEB, db, answer_s=SILENCE_S) is None, "another protocol"
        until(lambda: drops(fabric, "kube2", "policy_ingress") - before >= 7)
        assert connects(fabric, CLIENT, cache, OTHER_PORT), "who is not selected may be reached"
    with Echo(fabric, DB, ports=(OTHER_PORT,)):
        assert connects(fabric, CLIENT, db, OTHER_PORT), "the end of the policy"


def test_the_nodes_own_host_reaches_its_workloads_whatever_policies_say(fabric: Lab) -> None:
    """The visible baseline rule: health checks."""
    with Echo(fabric, DB), policy(fabric, "closed", "app=db", ingress=[]):
        for family in (4, 6):
            assert connects(fabric, "kube2", address(fabric, DB, family))
            assert is_refused(fabric, "kube1", address(fabric, DB, family)), "another node's host"


def test_ranges_of_ports_end_where_they_say(fabric: Lab) -> None:
    db, rules = address(fabric, DB), [{"ports": ["udp/8000-8100", "tcp/8063"]}]
    with Echo(fabric, DB, ports=PORTS), policy(fabric, "range", "app=db", ingress=rules):
        for port in PORTS:
            assert fits(8000 <= port <= 8100, answers, fabric, WEB, db, 64, port), f"udp/{port}"
            assert fits(port == 8063, connects, fabric, WEB, db, port), f"tcp/{port}"


@pytest.mark.parametrize(("family", "protocol"), [(4, "icmp"), (6, "icmpv6")])
def test_icmp_alone_may_be_allowed(fabric: Lab, family: int, protocol: str) -> None:
    db = address(fabric, DB, family)
    with Echo(fabric, DB), policy(fabric, "echo", "app=db", ingress=[{"ports": [protocol]}]):
        assert ping(fabric, WEB, db) is not None
        assert is_refused(fabric, WEB, db)


def test_a_type_of_icmp_alone_may_be_allowed(fabric: Lab) -> None:
    db, newer = address(fabric, DB), {"min_version": LANGUAGE}
    with Echo(fabric, DB), policy(fabric, "ask", "app=db", ingress=[{"ports": ["icmp/13"]}], **newer):
        assert ping(fabric, WEB, db, answer_s=SILENCE_S) is None
    rules = [{"ports": ["icmp/echo-request"]}]
    with Echo(fabric, DB), policy(fabric, "ask", "app=db", ingress=rules, **newer):
        assert ping(fabric, WEB, db) is not None
        assert is_refused(fabric, WEB, db)


@pytest.mark.parametrize(("way", "about"), [("ingress", "app=db"), ("egress", "app=web")])
def test_a_port_is_allowed_by_the_name_that_its_workload_gives_it(fabric: Lab, way: str, about: str) -> None:
    """On the node of the one who is asked, and on that of the one who asks."""
    db, plain = address(fabric, DB), fabric.topology.workload("kube2", "db")
    rules: dict[str, Any] = {way: [{"ports": ["tcp/echo"]}], "min_version": LANGUAGE}
    with Echo(fabric, DB, ports=(ECHO_PORT, OTHER_PORT)), policy(fabric, "named", about, **rules):
        assert is_refused(fabric, WEB, db), "nobody calls a port that yet"
        for number in (ECHO_PORT, OTHER_PORT):
            workloads.attach(fabric, replace(plain, ports={"echo": f"tcp/{number}"}))
            until(partial(connects, fabric, WEB, db, number))
            assert is_refused(fabric, WEB, db, ECHO_PORT + OTHER_PORT - number)
        workloads.attach(fabric, plain)
        until(lambda: is_refused(fabric, WEB, db, OTHER_PORT))


def test_a_policy_in_audit_stops_nothing_and_is_listed(fabric: Lab) -> None:
    db, closed = address(fabric, DB), {"mode": "audit", "min_version": LANGUAGE, "ingress": BOTH[1:]}
    with Echo(fabric, DB), policy(fabric, "soon", "app=db", **closed):
        before = drops(fabric, "kube2", "policy_ingress")
        assert connects(fabric, CLIENT, db)
        assert connects(fabric, WEB, db)
        until(lambda: audits(fabric, ECHO_PORT))
        (row,) = audits(fabric, ECHO_PORT)
        assert (row["from"], row["to"]) == (f"web {address(fabric, WEB)}", f"db {db}")
        assert row["direction"] == "ingress"
        assert drops(fabric, "kube2", "policy_ingress") == before
    with policy(fabric, "soon", "app=db", ingress=BOTH[1:]), Echo(fabric, DB):
        assert is_refused(fabric, WEB, db), "as it said"


def audits(lab: Lab, port: int) -> list[Any]:
    """What db's node lists about one port, while the policy is there."""
    rows = listing(lab, "kube2", "audits")
    return [row for row in rows if (row["what"], row["policies"]) == (f"tcp/{port}", "soon")]


def test_selectors_mean_sets_of_labels(fabric: Lab) -> None:
    rules = [{"from": ["tier in (front, ops)", "app=guest"]}]
    with Echo(fabric, DB), policy(fabric, "sets", "tier=back, app!=guest", ingress=rules):
        db = address(fabric, DB)
        for source in (WEB, CLIENT, "metal1", GUEST):
            assert connects(fabric, source, db), source
        assert is_refused(fabric, "kube2/cache", db)
        assert is_refused(fabric, "kube1", db), "a host without labels"
    with Echo(fabric, GUEST):
        assert connects(fabric, "kube2/cache", address(fabric, GUEST)), "not selected"


def test_egress_is_denied_at_the_sender_and_answers_pass(fabric: Lab) -> None:
    """The policy is about web's own conversations: what others ask of it, it may answer."""
    rules = [{"to": ["app=db"], "ports": ["tcp/7007"]}]
    with Echo(fabric, DB, "kube2/cache", WEB), policy(fabric, "out", "app=web", egress=rules):
        before = drops(fabric, "kube1", "policy_egress")
        assert connects(fabric, WEB, address(fabric, DB))
        assert is_refused(fabric, WEB, address(fabric, "kube2/cache"))
        assert not answers(fabric, WEB, address(fabric, DB), answer_s=SILENCE_S)
        until(lambda: drops(fabric, "kube1", "policy_egress") - before >= 2)
        for source in (DB, CLIENT, "kube2/cache"):
            assert connects(fabric, source, address(fabric, WEB)), f"{source} asks"
            assert answers(fabric, source, address(fabric, WEB)), f"{source} asks"


def test_several_policies_only_add(fabric: Lab) -> None:
    db = address(fabric, DB)
    with Echo(fabric, DB), policy(fabric, "none", "app=db", ingress=[]):
        assert is_refused(fabric, WEB, db)
        with policy(fabric, "web", "tier=back", ingress=[{"from": ["app=web"]}]):
            assert connects(fabric, WEB, db)
            assert is_refused(fabric, CLIENT, db)
        assert is_refused(fabric, WEB, db)


@pytest.mark.parametrize(
    ("how", "family"), [("a rule goes", 4), ("a rule goes", 6), ("an operator denies", 4)]
)
def test_a_revocation_cuts_the_established_connection_and_no_other(
    fabric: Lab, how: str, family: int
) -> None:
    db, record = address(fabric, DB, family), {"select": "app=db", **REVOCATIONS[how]}
    kept = Flow(CLIENT, DB, family, "tcp"), Flow(CLIENT, DB, family), Flow(WEB, "kube2/cache", family, "tcp")
    with contextlib.ExitStack() as stack:
        stack.enter_context(Echo(fabric, DB))
        stack.enter_context(policy(fabric, "both", "app=db", ingress=BOTH))
        cut = stack.enter_context(opened(fabric, WEB, family, socket.SOCK_STREAM))
        cut.connect((db, ECHO_PORT))
        assert asked(cut, b"before")
        with flowing(fabric, *kept) as streams:
            until(streams.all_pass)
            before, written = drops(fabric, "kube2", "policy_ingress"), time.monotonic()
            Store(fabric).put(f"policies/{record['name']}", record)
            lasted = last_answer(cut, lambda: drops(fabric, "kube2", "policy_ingress") > before) - written
            print(f"cut: the last answer came {lasted * MS:.0f} ms after the record was sent")
            assert lasted < CUT_WITHIN_S
        streams.assert_nothing_lost()


def test_a_rule_that_expires_ends_by_the_clock_and_its_connections_with_it(fabric: Lab) -> None:
    db, kept = address(fabric, DB), Flow(CLIENT, DB, protocol="tcp")
    record: dict[str, Any] = {"name": "both", "select": "app=db", "min_version": LANGUAGE}
    with (
        Echo(fabric, DB),
        policy(fabric, "both", "app=db", ingress=BOTH),
        opened(fabric, WEB, 4, socket.SOCK_STREAM) as link,
    ):
        link.connect((db, ECHO_PORT))
        assert asked(link, b"before")
        link.settimeout(GONE_S)
        with flowing(fabric, kept) as streams:
            ends = datetime.now(UTC) + timedelta(seconds=EXPIRES_AFTER_S)
            until_then = {**BOTH[0], "expires": ends.isoformat()}
            Store(fabric).put("policies/both", {**record, "ingress": [until_then, BOTH[1]]})
            until(lambda: not asked(link, b"still there?"))
            assert datetime.now(UTC) >= ends
            assert is_refused(fabric, WEB, db)
        streams.assert_nothing_lost()
        rows = [row for row in listing(fabric, "kube2", "policies") if row["policy"] == "both"]
        assert [row["allows"] for row in rows] == ["app=client on anything"]


def test_new_labels_of_a_workload_take_effect_at_once(fabric: Lab) -> None:
    """Attached again with other labels: it keeps its address, and is somebody else to every policy."""
    db, before = address(fabric, DB), address(fabric, CLIENT)
    web_only = [{"from": ["app=web"]}]
    with Echo(fabric, DB), policy(fabric, "web", "app=db", ingress=web_only):
        assert is_refused(fabric, CLIENT, db)
        workloads.attach(fabric, relabelled(fabric, "kube1", "client", app="web"))
        assert address(fabric, CLIENT) == before
        until(lambda: connects(fabric, CLIENT, db, answer_s=SILENCE_S))
        workloads.attach(fabric, relabelled(fabric, "kube2", "db", app="cache"))
        until(lambda: connects(fabric, "kube2/cache", db, answer_s=SILENCE_S))
        workloads.attach(fabric, relabelled(fabric, "kube2", "db", app="db"))
        workloads.attach(fabric, relabelled(fabric, "kube1", "client", app="client"))
        until(lambda: is_refused(fabric, CLIENT, db))


def test_every_listing_shows_what_is_in_force(fabric: Lab) -> None:
    rules = [{"from": ["app=web"], "ports": ["tcp/5432"]}]
    with policy(fabric, "shown", "app=db", ingress=rules, egress=[]):
        rows = [row for row in listing(fabric, "kube2", "policies") if row["policy"] == "shown"]
        assert [(row["direction"], row["allows"], row["selected"]) for row in rows] == [
            ("ingress", "app=web on tcp/5432", 1),
            ("egress", "nothing", 1),
        ]
        (row,) = (row for row in listing(fabric, "vm1", "policies") if row["direction"] == "egress")
        assert row["selected"] == 0
