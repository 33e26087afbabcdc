"""Policies in files, in words and in a real etcd."""

import json
import subprocess
import sys
import time
import zlib
from functools import partial
from pathlib import Path

import pytest

from meshfabric.cli.exits import Code
from meshfabric.store.client import TXN_OPS
from meshfabric.store.keys import alive_key, config_key, policy_key, report_key, state_prefix
from tests.etcd import Server, StartEtcd, make_certificates
from tests.fakes.agent import answering
from tests.fakes.agent_rows import FABRIC
from tests.operating import command, documents, run
from tests.patience import DEADLINE_S

pytest_plugins = ["tests.etcd"]

POLL_S = 0.02
TWO = """\
# who may talk to the database
name: web-to-db
select: app=db
description: "the shop's own"
ingress:
  - from: [app=web, "tier in (gold, silver)"]
    ports: [tcp/5432, udp/8000-8100, icmp]
---
name: quiet
select: {app: quiet}
egress: []
"""


@pytest.fixture
def fabric(request: pytest.FixtureRequest) -> str:
    """A fabric of the test's own in the shared etcd."""
    return f"f{zlib.crc32(request.node.nodeid.encode()):08x}"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "policies.yaml"
    path.write_text(TWO)
    return path


policy = partial(command, "policy")
stored = partial(documents, "policies")


def test_check_says_it_in_words(file: Path) -> None:
    result = run("policy", "check", file)
    assert (result.exit_code, result.stderr) == (Code.OK, "")
    assert result.stdout.splitlines()[0] == "web-to-db is about workloads with app=db"
    assert result.stdout.split("\n\n")[1].startswith("quiet is about workloads with app=quiet\n")
    assert run("policy", "check", "-", stdin=TWO).stdout == result.stdout


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (TWO.replace("select: {", "selct: {"), ":10: "),
        (TWO.replace("tcp/5432", "tcp/99999"), "out of range"),
        (TWO.replace("quiet\n", "web-to-db\n", 1), "web-to-db"),
        (TWO.replace("egress: []", ""), "needs ingress or egress"),
        ("# nothing\n", "no policy in it"),
        ("name: [", "not YAML"),
    ],
)
def test_check_finds_what_is_wrong_and_apply_writes_none_of_it(
    etcd_server: Server, fabric: str, file: Path, text: str, said: str
) -> None:
    file.write_text(text)
    result = run("policy", "check", file)
    assert (result.exit_code, result.stdout) == (Code.FOUND, "")
    assert result.stderr.startswith(f"meshfabric: {file}")
    assert said in result.stderr
    applied = policy(etcd_server, fabric, "apply", file)
    assert (applied.exit_code, applied.stdout, applied.stderr) == (Code.INPUT, "", result.stderr)
    assert stored(etcd_server, fabric) == {}


@pytest.mark.parametrize("verb", ["check", "apply"])
def test_no_such_file(tmp_path: Path, verb: str) -> None:
    result = run("policy", verb, tmp_path / "none.yaml")
    assert result.exit_code == Code.INPUT
    assert result.stderr == f"meshfabric: {tmp_path}/none.yaml: cannot read it: No such file or directory\n"


def test_a_file_that_is_no_text(file: Path) -> None:
    file.write_bytes(b"name: \xff\n")
    assert run("policy", "check", file).exit_code == Code.INPUT


def test_apply_creates_changes_and_leaves_alone(etcd_server: Server, fabric: str, file: Path) -> None:
    assert policy(etcd_server, fabric, "apply", file).stdout == "web-to-db: created\nquiet: created\n"
    first = stored(etcd_server, fabric)
    assert json.loads(first["quiet"]) == {"name": "quiet", "select": {"app": "quiet"}, "egress": []}
    assert policy(etcd_server, fabric, "apply", file).stdout == "web-to-db: unchanged\nquiet: unchanged\n"
    file.write_text(TWO.replace("tcp/5432", "tcp/5433"))
    assert policy(etcd_server, fabric, "apply", file).stdout == "web-to-db: changed\nquiet: unchanged\n"
    assert stored(etcd_server, fabric)["quiet"] == first["quiet"]


def test_all_is_written_in_one_transaction_and_the_unchanged_not_at_all(
    etcd_server: Server, fabric: str, file: Path
) -> None:
    def revisions() -> list[int]:
        answer = json.loads(etcd_server.ctl("get", "--prefix", state_prefix(fabric), "-w", "json"))
        return [kv["mod_revision"] for kv in answer["kvs"]]

    policy(etcd_server, fabric, "apply", file)
    written = revisions()
    assert len(set(written)) == 1
    policy(etcd_server, fabric, "apply", file)
    assert revisions() == written


def test_more_than_one_transaction_takes_is_refused_whole(
    etcd_server: Server, fabric: str, file: Path
) -> None:
    file.write_text(
        "---\n".join(f"name: p{number}\nselect: ''\negress: []\n" for number in range(TXN_OPS + 1))
    )
    result = policy(etcd_server, fabric, "apply", file)
    assert result.exit_code == Code.INPUT
    assert f"apply at most {TXN_OPS} at once" in result.stderr
    assert stored(etcd_server, fabric) == {}


