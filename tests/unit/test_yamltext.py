"""YAML text to typed values: what is read, and the one line that is said when it cannot be."""

import enum
from typing import Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshfabric.model import yamltext
from meshfabric.model.errors import InputError
from meshfabric.model.yamltext import locate, parse, parse_documents, suggest


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Allow(msgspec.Struct, tag="allow", frozen=True):
    ports: list[int] = []


class Deny(msgspec.Struct, tag="deny", frozen=True):
    reason: str = ""


class Uplink(msgspec.Struct, frozen=True):
    name: str
    mtu: int | None = None


class Node(msgspec.Struct, frozen=True, rename={"vlan_id": "vlan-id"}):
    name: str
    kind: Literal["vm", "metal"] = "vm"
    labels: dict[str, str] = {}
    uplinks: list[Uplink] = []
    colour: Colour = Colour.RED
    rule: Allow | Deny | None = None
    vlan_id: int = 0
    pair: tuple[int, str] | None = None


class Lab(msgspec.Struct, frozen=True):
    nodes: list[Node]
    on: bool = False

    def __post_init__(self) -> None:
        if len(self.nodes) > 3:
            raise ValueError("at most 3 nodes")


GOOD = """\
nodes:
  - name: a            # the first
    labels: {app: web, version: "1"}
    uplinks:
      - name: up0
        mtu: 1500
  - name: b
    kind: metal
    colour: blue
    rule: {type: allow, ports: [80, 0x50]}
"""


def error(text: str, type: type = Lab) -> str:
    with pytest.raises(InputError) as caught:
        parse(text, "lab.yaml", type)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_good_document_becomes_its_type() -> None:
    lab = parse(GOOD, "lab.yaml", Lab)
    assert lab.nodes[0] == Node("a", labels={"app": "web", "version": "1"}, uplinks=[Uplink("up0", 1500)])
    assert lab.nodes[1] == Node("b", "metal", colour=Colour.BLUE, rule=Allow([80, 80]))


def test_several_documents_keep_their_order_and_empty_ones_go() -> None:
    text = "---\nname: a\n---\n# nothing\n---\nname: b\n"
    assert parse_documents(text, "x", Uplink) == [Uplink("a"), Uplink("b")]
    assert parse_documents("# only a comment\n", "x", Uplink) == []


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", "yes"),
        ("on", "on"),
        ("52:54:00:12:34:56", "52:54:00:12:34:56"),
        ("12:30", "12:30"),
        ("2026-01-01", "2026-01-01"),
        ("1_000", "1_000"),
        ("010", 10),
        ("0x1f", 31),
        ("0o17", 15),
        ("-3", -3),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        (".inf", ".inf"),
        ("True", True),
        ("~", None),
        ("", None),
        ('"1"', "1"),
        ("!!str 1", "1"),
        ("9" * 30, float("9" * 30)),
        ("fd6d:6600::/48", "fd6d:6600::/48"),
    ],
)
def test_scalars_follow_yaml_1_2(text: str, value: object) -> None:
    assert parse(f"key: {text}", "x", dict) == {"key": value}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nodes:\n- name: a\n  knd: vm\n", "3: nodes[0].knd: unknown key (did you mean 'kind'?)"),
        ("nodes: []\nzzz: 1\n", "2: zzz: unknown key (one of nodes, on)"),
        ("nodes:\n- name: a\n- kind: vm\n", "3: nodes[1]: the key 'name' is missing (add it)"),
        ("nodes:\n- name: a\n  vlan_id: 1", "3: nodes[0].vlan_id: unknown key (did you mean 'vlan-id'?)"),
        ("nodes:\n- name: a\n  kind: vmm", "3: nodes[0].kind: unknown kind 'vmm' (did you mean 'vm'?)"),
        (
            "nodes:\n- name: a\n  colour: green",
            "3: nodes[0].colour: unknown colour 'green' (one of red, blue)",
        ),
        (
            "nodes:\n- name: a\n  rule:\n    type: alow",
            "4: nodes[0].rule.type: unknown type 'alow' (did you mean 'allow'?)",
        ),
        (
            "nodes:\n- name: a\n  rule:\n    ports: []",
            "3: nodes[0].rule: the key 'type' is missing (one of allow, deny)",
        ),
        (
            "nodes:\n- name: a\n  rule:\n    type: deny\n    reson: no",
            "5: nodes[0].rule.reson: unknown key (did you mean 'reason'?)",
        ),
        ("nodes:\n- name: a\non: yes", "3: on: expected true or false, got 'yes'"),
        ("nodes:\n- name: 5", '2: nodes[0].name: expected text, got 5 (put it in quotes: "5")'),
        ("nodes: {}", "1: nodes: expected a list, got a mapping"),
        ("- a", "1: expected a mapping, got a list"),
        (
            "nodes:\n- name: a\n  labels:\n    app: web\n    version: 1.10\n    tier: front",
            '5: nodes[0].labels.version: expected text, got 1.1 (put it in quotes: "1.1")',
        ),
        (
            "nodes:\n- name: a\n  labels:\n    app: web\n    8: x",
            '5: nodes[0].labels[8]: the key itself: expected text, got 8 (put it in quotes: "8")',
        ),
        (
            "nodes:\n- name: a\n  uplinks:\n  - name: u\n    mtu: big",
            "5: nodes[0].uplinks[0].mtu: expected a whole number or nothing, got 'big'",
        ),
        ("nodes:\n- name: a\n  pair: [1]", "3: nodes[0].pair: expected a list of length 2, got 1"),
        ("nodes:\n" + "- name: a\n" * 4, "1: at most 3 nodes"),
        ("nodes: []\nnodes: []", "2: the key 'nodes' is given twice (first in line 1)"),
        ("nodes: []\n---\nnodes: []", "3: a second document begins here (only one is allowed in this file)"),
        (
            "a: &x 1\nb: *y",
            "2: no anchor &y for the alias *y (an alias must follow the end of its anchor; "
            "a text that begins with * needs quotes)",
        ),
        (
            "base: &x {a: 1}\nnodes:\n  <<: *x",
            "3: merge keys (<<) are not understood (write the keys out)",
        ),
        (
            "a: !!python/name:os.system x",
            "1: the tag 'tag:yaml.org,2002:python/name:os.system' is not understood (leave it out)",
        ),
        ("a: {[1]: 2}", "1: a key must be a word or a number (put {...} and [...] in quotes)"),
        ("{~: 2}", "1: a key must be a word or a number (put {...} and [...] in quotes)"),
    ],
)
def test_a_fault_is_one_line_with_place_and_remedy(text: str, message: str) -> None:
    assert error(text) == f"lab.yaml:{message}"


