"""What the listings print, compared with files in tests/golden/cli.

After a change that is meant: `python -m tests.unit.test_cli_listings`, and read the difference.
"""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from meshfabric.cli.app import app
from meshfabric.cli.exits import Code
from tests.fakes.agent import answering
from tests.fakes.agent_rows import ANSWERS

GOLDEN = Path(__file__).parents[1] / "golden" / "cli"
SHOWN = (
    "status",
    "node list",
    "node show edge-1",
    "endpoint list",
    "path list",
    "path show edge-3",
    "uplink list",
    "key list",
    "key show mfwg00b",
    "policy list",
    "policy audit",
    "policy diff --delete ghost",
    "class list",
    "drop list",
    "doctor",
)
WIDTHS = {"pipe": "", "80": "80", "120": "120"}
CASES = [(shown, output, "") for shown in SHOWN for output in ("json", "yaml")]
CASES += [(shown, "table", width) for shown in SHOWN for width in WIDTHS]


def golden(shown: str, output: str, width: str) -> Path:
    """The file for one case: `node-list.table-80.txt`."""
    return GOLDEN / f"{shown.replace(' --', ' ').replace(' ', '-')}.{output}{'-' if width else ''}{width}.txt"


def printed(socket: Path, shown: str, output: str, width: str) -> str:
    """Stdout of one listing."""
    environment = {"MESHFABRIC_SOCKET": str(socket), "COLUMNS": WIDTHS.get(width) or None, "NO_COLOR": None}
    result = CliRunner(env=environment).invoke(app, [*shown.split(), "--output", output])
    assert result.exit_code == (Code.FOUND if "diff" in shown else Code.OK), result.output
    return result.stdout


@pytest.fixture(scope="module")
def socket() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder, answering(Path(folder, "agent.sock"), ANSWERS):
        yield Path(folder, "agent.sock")


@pytest.mark.parametrize(("shown", "output", "width"), CASES)
def test_golden(socket: Path, shown: str, output: str, width: str) -> None:
    assert printed(socket, shown, output, width) == golden(shown, output, width).read_text("utf-8")


def test_every_golden_file_belongs_to_a_case() -> None:
    assert {golden(*case) for case in CASES} == set(GOLDEN.iterdir())


@pytest.mark.parametrize(
    "shown",
    [
        "node list",
        "endpoint list",
        "path list",
        "uplink list",
        "key list",
        "policy list",
        "class list",
        "drop list",
    ],
)
def test_nothing_to_list(tmp_path: Path, shown: str) -> None:
    nothing: dict[str, list[object]] = {subject: [] for subject in ANSWERS}
    with answering(tmp_path / "agent.sock", nothing):
        runner = CliRunner(env={"MESHFABRIC_SOCKET": str(tmp_path / "agent.sock")})
        table = runner.invoke(app, shown.split())
        assert (table.stdout, table.exit_code) == ("", 0)
        assert table.stderr.startswith("no ")
        assert runner.invoke(app, [*shown.split(), "-o", "json"]).stdout == "[]\n"


def test_unheard_of_keys_are_no_matter_and_missing_ones_are_dashes(tmp_path: Path) -> None:
    with answering(tmp_path / "agent.sock", {"nodes": [{"node": "a", "moon": "full"}]}):
        result = CliRunner().invoke(app, ["node", "list", "--socket", str(tmp_path / "agent.sock")])
    assert result.stdout.splitlines()[1].split() == ["a", *["-"] * 8]


def _write() -> None:
    os.environ.pop("COLUMNS", None)
    with tempfile.TemporaryDirectory() as folder, answering(Path(folder, "agent.sock"), ANSWERS):
        for case in CASES:
            golden(*case).write_text(printed(Path(folder, "agent.sock"), *case), "utf-8")


if __name__ == "__main__":
    _write()
