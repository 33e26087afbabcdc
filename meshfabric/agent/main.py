"""The composition root: one agent, made of all that is below it, from its configuration file.

    etcd, snapshot --StoreSource--> registry --+
    devices        --LinkSource----------------+--> Loop --> maps, programs, WireGuard, routes, records
    requests       --Workloads-----------------+
    datapath       --Readings--> listings, metrics, prober

Nothing here outlives the process but what is meant to: pinned maps and links,
devices, wireguard-go, the state folder. Ending the agent, however, changes
nothing in the datapath.
"""

import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path

import msgspec
from msgspec.structs import replace

from meshfabric.agent import ports, upgrade
from meshfabric.agent.answers import Answers
from meshfabric.agent.audit import Listener
from meshfabric.agent.clear import Clear, demand_possible
from meshfabric.agent.draining import Draining
from meshfabric.agent.memory import NUMBERS_FILE, Memory
from meshfabric.agent.metrics import reader
from meshfabric.agent.presence import keep_reporting, stay_alive
from meshfabric.agent.probing import Probing
from meshfabric.agent.readings import Readings
from meshfabric.agent.relaying import Relaying
from meshfabric.agent.rotation import Rotation
from meshfabric.agent.simulation import Simulation
from meshfabric.agent.sizing import Sizing
from meshfabric.agent.sources import LinkSource, StoreSource
from meshfabric.agent.switches import Switches
from meshfabric.agent.workloads import Workloads
from meshfabric.api.server import serving
from meshfabric.config import read_settings
from meshfabric.kernel import features, wireguard
from meshfabric.kernel.attach import pod_pair
from meshfabric.kernel.delays import Delays
from meshfabric.kernel.lane import Lane
from meshfabric.kernel.loader import Datapath, load
from meshfabric.kernel.maps import Generations, MapTables
from meshfabric.kernel.plain import PlainDevices
from meshfabric.kernel.programs import Programs
from meshfabric.kernel.qdisc import Queues
from meshfabric.kernel.routing import Mtus, Routing
from meshfabric.kernel.tunnels import Tunnels
from meshfabric.kernel.wireguard import Backend
from meshfabric.model.errors import InputError, MeshfabricError, PermanentError
from meshfabric.model.names import host_devices
from meshfabric.model.settings import Settings, Sharing, WireGuardKind, WorldMode
from meshfabric.model.tables import FABRIC_MARK, number
from meshfabric.model.world import Event, Kind, World
from meshfabric.observe import logs, metrics
from meshfabric.observe.events import Events
from meshfabric.probe.health import NS_PER_MS, NS_PER_S, US_PER_MS, grace_ns, loss_limit
from meshfabric.reconcile.loop import Loop
from meshfabric.reconcile.target import Target
from meshfabric.store.client import Etcd
from meshfabric.store.keys import state_prefix
from meshfabric.store.pins import load_numbers
from meshfabric.store.publish import Records
from meshfabric.store.registry import Registry
from meshfabric.store.settings import Settings as StoreSettings

OBJECTS = ("workload.bpf.o", "overlay.bpf.o", "plain.bpf.o", "uplink.bpf.o", "token.bpf.o")
OBJECTS_ENV = "MESHFABRIC_BPF"
STATE_MODE = 0o700
FEW_TRANSLATIONS = 1024  # room in tables that nobody uses
SCRAPE_TIMEOUT_S = 5.0
HOST_AGAIN_S = 1.0
SHARES = 4  # of the established flows' table: no workload has more than one
TURN_S = 0.0005  # a thread that saves the world lets the loop have its turn after this; Python's own is 5 ms

log = logging.getLogger(__name__)


def run(config: Path) -> None:
    """Run an agent until SIGTERM or SIGINT; raises `MeshfabricError` when it cannot start."""
    settings = read_config(config)
    logs.configure()
    sys.setswitchinterval(TURN_S)
    features.require(features.probe())
    backend = wireguard.choose_backend(choice=settings.wireguard)
    settings = replace(settings, wireguard=WireGuardKind(backend.kind))
    pod_pair(settings.pods)  # what the kernel cannot do is said now, and not with the first pod
    demand_possible(settings)
    with alone(settings.state_dir), load_datapath(settings) as datapath:
        asyncio.run(Agent(settings, datapath, backend).run())


def read_config(config: Path) -> Settings:
    """The agent's configuration; raises InputError."""
    try:
        return read_settings(config.read_text("utf-8"), str(config))
    except OSError as cause:
        raise InputError(f"cannot read it: {cause.strerror}", place=str(config)) from cause
    except UnicodeDecodeError as cause:
        raise InputError("it is no UTF-8 text", place=str(config), remedy="is it the right file?") from cause


@contextlib.contextmanager
def alone(state_dir: Path) -> Iterator[None]:
    """The state folder, made if absent, and ours alone while the context lasts: also a second agent that is
    started by mistake would replace programs and pins of the one that runs.
    """
    try:
        state_dir.mkdir(mode=STATE_MODE, parents=True, exist_ok=True)
        handle = os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as cause:
        raise PermanentError(f"cannot use it: {cause.strerror}", place=f"state_dir {state_dir}") from cause
    try:
        _lock(handle, state_dir)
        yield
    finally:
        os.close(handle)


