"""docs/policy.md: its examples can be read, what it says is refused is, and its tables name every field."""

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from meshfabric.config import read_policies
from meshfabric.k8s.translate import translate
from meshfabric.model.errors import InputError
from meshfabric.model.policytext import EgressText, IngressText, PolicyText
from meshfabric.model.yamltext import parse_documents

PAGE = "docs/policy.md"
TEXT = (Path(__file__).parents[2] / PAGE).read_text()
EXAMPLES = re.findall(r"^```yaml\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
OURS = [text for text in EXAMPLES if "apiVersion" not in text]
THEIRS = [text for text in EXAMPLES if "apiVersion" in text]
REFUSED = TEXT.partition("## What is refused")[2].partition("## ")[0]
FRAGMENTS = re.findall(r"^\| `(.+?)` \|", REFUSED, re.MULTILINE)


def fields(heading: str, end: str) -> set[str]:
    """The names in the first column of the tables between two lines."""
    part = TEXT.partition(heading)[2].partition(end)[0]
    columns = re.findall(r"^\| (`.+?) \|", part, re.MULTILINE)
    return {name for column in columns for name in re.findall("`(.+?)`", column)}


def encoded(*kinds: type[msgspec.Struct]) -> set[str]:
    """The fields of records as they are written."""
    return {field.encode_name for kind in kinds for field in msgspec.structs.fields(kind)}


def test_the_tables_name_every_field_and_no_other() -> None:
    assert fields("## A document", "A rule:") == encoded(PolicyText)
    assert fields("A rule:", "###") == encoded(IngressText, EgressText)


@pytest.mark.parametrize("text", OURS)
def test_an_example_can_be_read(text: str) -> None:
    assert read_policies(text, PAGE)


@pytest.mark.parametrize("text", THEIRS)
def test_an_object_is_the_example_that_follows_it(text: str) -> None:
    (said,) = read_policies(EXAMPLES[EXAMPLES.index(text) + 1], PAGE)
    assert translate(parse_documents(text, PAGE, dict[str, Any])) == [said]


@pytest.mark.parametrize("fragment", FRAGMENTS)
def test_what_is_said_to_be_refused_is(fragment: str) -> None:
    """Each fragment is the whole of a document but its name and whom it is about."""
    inner = fragment[1:-1] if fragment.startswith("{") else fragment
    with pytest.raises(InputError) as error:
        read_policies(f'{{name: p, select: "*", {inner}}}', PAGE)
    assert not error.value.what.startswith(("not YAML", "unknown key"))


def test_the_page_has_all_of_them() -> None:
    """What is not found is not tested."""
    assert (len(OURS), len(THEIRS)) == (7, 2)
    assert len(FRAGMENTS) == REFUSED.count("\n| `") > 10
