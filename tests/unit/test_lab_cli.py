"""`meshfabric lab` as a person meets it, where no lab and no root are needed."""

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from meshfabric.cli.lab import lab_app
from meshfabric.lab import render, state, status, svg
from meshfabric.lab.records import Topology
from meshfabric.lab.topology import default_text, read
from meshfabric.model.errors import InputError, PermanentError

SMALL = """\
fabric: small
segments: [{name: red, ipv4: 172.31.1.0/24}]
nodes: [{name: only, uplinks: [{name: up0, segment: red}]}]
"""


@pytest.fixture(autouse=True)
def no_labs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever labs this machine has, these tests see none."""
    monkeypatch.setattr(state, "ROOT", tmp_path / "labs")


def lab(*arguments: str, stdin: str = "") -> Result:
    return CliRunner().invoke(lab_app, list(arguments), input=stdin)


def default() -> Topology:
    return read(default_text(), "default.yaml")


def test_render_draws_the_built_in_lab() -> None:
    assert lab("render").stdout == render.text(default())


def test_render_draws_a_file(tmp_path: Path) -> None:
    path = tmp_path / "lab.yaml"
    path.write_text(SMALL)
    assert lab("render", str(path)).stdout.startswith("fabric small   10.64.0.0/16")


def test_render_reads_standard_input() -> None:
    assert lab("render", "-", stdin=SMALL).stdout.startswith("fabric small")


def test_render_keeps_to_a_width() -> None:
    assert lab("render", "--width", "60").stdout == render.text(default(), 60)


def test_render_writes_svg(tmp_path: Path) -> None:
    path = tmp_path / "lab.svg"
    assert lab("render", "--svg", str(path)).stdout == ""
    assert path.read_text() == svg.svg(default())
    assert lab("render", "--svg", "-").stdout == svg.svg(default())


def test_a_mistake_in_a_file_has_its_line() -> None:
    failed = lab("render", "-", stdin=SMALL.replace("ipv4", "ip4"))
    assert isinstance(failed.exception, InputError)
    assert str(failed.exception) == "-:2: segments[0].ip4: unknown key (did you mean 'ipv4'?)"


@pytest.mark.parametrize("command", ["up", "render"])
def test_a_file_that_is_not_there_is_named(command: str, tmp_path: Path) -> None:
    failed = lab(command, str(tmp_path / "none.yaml"))
    assert isinstance(failed.exception, InputError)
    assert str(failed.exception) == f"{tmp_path}/none.yaml: cannot be read: No such file or directory"


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "lab.yaml"
    path.write_bytes(b"\xff\xfe")
    assert str(lab("render", str(path)).exception) == f"{path}: not UTF-8 text (is it YAML?)"


@pytest.mark.parametrize(
    "arguments", [("status",), ("cut", "a", "up0"), ("heal", "a", "up0"), ("exec", "a", "--", "true")]
)
def test_without_a_lab_one_is_told_how_to_raise_it(arguments: tuple[str, ...]) -> None:
    failed = lab(*arguments)
    assert isinstance(failed.exception, PermanentError)
    assert str(failed.exception) == "no lab 'lab' (raise it: meshfabric lab up)"


def test_down_without_a_lab_is_no_error() -> None:
    ended = lab("down", "--name", "other")
    assert (ended.exit_code, ended.stderr) == (0, "lab other: there was none\n")


@pytest.mark.parametrize("name", ["../etc", "", "A", "x" * 25, "-x"])
def test_a_labs_name_is_no_path(name: str) -> None:
    failed = lab("down", f"--name={name}")
    assert isinstance(failed.exception, InputError)
    assert "is no valid name" in str(failed.exception)


def test_list_and_status_show_what_is_left_of_a_crash(tmp_path: Path) -> None:
    (tmp_path / "labs" / "gone").mkdir(parents=True)
    assert status.labs() == [{"lab": "gone", "state": "dead", "nodes": None, "workloads": None}]
    assert lab("list").stdout.split() == ["LAB", "STATE", "NODES", "WORKLOADS", "gone", "dead", "-", "-"]
    assert str(lab("status").exception) == "no lab 'lab' (there is: gone)"
    dead = "lab 'gone' is dead (clean up: meshfabric lab down --name gone)"
    assert str(lab("status", "--name", "gone").exception) == dead
    assert lab("down", "--all").stderr == "lab gone: there was none\n"
    assert status.labs() == []


def test_a_state_of_another_version_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "labs" / "old"
    folder.mkdir(parents=True)
    (folder / "state.json").write_text("{}")
    failed = lab("status", "--name", "old")
    assert str(failed.exception).startswith(f"{folder}/state.json: not a lab of this version: ")
