"""docs/qos.md: its examples can be read, what it says is refused is, and its tables say what there is."""

import re

import pytest

from meshfabric.config import read_classes
from meshfabric.model.classtext import ClassText, MatchText, PathText, TcpText, UplinkText, WorkloadText
from meshfabric.model.dscp import format_dscp
from meshfabric.model.errors import InputError
from meshfabric.model.qos import BUILT_IN, MAX_OWN, NUMBERS
from tests.page import Page

PAGE = Page("docs/qos.md")
FRAGMENTS = PAGE.refused()


def test_the_tables_name_every_field_and_no_other() -> None:
    assert PAGE.fields("## A document", "A match,") == Page.encoded(ClassText)
    for struct, heading, end in (
        (MatchText, "A match,", "`uplink`:"),
        (UplinkText, "`uplink`:", "`workload`:"),
        (WorkloadText, "`workload`:", "`path`:"),
        (PathText, "`path`:", "`tcp`:"),
        (TcpText, "`tcp`:", "###"),
    ):
        assert PAGE.fields(heading, end) == Page.encoded(struct)


def test_the_built_in_classes_are_these() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| (\d) \| `(\w+)` \| (\w+) \|", PAGE.text, re.MULTILINE)
    assert rows == [
        (name, str(NUMBERS[name]), str(one.priority), format_dscp(one.dscp), one.prefer.value)
        for name, one in BUILT_IN.items()
    ]
    assert f"there may be {MAX_OWN} classes" in PAGE.text


@pytest.mark.parametrize("text", PAGE.examples)
def test_an_example_can_be_read(text: str) -> None:
    assert read_classes(text, PAGE.path)


@pytest.mark.parametrize("fragment", FRAGMENTS)
def test_what_is_said_to_be_refused_is(fragment: str) -> None:
    with pytest.raises(InputError) as error:
        read_classes(f"{{name: c, {fragment}}}", PAGE.path)
    assert not error.value.what.startswith(("not YAML", "unknown key"))


def test_the_page_has_all_of_them() -> None:
    """What is not found is not tested."""
    assert len(PAGE.examples) == 2
    assert len(FRAGMENTS) == PAGE.refused_rows > 10
