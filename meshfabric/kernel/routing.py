"""The plan's `rules`, `routes` and `host_addresses` tables, and the MTU of workloads."""

from collections.abc import Callable, Iterable, Sequence
from ipaddress import ip_network
from pathlib import Path

from meshfabric.kernel import links
from meshfabric.kernel.lane import Lane
from meshfabric.kernel.routes import observe_routes, observe_rules
from meshfabric.model import plan
from meshfabric.model.plan import Change, Key, Table, Value

MAIN_TABLE = 254
IPV6_METRIC = 1024  # what the kernel makes of metric 0 (IP6_RT_PRIO_USER)
PROTOCOL = 0x6D

Devices = Callable[[str], list[tuple[str, Path | None]]]


class Routing:
    """A target of the reconcile loop. The kernel is given whole tables, so what is there is kept in mind."""

    tables = (Table.RULES, Table.HOST_ADDRESSES, Table.ROUTES)

    def __init__(self, own_tables: Iterable[int], host_device: str, lane: Lane) -> None:
        self._own_tables = [*own_tables, MAIN_TABLE]
        self._host_device = host_device
        self._lane = lane
        self._now: dict[Table, dict[Key, Value]] = {table: {} for table in self.tables}

    async def observe(self, table: Table) -> Iterable[tuple[Key, Value]]:
        """What is there of ours."""
        look = {
            Table.RULES: self._rules,
            Table.HOST_ADDRESSES: self._addresses,
            Table.ROUTES: self._routes,
        }[table]
        self._now[table] = await self._lane.run(look)
        return list(self._now[table].items())

    async def apply(self, changes: Sequence[Change]) -> None:
        """Make the whole table so."""
        table = changes[0].table
        wanted = dict(self._now[table])
        for change in changes:
            wanted.pop(change.key, None)
            if change.value is not None:
                wanted[change.key] = change.value
        set_all = {
            Table.RULES: self._set_rules,
            Table.HOST_ADDRESSES: self._set_addresses,
            Table.ROUTES: self._set_routes,
        }[table]
        await self._lane.run(set_all, wanted)
        self._now[table] = wanted

    def _rules(self) -> dict[Key, Value]:
        return {mark: plan.Rule(table) for mark, table in observe_rules().items()}

    def _set_rules(self, wanted: dict[Key, Value]) -> None:
        links.ensure_rules({mark: rule.table for mark, rule in wanted.items() if isinstance(mark, int)})

    def _addresses(self) -> dict[Key, Value]:
        if links.find(self._host_device) is None:
            return {}
        return {(self._host_device, one): True for one in links.observe_addresses(self._host_device)}

    def _set_addresses(self, wanted: dict[Key, Value]) -> None:
        links.ensure_addresses(self._host_device, {address for _, address in wanted})

    def _routes(self) -> dict[Key, Value]:
        return {
            (table, route.destination, _metric(route)): plan.Route(
                route.device, route.gateway, route.source, route.mtu
            )
            for table in self._own_tables
            for route in observe_routes(table, PROTOCOL)
        }

    def _set_routes(self, wanted: dict[Key, Value]) -> None:
        for table in self._own_tables:
            routes = {
                _kernel_route(destination, metric, route)
                for (owner, destination, metric), route in wanted.items()
                if owner == table
            }
            links.ensure_routes(table, routes)


class Mtus:
    """The plan's `mtus` table: every device of a workload, `devices` says which and in which namespace."""

    tables = (Table.MTUS,)

    def __init__(self, devices: Devices, lane: Lane) -> None:
        self._devices, self._lane = devices, lane
        self._names: set[str] = set()

    async def observe(self, table: Table) -> Iterable[tuple[Key, Value]]:
        """The MTU of each workload that this run has set, 0 where its devices differ."""
        return [(name, await self._lane.run(_get_mtu, self._devices(name))) for name in sorted(self._names)]

    async def apply(self, changes: Sequence[Change]) -> None:
        """Set the MTU on both ends of each workload's pair."""
        for change in changes:
            if change.value is None:
                self._names.discard(change.key)
                continue
            await self._lane.run(_set_mtu, self._devices(change.key), change.value)
            self._names.add(change.key)


def _get_mtu(devices: list[tuple[str, Path | None]]) -> int:
    found = {link.mtu if link else 0 for link in _links(devices)}
    return found.pop() if len(found) == 1 else 0


def _links(devices: list[tuple[str, Path | None]]) -> list[links.Link | None]:
    return [links.find(device, netns=netns) for device, netns in devices if netns is None or netns.exists()]


def _set_mtu(devices: list[tuple[str, Path | None]], mtu: int) -> None:
    for device, netns in devices:
        if netns is None or netns.exists():  # a pod that ended needs none; its runtime will say so
            links.set_mtu(device, mtu, netns=netns)


def _metric(route: links.Route) -> int:
    return 0 if route.metric == IPV6_METRIC and ip_network(route.destination).version == 6 else route.metric


def _kernel_route(destination: str, metric: int, route: plan.Route) -> links.Route:
    return links.Route(
        destination,
        route.device,
        route.gateway,
        route.source,
        metric,
        onlink=bool(route.gateway),
        unreachable=not route.device,
        mtu=route.mtu,
    )