def test_what_is_shown_can_be_applied_again(etcd_server: Server, fabric: str, file: Path) -> None:
    policy(etcd_server, fabric, "apply", file)
    shown = policy(etcd_server, fabric, "show", "web-to-db").stdout
    assert shown.startswith("name: web-to-db\nselect: app=db\ningress:\n- from:\n  - app=web\n")
    assert policy(etcd_server, fabric, "apply", "-", stdin=shown).stdout == "web-to-db: unchanged\n"
    shown = policy(etcd_server, fabric, "show", "web-to-db", "-o", "json").stdout
    assert policy(etcd_server, fabric, "apply", "-", stdin=shown).stdout == "web-to-db: unchanged\n"
    words = policy(etcd_server, fabric, "show", "quiet", "-o", "table").stdout
    assert words.startswith("quiet is about workloads with app=quiet\n")


def test_show_what_is_not_there_or_not_to_be_read(etcd_server: Server, fabric: str) -> None:
    result = policy(etcd_server, fabric, "show", "ghost")
    assert (result.exit_code, result.stdout) == (Code.INPUT, "")
    assert f"no policy 'ghost' in fabric '{fabric}'" in result.stderr
    etcd_server.ctl("put", policy_key(fabric, "ghost"), '{"name": "ghost"}')
    result = policy(etcd_server, fabric, "show", "ghost")
    assert result.exit_code == Code.INPUT
    assert "policy ghost: the record cannot be read: " in result.stderr


def test_what_cannot_be_read_is_overwritten(etcd_server: Server, fabric: str, file: Path) -> None:
    etcd_server.ctl("put", policy_key(fabric, "quiet"), "{")
    assert policy(etcd_server, fabric, "apply", file).stdout == "web-to-db: created\nquiet: changed\n"


def test_delete(etcd_server: Server, fabric: str, file: Path) -> None:
    policy(etcd_server, fabric, "apply", file)
    assert policy(etcd_server, fabric, "delete", "quiet").stdout == "quiet: deleted\n"
    result = policy(etcd_server, fabric, "delete", "quiet")
    assert (result.exit_code, result.stdout) == (Code.OK, "quiet: was not there\n")
    assert list(stored(etcd_server, fabric)) == ["web-to-db"]


def test_bad_names_never_become_keys(etcd_server: Server, fabric: str) -> None:
    for verb in ("show", "delete"):
        assert policy(etcd_server, fabric, verb, "../config").exit_code == Code.INPUT
    assert policy(etcd_server, "No Fabric", "delete", "x").exit_code == Code.INPUT


def test_the_agent_says_where_etcd_is(etcd_server: Server, fabric: str, file: Path, tmp_path: Path) -> None:
    told = {**FABRIC, "fabric": fabric, "etcd": [etcd_server.endpoint]}
    with answering(tmp_path / "agent.sock", {"fabric": told}):
        assert run("policy", "apply", file, "--socket", tmp_path / "agent.sock").exit_code == Code.OK
        other = run(
            "policy", "apply", file, "--fabric", f"{fabric}-2", MESHFABRIC_SOCKET=str(tmp_path / "agent.sock")
        )
    assert other.stdout == "web-to-db: created\nquiet: created\n"
    assert stored(etcd_server, fabric) == stored(etcd_server, f"{fabric}-2") != {}


def test_neither_agent_nor_options(file: Path, tmp_path: Path) -> None:
    result = run("policy", "apply", file, "--socket", tmp_path / "none.sock", "--fabric", "x")
    assert result.exit_code == Code.UNAVAILABLE
    assert result.stderr.endswith("(start it, or give --etcd and --fabric)\n")


def test_etcd_is_away(etcd_server: Server, file: Path) -> None:
    nobody = f"http://{etcd_server.address}:1"
    result = run("policy", "apply", file, "--etcd", nobody, "--fabric", "x")
    assert (result.exit_code, result.stdout) == (Code.UNAVAILABLE, "")
    assert f"{nobody}: Connection refused" in result.stderr
    both = run("policy", "apply", file, "--etcd", f"{nobody},{etcd_server.endpoint}", "--fabric", "away")
    assert both.exit_code == Code.OK


def test_bad_endpoints(file: Path) -> None:
    result = run("policy", "apply", file, "--etcd", "etcd:2379", "--fabric", "x")
    assert result.exit_code == Code.INPUT
    assert "'etcd:2379' is no etcd endpoint" in result.stderr


def test_users_and_passwords(start_etcd: StartEtcd, file: Path, tmp_path: Path) -> None:
    server = start_etcd()
    server.enable_auth()
    (tmp_path / "right").write_text("right\n")
    (tmp_path / "wrong").write_text("wrong\n")
    (tmp_path / "root").write_text("root\n")
    for user in ([], ["--user", "node", "--password-file", tmp_path / "wrong"]):
        assert policy(server, "x", "apply", file, *user).exit_code == Code.PERMISSION
    denied = policy(server, "x", "apply", file, "--user", "node", "--password-file", tmp_path / "right")
    assert denied.exit_code == Code.PERMISSION
    assert "permission denied (grant the etcd user a role" in denied.stderr
    root = policy(server, "x", "apply", file, "--user", "root", "--password-file", tmp_path / "root")
    assert root.exit_code == Code.OK


