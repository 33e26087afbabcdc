"""What a command imports: it must not pay for what it does not use."""

import subprocess
import sys
from pathlib import Path

import pytest

from meshfabric.api.messages import Release
from tests.fakes.agent import answering
from tests.fakes.agent_rows import ANSWERS
from tests.patience import DEADLINE_S

SLOW = {"grpc", "google", "pyroute2", "yaml", "pydantic", "asyncio", "prometheus_client"}
OTHERS = {
    f"meshfabric.{part}" for part in ("agent", "lab", "kernel", "store", "compiler", "config", "reconcile")
}
QUICK = (
    "--help",
    "--version",
    "status",
    "status -o json",
    "node list",
    "path list",
    "endpoint list -o json",
    "policy list",
    "policy --help",
    "class list",
    "class --help",
    "drop list",
    "doctor",
    "store release",
    "agent --help",
)
RUN = """
import sys
from meshfabric.__main__ import main
sys.argv[0] = "meshfabric"
code = main()
print("imported", *sys.modules, file=sys.stderr)
sys.exit(code)
"""


def imported(socket: Path, arguments: str) -> set[str]:
    """The modules that are there when the command has ended."""
    command = [sys.executable, "-c", RUN, *arguments.split()]
    done = subprocess.run(
        command,
        env={"MESHFABRIC_SOCKET": str(socket)},
        capture_output=True,
        text=True,
        timeout=2 * DEADLINE_S,
        check=True,
    )
    return set(done.stderr.rpartition("imported ")[2].split())


@pytest.mark.parametrize("arguments", QUICK)
def test_nothing_slow(tmp_path: Path, arguments: str) -> None:
    with answering(tmp_path / "agent.sock", {**ANSWERS, Release: None}):
        modules = imported(tmp_path / "agent.sock", arguments)
    assert "meshfabric.cli.app" in modules
    assert modules & (SLOW | OTHERS) == set()


def test_the_lab_is_imported_only_for_the_lab(tmp_path: Path) -> None:
    assert "meshfabric.cli.lab" in imported(tmp_path, "lab --help")
    assert "meshfabric.cli.lab" not in imported(tmp_path, "--help")
