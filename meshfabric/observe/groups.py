"""Groups of workloads in words: as few as tell them from others. Pure."""

from meshfabric.compiler.parties import Group, Near, People, parties
from meshfabric.model.labels import KIND_LABEL, Labels, format_labels

EVERYONE = "*"
NAMED = 3
"""Label sets that are told one by one; more are told by what they have in common."""
WHERE = {Near.ALL: "", Near.OWN: " on that node", Near.OTHER: " on other nodes"}


def describe(people: People, group: Group) -> str:
    """`app=web`, `app=web | host n1`, `team=shop (7 label sets)`, `every host`, `*`."""
    by_near: dict[Near, list[int]] = {}
    for number, near in parties(group):
        by_near.setdefault(near, []).append(number)
    return " | ".join(_members(people, by_near[near]) + WHERE[near] for near in sorted(by_near))


def _members(people: People, numbers: list[int]) -> str:
    if len(numbers) == len(people.labels):
        return EVERYONE
    hosts = [number for number in numbers if number in people.hosts]
    others = [people.labels[number] for number in numbers if number not in people.hosts]
    return " | ".join([*_hosts(people, hosts), *_label_sets(others)])


def _hosts(people: People, hosts: list[int]) -> list[str]:
    if hosts and len(hosts) == len(people.hosts):
        return ["every host"]
    nodes = sorted(node for number in hosts for node in people.hosts[number])
    return [f"host {node}" for node in nodes] if len(nodes) <= NAMED else [f"{len(nodes)} hosts"]


def _label_sets(sets: list[Labels]) -> list[str]:
    if len(sets) <= NAMED:
        return list(map(_format, sets))
    common = tuple(sorted(set(sets[0]).intersection(*sets)))
    count = f"{len(sets)} label sets"
    return [f"{_format(common)} ({count})" if common else count]


def _format(labels: Labels) -> str:
    """Without the kind, as long as there is something else to say."""
    own = tuple(pair for pair in labels if pair[0] != KIND_LABEL)
    return format_labels(own or labels) or "no labels"
