"""Groups of workloads, and places outside, in words: as few as tell them from others. Pure."""

from meshfabric.compiler.outside import ELSEWHERE, Parents, Place, Places
from meshfabric.compiler.parties import Group, Near, People, parties
from meshfabric.model.labels import KIND_LABEL, Labels, format_labels

EVERYONE = "*"
WORLD = "the world"
NAMED = 3
"""Label sets that are told one by one; more are told by what they have in common."""
WHERE = {Near.ALL: "", Near.OWN: " on that node", Near.OTHER: " on other nodes"}


def describe(people: People, group: Group) -> str:
    """`app=web`, `app=web | host n1`, `team=shop (7 label sets)`, `every host`, `*`."""
    by_near: dict[Near, list[int]] = {}
    for number, near in parties(group):
        by_near.setdefault(near, []).append(number)
    return " | ".join(_members(people, by_near[near]) + WHERE[near] for near in sorted(by_near))


def describe_places(places: Places, parents: Parents) -> str:
    """`the world`, `the world but 10.0.0.0/8`, `10.1.0.0/16 | 2001:db8::/32`: networks with all that is in
    them, but for what is said.
    """
    tops: dict[Place, Place] = {ELSEWHERE: ELSEWHERE} if ELSEWHERE in places else {}
    left_out: dict[Place, list[Place]] = {one: [] for one in tops}
    for network, parent in parents.items():
        if network in places:
            tops[network] = tops.get(parent, network)
            left_out.setdefault(tops[network], [])
        elif parent in tops:
            left_out[tops[parent]].append(network)
    if len(left_out) > NAMED:
        return f"{len(left_out)} networks outside"
    return " | ".join(_network(one) + _but(others) for one, others in left_out.items())


def _but(others: list[Place]) -> str:
    if not others:
        return ""
    return f" but {', '.join(map(_network, others)) if len(others) <= NAMED else f'{len(others)} networks'}"


def _network(place: Place) -> str:
    return WORLD if place is ELSEWHERE else str(place)


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
