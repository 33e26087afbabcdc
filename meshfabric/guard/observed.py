"""What is there of guards, read back from nftables and the routes, whichever file they were made of.

A rule that drops counts as present only if every hook still asks for it: an
operator who flushed a chain has opened the wall, though its rules all stand.
"""

from collections.abc import Iterator, Sequence
from ipaddress import ip_network
from itertools import product
from typing import Any, NamedTuple

from meshfabric.guard.ruleset import (
    FAMILIES,
    HOOKS,
    JUDGES,
    ROUTE_METRIC,
    ROUTE_PROTOCOL,
    SIDES,
    WAYS,
)
from meshfabric.kernel import nft
from meshfabric.kernel.nft import Listed
from meshfabric.kernel.routes import MAIN, Route, observe_routes
from meshfabric.model.names import guard_table

Objects = Sequence[Listed]


class Part(NamedTuple):
    """A rule of a guard with its counters, or a route, which has none; not `present` is what is missing.

    `where` is host, bridges or route; `way` in or out; `match` says which packets.
    """

    fabric: str
    where: str
    way: str
    match: str
    packets: int | None
    bytes: int | None
    present: bool


class Rule(NamedTuple):
    """Which rule of a table: its chain, the address that it looks at, and the prefix."""

    chain: str
    side: str
    prefix: str


def status() -> list[Part]:
    """All parts of all guards, what is missing of them too."""
    routes = {one.normal() for one in observe_routes(MAIN, ROUTE_PROTOCOL)}
    return [part for fabric in nft.guards() for part in _parts(fabric, routes)]


def prefixes(fabric: str) -> list[str]:
    """What the guard of a fabric that is up drops, sorted."""
    return _prefixes(_tables(fabric))


def route(prefix: str) -> Route:
    """The unreachable route of a prefix."""
    return Route(prefix, metric=ROUTE_METRIC, unreachable=True).normal()


def _parts(fabric: str, routes: set[Route]) -> Iterator[Part]:
    tables = _tables(fabric)
    dropped = _prefixes(tables)
    for family, where in FAMILIES.items():
        rules, asked = _rules(tables[family]), _asked(family, tables[family])
        for way, prefix, (side, word) in product(WAYS, dropped, SIDES.items()):
            counter = rules.get(Rule(JUDGES[way], side, prefix), {})
            counts = counter.get("packets"), counter.get("bytes")
            yield Part(fabric, where, way, f"{word} {prefix}", *counts, bool(counter) and way in asked)
    for prefix in dropped:
        yield Part(fabric, "route", "out", f"to {prefix}", None, None, route(prefix) in routes)


def _tables(fabric: str) -> dict[str, Objects]:
    """What is there of a guard, by family."""
    return {family: nft.table(family, guard_table(fabric)) for family in FAMILIES}


def _prefixes(tables: dict[str, Objects]) -> list[str]:
    return sorted({rule.prefix for table in tables.values() for rule in _rules(table)})


def _rules(table: Objects) -> dict[Rule, Listed]:
    """The rules that drop, each with its counter."""
    found: dict[Rule, Listed] = {}
    for rule in _all("rule", table):
        for counter in _all("counter", rule["expr"]):
            match = _all("match", rule["expr"])[0]
            found[Rule(rule["chain"], match["left"]["payload"]["field"], _prefix(match["right"]))] = counter
    return found


def _prefix(right: Any) -> str:
    """nft writes a single address without its length."""
    if isinstance(right, str):
        return str(ip_network(right))
    return str(ip_network(f"{right['prefix']['addr']}/{right['prefix']['len']}"))


def _asked(family: str, table: Objects) -> set[str]:
    """The ways that every hook asks for which has to."""
    chains = {(chain["name"], chain.get("hook"), chain.get("prio")) for chain in _all("chain", table)}
    jumps = {
        (rule["chain"], jump["target"]) for rule in _all("rule", table) for jump in _all("jump", rule["expr"])
    }
    silent = {
        way
        for hook in HOOKS
        for way in hook.ways
        if hook.family == family
        and not ((hook.chain, hook.hook, hook.priority) in chains and (hook.chain, JUDGES[way]) in jumps)
    }
    return set(WAYS) - silent


def _all(kind: str, among: Objects) -> list[Any]:
    """nft's JSON wraps each object: {"rule": ...}."""
    return [one[kind] for one in among if kind in one]
