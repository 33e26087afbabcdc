"""What the doctor says with and without an agent; probing itself is tested with `kernel.features`."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from meshfabric.cli.app import app
from meshfabric.cli.doctor import remedy
from meshfabric.cli.exits import Code
from meshfabric.kernel import features
from meshfabric.kernel.features import Feature
from meshfabric.model.errors import PermanentError
from tests.fakes.agent import answering
from tests.features import requires

FOUND = [
    Feature("bpf", True, "a program loads and runs", True, "4.4"),
    Feature("tcx", False, "Invalid argument", True, "6.6"),
    Feature("wg", False, "no such program", True),
    Feature("netkit", False, "Operation not supported", False, "6.7"),
]


def run(socket: Path, *arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": None}).invoke(app, ["doctor", "--socket", str(socket), *arguments])


def rows(found: list[Feature]) -> list[dict[str, Any]]:
    return [
        {
            "feature": one.name,
            "present": one.present,
            "needed": one.needed,
            "since": one.since_kernel,
            "detail": one.detail,
        }
        for one in found
    ]


def test_something_needed_is_missing(tmp_path: Path) -> None:
    with answering(tmp_path / "agent.sock", {"features": rows(FOUND)}):
        result = run(tmp_path / "agent.sock")
    assert result.exit_code == Code.FOUND
    assert result.stderr.splitlines() == [
        "tcx is missing: boot Linux 6.6 or newer with it built in",
        "wg is missing: install the package wireguard-tools",
        "meshfabric: this machine lacks tcx, wg (see above)",
    ]


def test_all_that_is_needed_is_there(tmp_path: Path) -> None:
    with answering(tmp_path / "agent.sock", {"features": rows(FOUND[:1] + FOUND[3:])}):
        result = run(tmp_path / "agent.sock", "-o", "json")
    assert (result.exit_code, result.stderr) == (Code.OK, "this machine has all that is needed\n")
    assert '"feature": "netkit"' in result.stdout


def test_without_an_agent_it_tries_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "probe", lambda: FOUND[:1])
    result = run(tmp_path / "none.sock")
    assert result.exit_code == Code.OK
    assert result.stderr.startswith("no agent answers: this was tried now")
    assert result.stdout.splitlines()[1].split(None, 4) == [
        "bpf",
        "yes",
        "yes",
        "4.4",
        "a program loads and runs",
    ]


def test_trying_may_be_forbidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> list[Feature]:
        raise PermanentError("no new namespaces", remedy="run as root") from PermissionError()

    monkeypatch.setattr(features, "probe", refuse)
    assert run(tmp_path / "none.sock").exit_code == Code.PERMISSION


@requires("capabilities")
def test_every_feature_has_something_to_do_about_it() -> None:
    """Whatever the kernel's list grows to: a remedy that names a package or a kernel."""
    for row in rows(features.probe()):
        assert row["since"] or row["feature"] in ("capabilities", "libbpf", "wg", "wireguard-go")
        assert remedy(row) != "see the detail above"
