"""The indexes over policies and label sets, against asking everyone."""

from hypothesis import given, settings
from hypothesis import strategies as st

from meshfabric.model.labels import Labels, Selector, make_labels, matches, parse_selector
from meshfabric.model.policy import Policy, Rule
from meshfabric.model.selection import Selection
from meshfabric.model.settings import Settings
from meshfabric.model.world import Event
from tests.strategies import all_settings, sequences, world_of
from tests.vocabulary import SELECTORS

KEYS, VALUES = ("a", "b", "c"), ("", "x", "y")
TERMS = [
    *(f"{key}{op}{value}" for key in KEYS for op in ("=", "!=") for value in VALUES),
    *(f"{key} {op} (x, y)" for key in KEYS for op in ("in", "notin")),
    *(f"{unless}{key}" for key in KEYS for unless in ("", "!")),
]
selectors = st.lists(st.sampled_from(TERMS), max_size=3).map(lambda terms: parse_selector(",".join(terms)))
label_sets = st.dictionaries(st.sampled_from(KEYS), st.sampled_from(VALUES)).map(make_labels)


def policy(name: str, selector: Selector) -> Policy:
    """One that is about those whom it names."""
    return Policy(name, selector, (Rule((selector,), None),), None)


@given(st.lists(label_sets, unique=True), st.lists(selectors, min_size=1), st.data())
@settings(max_examples=300, deadline=None)
def test_members_are_those_that_match(
    sets: list[Labels], wanted: list[Selector], data: st.DataObject
) -> None:
    """Asked before they came, while they come and go, and for the first time at the end."""
    selection = Selection()
    for number, selector in enumerate(wanted):
        selection.replace(None, policy(f"p{number}", selector))
    for selector in data.draw(st.sets(st.sampled_from(wanted))):
        selection.members(selector)
    there = dict(enumerate(sets))
    for number, labels in enumerate(sets):
        selection.add(number, labels)
    for number in data.draw(st.sets(st.sampled_from(range(len(sets))))) if sets else ():
        selection.remove(number, there.pop(number))
    gone = data.draw(st.sets(st.sampled_from(range(len(wanted)))))
    for number in gone:
        selection.replace(policy(f"p{number}", wanted[number]), None)
    for selector in wanted:
        expected = {number for number, labels in there.items() if matches(selector, labels)}
        assert selection.members(selector) == expected
    for labels in sets:
        names = {f"p{i}" for i, one in enumerate(wanted) if i not in gone and matches(one, labels)}
        assert sorted(selection.policies(labels)) == sorted(names)


@given(all_settings(), sequences())
@settings(max_examples=100, deadline=None)
def test_a_world_keeps_its_selection_right(given: Settings, happened: list[Event]) -> None:
    world = world_of(given, happened)
    for selector in map(parse_selector, SELECTORS):
        expected = {number for number, labels in world.labels.items() if matches(selector, labels)}
        assert world.selection.members(selector) == expected
    for labels in world.labels.values():
        selecting = {name for name, one in world.policies.items() if matches(one.select, labels)}
        assert set(world.selection.policies(labels)) == selecting
