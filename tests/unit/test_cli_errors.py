"""Each error ends in one line on stderr and in its exit code; the commands run as a person runs them."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from meshfabric.cli.app import app
from meshfabric.cli.exits import Code, DeniedError, FoundError, code_of
from meshfabric.model.errors import (
    InputError,
    MeshfabricError,
    PermanentError,
    TemporaryError,
    UnsupportedError,
)
from tests.fakes.agent import answering
from tests.fakes.agent_rows import ANSWERS
from tests.patience import DEADLINE_S

OBEYING_MODES = (
    ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--") if os.geteuid() == 0 else ()
)
"""Even root then may not open what has mode 0; the checkout need not be readable for somebody else."""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that everybody may enter, with a name short enough for a socket."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


def meshfabric(
    *arguments: str, before: tuple[str, ...] = (), **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    return subprocess.run(
        [*before, sys.executable, "-m", "meshfabric", *arguments],
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **environment},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


def only_line(done: subprocess.CompletedProcess[str]) -> str:
    """What stands on stderr, which is one line, while stdout is empty."""
    assert done.stdout == ""
    assert done.stderr.endswith("\n")
    assert done.stderr.count("\n") == 1
    return done.stderr.removesuffix("\n")


def test_no_agent(folder: Path) -> None:
    done = meshfabric("status", "--socket", str(folder / "none.sock"))
    assert done.returncode == Code.UNAVAILABLE
    assert only_line(done).startswith(f"meshfabric: {folder}/none.sock: the agent does not answer")


def test_an_agent_that_died_and_left_its_socket(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(folder / "agent.sock"))
    done = meshfabric("node", "list", MESHFABRIC_SOCKET=str(folder / "agent.sock"))
    assert done.returncode == Code.UNAVAILABLE
    assert "Connection refused" in only_line(done)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError("no such label", place="--label", remedy="ask"), Code.INPUT),
        (TemporaryError("etcd is away\nand so\x1b[2Jon", remedy="start it"), Code.UNAVAILABLE),
    ],
)
def test_what_the_agent_refuses(folder: Path, error: MeshfabricError, code: Code) -> None:
    with answering(folder / "agent.sock", {"paths": error}):
        done = meshfabric("path", "list", "--socket", str(folder / "agent.sock"))
    assert done.returncode == code
    assert only_line(done).isprintable()
    assert error.remedy in only_line(done)


def test_a_socket_that_is_not_for_us(folder: Path) -> None:
    with answering(folder / "agent.sock", ANSWERS):
        os.chmod(folder / "agent.sock", 0)
        done = meshfabric("status", "--socket", str(folder / "agent.sock"), before=OBEYING_MODES)
    assert done.returncode == Code.PERMISSION
    assert "permission denied (run as root" in only_line(done)


def test_a_file_that_is_not_for_us(folder: Path) -> None:
    (folder / "policies.yaml").touch(0)
    done = meshfabric("policy", "check", str(folder / "policies.yaml"), before=OBEYING_MODES)
    assert done.returncode == Code.PERMISSION
    assert "cannot read it: Permission denied" in only_line(done)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["stats"], "Did you mean 'status'?"),
        (["node", "list", "--colour"], "--colour"),
        (["node", "list", "-o", "xml"], "'xml' is not one of"),
        (["node", "show"], "NODE"),
        (["endpoint", "attach", "x"], "--netns"),
        (["endpoint", "attach", "x", "--netns", "/a", "--tap", "b"], "--netns"),
        (["endpoint", "attach", "x", "--tap", "b", "--device", "eth1"], "--netns"),
        (["endpoint", "attach", "x", "--tap", "b", "--label", "app"], "KEY=VALUE"),
    ],
)
def test_usage(arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(app, arguments)
    assert (result.exit_code, result.stdout) == (Code.USAGE, "")
    assert said in result.stderr


@pytest.mark.parametrize("noun", ["", "node", "endpoint", "path", "policy", "drop", "store", "lab"])
def test_a_noun_alone_lists_its_verbs(noun: str) -> None:
    result = CliRunner().invoke(app, noun.split())
    assert result.exit_code == Code.USAGE
    assert "Commands" in result.output


def test_bad_labels_are_found_before_the_agent_is_asked(folder: Path) -> None:
    for given, said in (["a=b/"], "a=b/"), (["a=b", "a=c"], "two values for a"):
        labels = [part for label in given for part in ("--label", label)]
        done = meshfabric("endpoint", "attach", "x", "--tap", "t", *labels)
        assert done.returncode == Code.INPUT
        assert said in only_line(done)


def test_names_that_are_not_there(folder: Path) -> None:
    with answering(folder / "agent.sock", ANSWERS):
        done = meshfabric("node", "show", "edge-9", MESHFABRIC_SOCKET=str(folder / "agent.sock"))
    assert done.returncode == Code.INPUT
    assert only_line(done) == (
        "meshfabric: no node 'edge-9' here (there is: edge-1, edge-3, hypervisor-frankfurt-07)"
    )


def test_interrupted_while_the_agent_thinks(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(folder / "agent.sock"))
        silent.listen()
        silent.settimeout(DEADLINE_S)
        # A shell may have us ignore SIGINT, which is inherited: --default-signal undoes that.
        command = ["env", "--default-signal=INT", sys.executable, "-m", "meshfabric", "status"]
        command += ["--socket", str(folder / "agent.sock")]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            link, _ = silent.accept()
            with link:
                assert link.recv(100)
                process.send_signal(signal.SIGINT)
                _, said = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == Code.INTERRUPTED
    assert "Traceback" not in said


def test_debugging_shows_the_traceback_before_the_line(folder: Path) -> None:
    done = meshfabric("status", "--socket", str(folder / "none.sock"), MESHFABRIC_DEBUG="1")
    assert done.returncode == Code.UNAVAILABLE
    assert done.stderr.startswith("Traceback (most recent call last):")
    assert done.stderr.splitlines()[-1].startswith("meshfabric: ")


def test_a_reader_that_goes_away_is_no_error_to_talk_about(folder: Path) -> None:
    with answering(folder / "agent.sock", ANSWERS):
        command = [sys.executable, "-m", "meshfabric", "drop", "list", "--socket", str(folder / "agent.sock")]
        reading, writing = os.pipe()
        os.close(reading)
        done = subprocess.run(
            command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=DEADLINE_S, check=False
        )
        os.close(writing)
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError("x"), 3),
        (PermanentError("x"), 3),
        (TemporaryError("x"), 4),
        (DeniedError("x"), 5),
        (FoundError("x"), 1),
        (UnsupportedError("x"), 1),
    ],
)
def test_codes(error: MeshfabricError, code: int) -> None:
    assert code_of(error) == code


def test_the_agent_gets_its_file_and_its_errors_are_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(config: Path) -> None:
        raise InputError("no uplinks", place=f"{config}:3")

    monkeypatch.setitem(sys.modules, "meshfabric.agent", SimpleNamespace(run=run))
    result = CliRunner().invoke(app, ["agent", "--config", "/etc/x.yaml"])
    assert (result.exit_code, result.stderr) == (Code.INPUT, "meshfabric: /etc/x.yaml:3: no uplinks\n")


def test_version() -> None:
    assert meshfabric("--version").stdout == "meshfabric 0.1.0\n"