def test_an_empty_document_is_refused() -> None:
    assert error("") == "lab.yaml: the document is empty (nothing but comments was found)"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a:\n\tb: 1", 2),
        ("a: 1\n b: 2", 2),
        ("a: [1,\nb: 2\n", 3),
        ('a: "x\n', 2),
        ("a: 1\nb: \x07", 2),
        ("@", 1),
    ],
)
def test_broken_syntax_is_one_line(text: str, line: int) -> None:
    assert error(text).startswith(f"lab.yaml:{line}: ")


def test_tabs_get_their_remedy() -> None:
    assert error("a:\n\tb: 1").endswith("(indent with spaces, not tabs)")


def test_the_second_documents_lines_count_from_the_files_top() -> None:
    with pytest.raises(InputError, match=r"^x:4: nme: unknown key"):
        parse_documents("name: a\n---\n\nnme: b\n", "x", Uplink)


def test_aliases_are_bounded() -> None:
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    assert "more than 100000 values" in error("\n".join(rows), dict)


def test_an_alias_repeats_its_anchor() -> None:
    found = parse("nodes:\n- &n {name: a}\n- *n\n", "x", Lab)
    assert found.nodes == [Node("a"), Node("a")]


def test_an_alias_to_itself_is_refused() -> None:
    assert "no anchor" in error("a: &a [*a]", dict)


@pytest.mark.parametrize("text", ["[" * 100_000, "{a: " * 5_000, "- " * 5_000, "? " * 5_000])
def test_nesting_is_bounded(text: str) -> None:
    assert error(text, list).startswith("lab.yaml:1: ")


def test_size_is_bounded() -> None:
    assert "split it into several files" in error("a" * (yamltext.MAX_CHARACTERS + 1))


def test_semantic_errors_are_raised_at_a_path() -> None:
    lab = locate(GOOD, "lab.yaml", Lab)
    assert lab.at("nodes", 0, "uplinks", 0, "mtu") == "lab.yaml:6"
    assert lab.at("nodes", 1) == "lab.yaml:7"
    assert lab.at("nodes", 1, "labels", "app") == "lab.yaml:7"
    assert lab.at() == "lab.yaml:1"
    wrong = lab.error("too small", "nodes", 0, "uplinks", 0, "mtu", remedy="at least 1280")
    assert str(wrong) == "lab.yaml:6: too small (at least 1280)"


def test_the_culprit_among_many_entries_is_found() -> None:
    entries = "".join(f"  k{i}: v\n" for i in range(1000))
    assert error(
        f"a:\n{entries}  last: [1]\n{entries.replace('k', 'm')}", dict[str, dict[str, str]]
    ).startswith("lab.yaml:1002: a.last: expected text, got a list")


def test_suggest_names_the_nearest_or_all() -> None:
    assert suggest("metl", ["vm", "metal"]) == "did you mean 'metal'?"
    assert suggest("router", ["vm", "metal"]) == "one of vm, metal"


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused_with_a_place(text: str) -> None:
    try:
        parse(text, "x.yaml", dict)
    except InputError as wrong:
        message = str(wrong)
    else:
        return
    assert message.startswith("x.yaml")
    assert "\n" not in message


_words = st.text("abcdefghij -:#'\"\\0123456789é\n", max_size=12)
_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | _words,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_words, inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(_words.filter(lambda word: word != "<<"), _values, max_size=4))
def test_json_is_read_as_json_reads_it(value: dict[str, object]) -> None:
    text = msgspec.json.encode(value).decode()
    assert parse(text, "x", dict) == msgspec.json.decode(text)
