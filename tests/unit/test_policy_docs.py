"""docs/policy.md: its examples can be read, what it says is refused is, and its tables name every field."""

from typing import Any

import pytest

from meshfabric.config import read_policies
from meshfabric.k8s.translate import translate
from meshfabric.model.errors import InputError
from meshfabric.model.policytext import EgressText, IngressText, PolicyText
from meshfabric.model.yamltext import parse_documents
from tests.page import Page

PAGE = Page("docs/policy.md")
OURS = [text for text in PAGE.examples if "apiVersion" not in text]
THEIRS = [text for text in PAGE.examples if "apiVersion" in text]
FRAGMENTS = PAGE.refused()


def test_the_tables_name_every_field_and_no_other() -> None:
    assert PAGE.fields("## A document", "A rule:") == Page.encoded(PolicyText)
    assert PAGE.fields("A rule:", "###") == Page.encoded(IngressText, EgressText)


@pytest.mark.parametrize("text", OURS)
def test_an_example_can_be_read(text: str) -> None:
    assert read_policies(text, PAGE.path)


@pytest.mark.parametrize("text", THEIRS)
def test_an_object_is_the_example_that_follows_it(text: str) -> None:
    (said,) = read_policies(PAGE.examples[PAGE.examples.index(text) + 1], PAGE.path)
    assert translate(parse_documents(text, PAGE.path, dict[str, Any])) == [said]


@pytest.mark.parametrize("fragment", FRAGMENTS)
def test_what_is_said_to_be_refused_is(fragment: str) -> None:
    """Each fragment is the whole of a document but its name and whom it is about."""
    inner = fragment[1:-1] if fragment.startswith("{") else fragment
    with pytest.raises(InputError) as error:
        read_policies(f'{{name: p, select: "*", {inner}}}', PAGE.path)
    assert not error.value.what.startswith(("not YAML", "unknown key"))


def test_the_page_has_all_of_them() -> None:
    """What is not found is not tested."""
    assert (len(OURS), len(THEIRS)) == (7, 2)
    assert len(FRAGMENTS) == PAGE.refused_rows > 10
