"""docs/guard.md: its file is taken, its commands exist, its paths too. tests/kernel shows what it shows."""

import re
from pathlib import Path

import pytest
from msgspec import NODEFAULT, structs
from typer.testing import CliRunner

from meshfabric.cli.app import app
from meshfabric.cli.exits import Code
from meshfabric.guard.file import Guard, parse
from meshfabric.guard.ruleset import ROUTE_METRIC

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "guard.md").read_text()
BLOCKS = re.findall(r"^```\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
FILE = next(block for block in BLOCKS if block.startswith("fabric:"))
LINES = [line for block in BLOCKS for line in block.splitlines()]
COMMANDS = [line for line in LINES if line.startswith("meshfabric ")]
INSTALLED = [line for line in LINES if line.startswith("install ")]
ROW = re.compile(r"^\| `(\w+)` \| *(.*?) *\| .* \|$", re.MULTILINE)


def test_the_file_is_taken() -> None:
    found = parse(FILE, "guard.yaml")
    assert found == Guard("prod", ("10.64.0.0/16", "fd6d:6600::/48"), "mf", ("br-local", "vnet*"))
    assert f"(metric {ROUTE_METRIC})" in TEXT


def test_every_key_is_named_with_its_default() -> None:
    said = {key: default.strip("`") for key, default in ROW.findall(TEXT)}
    assert said == {field.name: word(field.default) for field in structs.fields(Guard)}


def word(default: object) -> str:
    """How the page writes a default."""
    if default is NODEFAULT:
        return ""
    return str(default) if default else "none"


def test_the_commands_are_all_there() -> None:
    assert {command.split()[1] for command in COMMANDS} == {"guard", "detach"}
    assert {command.split()[2] for command in COMMANDS if " guard " in command} == {
        "render",
        "up",
        "status",
        "down",
    }


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_knows_its_options(command: str) -> None:
    result = CliRunner().invoke(app, [*command.split()[1:], "--help"])
    assert result.exit_code == Code.OK, result.stderr


def test_what_is_to_be_installed_is_there_and_goes_where_it_is_read() -> None:
    folder = ROOT / "deploy" / "systemd"
    wanted = {file.relative_to(folder) for file in folder.rglob("*") if file.is_file()}
    given = [(Path(line.split()[-2]), Path(line.split()[-1])) for line in INSTALLED]
    assert {ROOT / source for _, source in given} == {folder / file for file in wanted}
    for target, source in given:
        assert target / source.name == Path("/etc/systemd/system") / (ROOT / source).relative_to(folder)
