"""Label sets and selectors: what they mean, what they read like, and what is refused in which words."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshfabric.model.errors import InputError
from meshfabric.model.labels import (
    Labels,
    Selector,
    Term,
    check_labels,
    forget_labels,
    format_labels,
    format_selector,
    make_labels,
    matches,
    parse_selector,
)
from tests.vocabulary import LABEL_SETS, MEANING, NODE_MEANING, SELECTORS

REMEDY = "use =, !=, in (..), notin (..), key or !key, separated by commas"

words = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9_./-]{0,6}[A-Za-z0-9])?", fullmatch=True)
values = words | st.just("")


def _term(key: str, op: str, wanted: list[str]) -> Term:
    return Term(key, op, tuple(sorted(wanted)) if op in ("in", "notin") else ())


terms = st.builds(
    _term,
    words,
    st.sampled_from(["in", "notin", "exists", "absent"]),
    st.lists(values, min_size=1, max_size=3, unique=True),
)
selectors: st.SearchStrategy[Selector] = st.lists(terms, max_size=4).map(lambda many: tuple(sorted(many)))
pairs = st.dictionaries(words, values, max_size=5)


@given(selectors)
def test_a_selector_reads_back_as_itself(selector: Selector) -> None:
    text = format_selector(selector)
    assert parse_selector(text) == selector
    assert parse_selector(f"  {text}\n".replace(",", " ,")) == selector


@given(selectors, pairs)
def test_matching_is_what_each_term_says(selector: Selector, given: dict[str, str]) -> None:
    def holds(term: Term) -> bool:
        if term.op == "exists":
            return term.key in given
        if term.op == "absent":
            return term.key not in given
        if term.op == "in":
            return term.key in given and given[term.key] in term.values
        return term.key not in given or given[term.key] not in term.values

    assert matches(selector, make_labels(given)) == all(map(holds, selector))


@pytest.mark.parametrize("text", SELECTORS)
@pytest.mark.parametrize("labels", LABEL_SETS)
def test_selectors_mean_what_they_say(text: str, labels: Labels) -> None:
    assert matches(parse_selector(text), labels) == SELECTORS[text](dict(labels))


@pytest.mark.parametrize("labels", LABEL_SETS)
def test_the_oracles_table_says_what_selectors_mean(labels: Labels) -> None:
    """The hosts of nodes among them, which are written as `{node: n2}`."""
    assert len(MEANING) == len(SELECTORS) + len(NODE_MEANING), "no two texts are one selector"
    for selector, says in MEANING.items():
        assert matches(selector, labels) == says(dict(labels)), selector


@given(pairs, pairs)
def test_a_mapping_selects_what_has_all_its_pairs(wanted: dict[str, str], given: dict[str, str]) -> None:
    selector = parse_selector(wanted)
    assert matches(selector, make_labels(given)) == (wanted.items() <= given.items())
    assert parse_selector(format_selector(selector)) == selector


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("", "*"),
        ("a==b", "a=b"),
        ("a in (b)", "a=b"),
        ("a notin(b)", "a!=b"),
        ("a in ()", "a="),
        ("b,a", "a, b"),
        ("! a", "!a"),
        ("a in (c,b,c)", "a in (b, c)"),
        ("in in (notin)", "in=notin"),
    ],
)
def test_one_meaning_has_one_text(text: str, same: str) -> None:
    assert format_selector(parse_selector(text)) == same


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("app~web", "app~web"),
        ("app=web, tier>3", "tier>3"),
        ("tier within (gold)", "tier within (gold)"),
        ("tier IN (gold)", "tier IN (gold)"),
        ("tier in gold", "tier in gold"),
        ("tier in (gold", "tier in (gold"),
        ("tier in (two words)", "tier in (two words)"),
        ("tier in (a=b)", "tier in (a=b)"),
        ("app=web tier=gold", "app=web tier=gold"),
        ("app=web,", "app=web,"),
        ("app=web,,tier", ",tier"),
        (",app", ",app"),
        ("app=-", "app=-"),
        ("a=b\n~", "a=b\n~"),
        ("*, app", "*, app"),
        ("\u00e4pp=web", "\u00e4pp=web"),
        ("k" * 254, "k" * 254),
    ],
)
def test_what_cannot_be_read_is_named(text: str, at: str) -> None:
    with pytest.raises(InputError) as error:
        parse_selector(text, "p.yaml:4: select")
    assert str(error.value) == f"p.yaml:4: select: cannot read selector at {at!r} ({REMEDY})"


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ({"a b": "c"}, "'a b=c'"),
        ({"": "c"}, "'=c'"),
        ({"a": "-"}, "'a=-'"),
        ({"a": "x\ny"}, r"'a=x\ny'"),
        ({"a": "x" * 254}, repr("a=" + "x" * 254)),
        ({"k" * 254: ""}, repr("k" * 254 + "=")),
        ({"a": "b,c"}, "'a=b,c'"),
    ],
)
def test_bad_labels_are_named(given: Mapping[str, str], shown: str) -> None:
    expected = f"nodes/a: bad label {shown} (letters, digits and -_./ only, at most 253)"
    for check in (check_labels, make_labels, parse_selector):
        with pytest.raises(InputError) as error:
            check(given, "nodes/a")
        assert str(error.value) == expected


def test_too_many_labels_are_refused() -> None:
    with pytest.raises(InputError) as error:
        make_labels({f"k{number}": "" for number in range(65)}, "endpoints/a/10.0.0.1")
    assert str(error.value) == "endpoints/a/10.0.0.1: 65 labels (keep to 64)"
    assert len(make_labels({f"k{number}": "" for number in range(64)})) == 64


def test_the_longest_words_are_accepted() -> None:
    longest = "k" * 253
    assert matches(parse_selector(f"{longest}={longest}"), make_labels({longest: longest}))


@given(pairs)
def test_equal_label_sets_are_one_object(given: dict[str, str]) -> None:
    labels = make_labels(given)
    assert make_labels(dict(reversed(given.items()))) is labels
    assert labels == tuple(sorted(given.items()))
    assert format_labels(labels) == ",".join(f"{key}={given[key]}" for key in sorted(given))


def test_a_forgotten_set_is_made_anew_and_equal() -> None:
    labels = make_labels({"only": "here"})
    forget_labels(labels)
    forget_labels(labels)
    assert make_labels({"only": "here"}) == labels