def test_who_may_write_policies_need_not_read_the_config(
    start_etcd: StartEtcd, file: Path, tmp_path: Path
) -> None:
    server, own = start_etcd(), f"{state_prefix('x')}policies/"
    server.enable_auth()
    server.ctl("--user", "root:root", "role", "grant-permission", "own", "readwrite", own, "--prefix")
    (tmp_path / "right").write_text("right\n")
    file.write_text("{name: p, select: a, ingress: [{from: [192.0.2.0/24]}]}")
    user = ("--user", "node", "--password-file", tmp_path / "right")
    assert policy(server, "x", "apply", file, *user).exit_code == Code.PERMISSION, "what it cuts is not known"
    result = policy(server, "x", "apply", file, "--force", *user)
    assert (result.exit_code, result.stdout) == (Code.OK, "p: created\n")
    assert result.stderr.startswith("warning: whether peers by address are outside is not known: ")


def test_certificates(start_etcd: StartEtcd, file: Path, tmp_path: Path) -> None:
    pem = make_certificates(tmp_path / "pem")
    server = start_etcd("--client-cert-auth", certificates=pem)
    assert policy(server, "x", "apply", file).exit_code == Code.INPUT
    own = ["--ca", pem.ca, "--cert", pem.client_cert, "--key", pem.client_key]
    assert policy(server, "x", "apply", file, *own).exit_code == Code.OK
    told = {
        **FABRIC,
        "fabric": "x",
        "etcd": [server.endpoint],
        "ca": str(pem.ca),
        "cert": "/none",
        "key": "/none",
    }
    with answering(tmp_path / "agent.sock", {"fabric": told}):
        assert (
            run("policy", "show", "quiet", *own[2:], "--socket", tmp_path / "agent.sock").exit_code == Code.OK
        )


def test_apply_warns_of_peers_that_are_nobody(etcd_server: Server, fabric: str, file: Path) -> None:
    file.write_text(
        "{name: p, select: a, ingress: [{from: [10.1.0.0/16, 192.0.2.0/24, {entity: kube-apiserver}]}]}"
    )
    etcd_server.ctl("put", config_key(fabric), '{"prefixes": ["10.0.0.0/8"]}')
    result = policy(etcd_server, fabric, "apply", file)
    assert result.exit_code == Code.OK
    assert result.stderr.splitlines() == [
        "warning: p: 10.1.0.0/16 is in the fabric, where labels tell who is who: it covers nobody",
        "warning: p: the fabric's config names no kube_apiservers: that entity covers nobody",
    ]
    config = '{"prefixes": ["10.1.0.0/24"], "kube_apiservers": ["192.0.2.1"]}'
    etcd_server.ctl("put", config_key(fabric), config)
    assert policy(etcd_server, fabric, "apply", file).stderr == ""


def test_waiting_for_nobody(etcd_server: Server, fabric: str, file: Path) -> None:
    result = policy(etcd_server, fabric, "apply", file, "--wait")
    assert result.exit_code == Code.OK
    assert result.stdout.splitlines()[2].startswith("in force on 0 nodes (revision ")


def test_waiting_lists_who_has_not(etcd_server: Server, fabric: str, file: Path) -> None:
    policy(etcd_server, fabric, "apply", file)
    reports = {
        "a": '{"revision": 1000000000}',
        "b": '{"revision": 1, "held": ""}',
        "c": "",
        "d": '{"revision": 1000000000, "refused": {"policies/quiet": "too new"}}',
        "e": '{"revision": 1000000000, "failing": {"policy": "no memory", "peers": "x"}}',
        "f": "{",
        "gone": "",
    }
    for node, report in reports.items():
        if node != "gone":
            etcd_server.ctl("put", alive_key(fabric, node), "{}")
        if report:
            etcd_server.ctl("put", report_key(fabric, node), report)
    result = policy(etcd_server, fabric, "apply", file, "--wait", "--timeout", "0")
    assert result.exit_code == Code.UNAVAILABLE
    assert result.stdout == "web-to-db: unchanged\nquiet: unchanged\n"
    assert "5 of 6 nodes have not applied revision" in result.stderr
    assert (
        "b (at 1), c (no report), d (refuses quiet: too new), e (no memory), f (no report)" in result.stderr
    )


def test_waiting_ends_when_the_last_node_reports(etcd_server: Server, fabric: str, file: Path) -> None:
    etcd_server.ctl("put", alive_key(fabric, "a"), "{}")
    command = [sys.executable, "-m", "meshfabric", "policy", "apply", str(file), "--wait"]
    command += ["--etcd", etcd_server.endpoint, "--fabric", fabric]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + DEADLINE_S
        while not stored(etcd_server, fabric):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(POLL_S)
        etcd_server.ctl("put", report_key(fabric, "a"), '{"revision": 1000000000}')
        said, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == Code.OK
    assert said.splitlines()[2].startswith("in force on 1 node (revision ")
