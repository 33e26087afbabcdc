"""`policy diff`: what the agent is asked, what is printed of its answer, and the exit code."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from meshfabric.api.messages import LINE_LIMIT, Simulate
from meshfabric.cli.app import app
from meshfabric.cli.exits import Code
from meshfabric.model.errors import InputError
from tests.fakes.agent import Agent, answering
from tests.fakes.agent_rows import SIMULATED

ONE, TWO = "name: one\nselect: app=db\ningress: []\n", "name: two\nselect: '*'\negress: [{action: deny}]\n"
NOTHING: dict[str, Any] = {
    "changes": [],
    "changes_total": 0,
    "flows": [],
    "flows_total": 0,
    "flows_seen": 9,
    "absent": [],
    "connected": True,
}


def diff(socket: Path, *arguments: object, stdin: str = "") -> Result:
    runner = CliRunner(env={"COLUMNS": None, "MESHFABRIC_SOCKET": str(socket)})
    return runner.invoke(app, ["policy", "diff", *map(str, arguments)], input=stdin)


def asked(agent: Agent) -> Simulate:
    (request,) = agent.asked
    assert isinstance(request, Simulate)
    return request


def test_several_files_stdin_and_deletions_are_one_question(tmp_path: Path) -> None:
    file, socket = tmp_path / "one.yaml", tmp_path / "s"
    file.write_text(ONE)
    with answering(socket, {Simulate: NOTHING}) as agent:
        result = diff(socket, file, "-", "--delete", "three", "--delete", "four", stdin=TWO)
    assert (result.exit_code, result.stdout, result.stderr) == (Code.OK, "", "no change\n")
    assert [policy.name for policy in asked(agent).policies] == ["one", "two"]
    assert asked(agent).policies[1].min_version == 2, "as it would be written"
    assert asked(agent).delete == ["three", "four"]


def test_what_changes_is_told_and_is_exit_code_one(tmp_path: Path) -> None:
    with answering(tmp_path / "s", {Simulate: SIMULATED}):
        result = diff(tmp_path / "s", "--delete", "ghost")
    assert result.exit_code == Code.FOUND
    assert result.stderr == "warning: there is no policy ghost in force here to delete\n"
    lines = result.stdout.splitlines()
    assert lines[1].split()[:2] == ["app=guest", "app=db"]
    assert lines[3:] == [
        "",
        *(line for line in lines[4:6]),
        "(and 2 more flows)",
    ]
    assert lines[5].split() == [
        "edge-1/guest-1",
        "[fd00:88:1::4]:40312",
        "edge-2/shop/db-0",
        "[fd00:88:2::7]:22",
        "tcp",
        "yes",
        "denied",
    ]


@pytest.mark.parametrize(
    ("arguments", "stdin", "said"),
    [
        ([], "", "neither a file nor a policy to delete"),
        (["-"], "name: p\nselect: ]", "not YAML"),
        (["-"], "", "no policy in it"),
        (["none.yaml"], "", "cannot read it"),
    ],
)
def test_mistakes_are_told_before_any_agent_is_asked(
    tmp_path: Path, arguments: list[str], stdin: str, said: str
) -> None:
    result = diff(tmp_path / "none", *arguments, stdin=stdin)
    assert (result.exit_code, result.stdout) == (Code.INPUT, "")
    assert said in result.stderr


def test_what_is_too_long_to_ask_is_said_at_once(tmp_path: Path) -> None:
    for name in ("one", "two"):
        long = f"name: {name}\ndescription: {'x' * (LINE_LIMIT // 2)}\nselect: '*'\ningress: []\n"
        (tmp_path / name).write_text(long)
    with answering(tmp_path / "s", {Simulate: NOTHING}) as agent:
        result = diff(tmp_path / "s", tmp_path / "one", tmp_path / "two")
    assert (result.exit_code, agent.asked) == (Code.INPUT, [])
    assert f"too long (at most {LINE_LIMIT})" in result.stderr


def test_what_the_agent_refuses_is_an_error_of_ours(tmp_path: Path) -> None:
    with answering(tmp_path / "s", {Simulate: InputError("policy 'one' is named twice")}):
        result = diff(tmp_path / "s", "-", stdin=ONE)
    assert (result.exit_code, result.stderr) == (Code.INPUT, "meshfabric: policy 'one' is named twice\n")


def test_an_agent_without_etcd_knows_what_it_knew_last(tmp_path: Path) -> None:
    with answering(tmp_path / "s", {Simulate: {**NOTHING, "connected": False}}):
        result = diff(tmp_path / "s", "-", stdin=ONE)
    assert (result.exit_code, result.stdout) == (Code.OK, "")
    assert result.stderr.splitlines() == [
        "warning: the agent does not reach etcd: it compares with what it knew last",
        "no change",
    ]


def test_no_agent(tmp_path: Path) -> None:
    assert diff(tmp_path / "s", "-", stdin=ONE).exit_code == Code.UNAVAILABLE