def _lock(handle: int, state_dir: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as cause:
        place, remedy = f"state_dir {state_dir}", "stop it, or configure another state_dir"
        raise PermanentError("another agent runs on it", place=place, remedy=remedy) from cause


def load_datapath(settings: Settings) -> Datapath:
    """The programs of this build, with the maps that an earlier run pinned."""
    folder = Path(os.environ.get(OBJECTS_ENV, Path(__file__).parents[2] / "build" / "bpf"))
    datapath = settings.datapath
    translates = settings.world is WorldMode.TRANSLATE
    translations = datapath.flows if translates else FEW_TRANSLATIONS
    return load(
        [folder / name for name in OBJECTS],
        settings.bpffs / settings.fabric,
        {
            "flows": datapath.flows,
            "new_flows": max(datapath.flows // 2, 1),
            "nat": translations,
            "new_nat": max(translations // 2, 1),
        },
        {
            "wg_port_base": datapath.port_base.to_bytes(2, "little"),
            "plain_port": (datapath.plain_port if settings.trusts else 0).to_bytes(2, "little"),
            "plain_mark": (datapath.plain_mark if settings.trusts else 0).to_bytes(4, "little"),
            "plain_slots": sum(1 << slot for slot in settings.trusted_slots).to_bytes(1, "little"),
            "relay_port_base": (datapath.relay_port_base if settings.relay_mbit else 0).to_bytes(2, "little"),
            "relay_ps_per_byte": number(settings.relay_ps_per_byte),
            "world_port_base": datapath.world_port_base.to_bytes(2, "little"),
            "world_ports": (datapath.world_ports if translates else 0).to_bytes(2, "little"),
            "probe_interval_ns": (settings.probe.interval_ms * NS_PER_MS).to_bytes(8, "little"),
            "flows_shared": bytes([settings.sharing is Sharing.ON]),
            "largest_share": number(max(datapath.flows // SHARES, 1)),
            "probe_grace_ns": grace_ns(settings.probe.interval_ms).to_bytes(8, "little"),
            "probe_idle_ns": (settings.probe.idle_ms * NS_PER_MS).to_bytes(8, "little"),
            "loss_limit": number(loss_limit(settings.probe.loss_percent)),
            "rtt_limit_us": number(int(settings.probe.rtt_ms * US_PER_MS)),
            "longest_hold_ns": int(settings.probe.hold_s * NS_PER_S).to_bytes(8, "little"),
            "wg_keeps_hash": bytes([settings.wireguard is WireGuardKind.KERNEL]),
            "tunnel_mark": number(datapath.mark_base),
            "fabric_mark": FABRIC_MARK.to_bytes(4, "little"),
        },
    )


class Agent:
    """All parts, wired; `run` starts them and waits for the end."""

    def __init__(self, settings: Settings, datapath: Datapath, backend: Backend) -> None:
        self._settings = settings
        self._pins = settings.bpffs / settings.fabric
        self._world = World(settings)
        self._events = Events()
        self._world.pin(*load_numbers(settings.state_dir / NUMBERS_FILE))
        self._netlink, self._maps = Lane("netlink"), Lane("maps")
        self._etcd = Etcd(msgspec.convert(msgspec.to_builtins(settings.etcd), StoreSettings))
        self._tunnels = Tunnels(
            backend,
            f"{settings.datapath.prefix}wg",
            settings.state_dir,
            lambda device, key: self._loop.feed([Event(Kind.KEY, device, key)]),
            self._events.note,
            self._netlink,
        )
        self._loop = self._make_loop(datapath)
        self._registry = Registry(settings.fabric)
        self._workloads = Workloads(
            self._loop, self._netlink, self._events, lambda: self._memory.save_numbers()
        )
        self._readings = Readings(self._loop, datapath.maps)
        flow_tables = (datapath.maps["flows"], datapath.maps["new_flows"])
        self._simulation = Simulation(self._world, flow_tables)
        self._store = StoreSource(self._etcd, settings.fabric, self._registry, self._loop, self._events)
        self._memory = Memory(self._world, self._registry, self._store)
        self._links = LinkSource(self._loop, self._netlink, self._concerns)
        self._rotation = Rotation(
            self._loop, self._store, self._readings, self._tunnels, self._netlink, self._events
        )
        self._draining = Draining(self._loop, self._readings, self._tunnels, self._netlink, self._events)
        self._switches = Switches(self._loop, self._readings, datapath.maps["turns"], self._events.note)
        self._probing = Probing(settings, self._loop, self._readings, self._events.note)
        self._listener = Listener(datapath.maps["audits"], self._world, self._events.note)
        self._sizing = Sizing(self._loop, self._readings, datapath.maps["nodes"], self._events.note)
        self._clear = Clear(self._world, self._events.note)
        self._relaying = Relaying(self._loop, self._tunnels, self._netlink)
        self._round_done = asyncio.Event()
        upgrade.tell(datapath, self._events.note)

    async def run(self) -> None:
        """Until SIGTERM or SIGINT, or until a part fails in a way that none of them expects."""
        end = asyncio.Event()
        for told in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(told, end.set)
        self._events.note("agent started", f"node {self._world.node}, pid {os.getpid()}")
        ports.keep(self._settings, self._events.note)
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self._close)
            await stack.enter_async_context(serving(self._settings.socket, self._answers()))
            stack.callback(self._serve_metrics())
            await self._recall()
            self._loop.on_apply, self._loop.on_applied = self._memory.save_numbers, self._after_round
            tasks = await stack.enter_async_context(asyncio.TaskGroup())
            running = [tasks.create_task(part) for part in self._parts()]
            await end.wait()
            for task in running:
                task.cancel()
        self._events.note("agent ended")

    async def _recall(self) -> None:
        """What is there already: devices, keys, workloads, and the world as it was last known."""
        await self._links.observe()
        keys = await self._netlink.run(self._tunnels.keys)
        self._loop.feed([self._rotation.recall(keys)])
        self._loop.feed(self._draining.recall())
        self._loop.feed([Event(Kind.KEY, device, key) for device, key in keys])
        await self._workloads.restore()
        for events in self._memory.recall():
            self._store.expiry.take(events)
        self._sizing.restore()
        await self._relaying.recall()

    def _parts(self) -> list[Coroutine[None, None, None]]:
        settings = self._settings
        return [
            self._loop.run(),
            self._store.run(),
            self._links.run(),
            *self._probing.parts(),
            self._listener.run(),
            self._switches.run(),
            self._sizing.run(),
            self._clear.run(),
            self._relaying.run(),
            self._rotation.run(),
            self._keep_host(),
            stay_alive(self._etcd, settings.fabric, settings.node),
            keep_reporting(self._etcd, self._store, self._registry, self._loop),
            self._memory.keep_numbers(),
            self._memory.keep_snapshot(),
        ]

    def _make_loop(self, datapath: Datapath) -> Loop:
        settings = self._settings.datapath
        own_tables = [settings.table_base + slot for slot in range(len(self._settings.uplinks))]
        outer, _ = host_devices(settings.prefix)
        targets: list[Target] = [
            self._tunnels,
            PlainDevices(settings.prefix, self._netlink),
            Routing(own_tables, outer, self._netlink),
            Mtus(lambda name: self._workloads.devices(name), self._netlink),
            Queues(
                self._events.note,
                lambda device, paced: self._loop.feed([Event(Kind.PACED, device, paced or None)]),
                self._netlink,
            ),
            Delays(self._events.note, self._netlink),
            MapTables(datapath.maps, self._maps),
            upgrade.Replacing(
                Programs(datapath.programs, self._pins / "links", self._netlink),
                datapath.upgrade,
                self._maps,
                self._events.note,
            ),
            Records(self._etcd, state_prefix(self._settings.fabric), self._world.node),
        ]
        generations = Generations(datapath.maps["generations"], self._maps)
        if "generations" in datapath.rebuilt:
            generations.begin_anew()
        return Loop(self._world, targets, generations)

    def _answers(self) -> Answers:
        return Answers(
            self._loop,
            self._store,
            self._registry,
            self._workloads,
            self._readings,
            self._tunnels,
            self._rotation,
            self._netlink,
            self._events,
            self._listener.heard,
            self._simulation,
            self._draining,
            self._switches,
        )

    def _concerns(self, device: str) -> bool:
        if device.startswith(self._settings.datapath.prefix):
            return True
        if any(uplink.device == device for uplink in self._settings.uplinks):
            return True
        return any(workload.device == device for workload in self._world.workloads.values())

    def _after_round(self) -> None:
        self._probing.aim()
        self._sizing.aim()
        self._switches.aim()
        self._clear.aim()
        self._round_done.set()

    async def _keep_host(self) -> None:
        """The host becomes a workload when its blocks are known, and moves with them.

        Nothing may be removed before that: its addresses and routes would be.
        """
        doubt = ""
        while True:
            self._round_done.clear()
            try:
                await self._workloads.host()
            except MeshfabricError as error:
                if doubt != str(error):
                    self._events.note("host not attached", doubt := str(error))
                await asyncio.sleep(HOST_AGAIN_S)
                continue
            if self._store.listed and not self._loop.synced:
                await self._workloads.sweep()
                self._loop.sync()
                self._store.changed.set()  # what is in force from here on is all that the store says
            await self._round_done.wait()

    def _serve_metrics(self) -> Callable[[], None]:
        if not self._settings.metrics:
            return lambda: None
        host, _, port = self._settings.metrics.rpartition(":")
        read = reader(self._loop, self._readings, self._store, self._registry, self._switches)
        here = asyncio.get_running_loop()

        async def read_here() -> metrics.Reading:
            return read()

        def read_there() -> metrics.Reading:
            """Asked by the HTTP server's thread; the world belongs to ours."""
            return asyncio.run_coroutine_threadsafe(read_here(), here).result(SCRAPE_TIMEOUT_S)

        return metrics.serve(read_there, host.strip("[]"), int(port))

    async def _close(self) -> None:
        await self._etcd.close()
        self._netlink.close()
        self._maps.close()
