"""docs/cli.md says what the commands say."""

from pathlib import Path

from meshfabric.cli.app import COMMANDS, load
from meshfabric.cli.reference import LISTINGS, render
from tests.fakes.agent_rows import ANSWERS, SIMULATED

DOCUMENT = Path(__file__).parents[2] / "docs" / "cli.md"


def test_the_document_is_up_to_date() -> None:
    assert DOCUMENT.read_text("utf-8") == render(), "run python -m meshfabric.cli.reference > docs/cli.md"


def test_every_noun_is_described_alike_in_both_lists() -> None:
    for name, late in COMMANDS.items():
        assert load(name).help.splitlines()[0] == late.help


def test_the_keys_of_listings_are_those_of_the_rows() -> None:
    subjects = {
        "node": "nodes",
        "endpoint": "endpoints",
        "path": "paths",
        "key": "keys",
        "policy": "policies",
        "policy audit": "audits",
        "class": "classes",
        "drop": "drops",
    }
    for name, columns in LISTINGS.items():
        subject = subjects.get(name) or subjects.get(name.split()[0], "features")
        rows = SIMULATED["changes"] if name == "policy diff" else ANSWERS[subject]
        assert [column.key for column in columns] == list(rows[0])
