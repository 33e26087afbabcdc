"""An etcd and one real agent, with real maps and programs, inside a bench's cell.

    etcd <--gRPC-- the agent of node `here` --> pinned maps <--read-- the bench
      ^                                                                   |
      +------------- records of the other nodes --------------------------+

Owns the two processes and their folders; `records` has what is written.
"""

import asyncio
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import yaml

from bench import cell
from bench.records import FABRIC, HERE, SEGMENT
from bench.rows import Row, report
from meshfabric.agent.memory import SNAPSHOT_FILE
from meshfabric.api.client import call
from meshfabric.api.messages import Ask
from meshfabric.kernel.bpf import Map
from meshfabric.lab.tools import environment, find
from meshfabric.model.addresses import Address, host_prefix
from meshfabric.model.errors import MeshfabricError
from meshfabric.model.node import NodeKind
from meshfabric.model.settings import EtcdSettings, Settings, UplinkSettings
from meshfabric.model.tables import address_key
from meshfabric.store.client import Etcd
from meshfabric.store.settings import Settings as StoreSettings
from tests.etcd import CALM, Server

BPFFS = Path("/sys/fs/bpf")
UPLINK, UPLINK_ADDRESS = "up0", "198.18.0.1/24"
PATIENCE_S = 60.0
END_S = 10.0
POLL_S = 0.02
LOG_TAIL = 2000


class Who(NamedTuple):
    """The agent's node, and where its uplink is."""

    fabric: str = FABRIC
    node: str = HERE
    segment: str = SEGMENT
    address: str = UPLINK_ADDRESS


class Stand:
    """Use it in `with stand() as place`, inside a cell."""

    def __init__(self, folder: Path, who: Who) -> None:
        self._folder, self._who = folder, who
        self.etcd = Server(find("etcd"), folder / "etcd", *CALM, address="127.0.0.1")
        self.log = folder / "agent.log"
        self._agent: subprocess.Popen[bytes] | None = None
        lines = f"link add {UPLINK} type veth peer name {UPLINK}far\nlink set {UPLINK}far up\n"
        lines += f"link set {UPLINK} up\naddress add {who.address} dev {UPLINK}\n"
        subprocess.run(["ip", "-batch", "-"], input=lines, text=True, check=True)

    @property
    def pid(self) -> int:
        """The agent's."""
        assert self._agent is not None
        return self._agent.pid

    def start_agent(self) -> None:
        """Start it, with whatever an earlier one left in the state folder; returns at once."""
        config = self._folder / "agent.yaml"
        config.write_text(yaml.safe_dump(msgspec.to_builtins(self._settings(), enc_hook=str)))
        argv = [sys.executable, "-m", "meshfabric", "agent", "--config", str(config)]
        with self.log.open("wb") as log:
            self._agent = subprocess.Popen(argv, stdout=log, stderr=log, env=environment())

    def end_agent(self) -> None:
        """End it in order; pins and state folder stay."""
        if self._agent:
            self._agent.terminate()
            try:
                self._agent.wait(END_S)
            finally:
                self._agent.kill()

    def forget(self) -> None:
        """Remove what an agent left in the state folder and the bpffs, as on a new machine."""
        for root in (self._folder / "state", BPFFS / self._who.fabric):
            subprocess.run(["rm", "-rf", str(root)], check=True)

    def status(self) -> dict[str, Any]:
        """What the agent says of itself; nothing while it does not answer."""
        try:
            found: dict[str, Any] = call(self._folder / "agent.sock", Ask("status"))
        except MeshfabricError:
            return {}
        return found

    def wait_for(self, endpoints: int) -> None:
        """Until the agent is ready and knows so many endpoints."""
        self._until(lambda: self._knows(endpoints))

    def wait_for_snapshot(self) -> None:
        """Until the agent has written the world down."""
        self._until((self._folder / "state" / SNAPSHOT_FILE).exists)

    def addresses(self) -> Map:
        """The agent's pinned map, once it has made it."""
        path = BPFFS / self._who.fabric / "maps" / "addresses"
        self._until(path.exists)
        return Map.open(path)

    def events(self) -> Iterator[dict[str, Any]]:
        """The agent's log, line by line."""
        for line in self.log.read_text().splitlines():
            with contextlib.suppress(ValueError):
                yield json.loads(line)

    def _until(self, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not holds():
            if time.monotonic() > deadline or self._agent is None or self._agent.poll() is not None:
                raise RuntimeError(f"the agent does not come up:\n{self.log.read_text()[-LOG_TAIL:]}")
            time.sleep(POLL_S)

    def _knows(self, endpoints: int) -> bool:
        status = self.status()
        return bool(status.get("ready")) and status["endpoints"] >= endpoints

    def _settings(self) -> Settings:
        return Settings(
            self._who.fabric,
            self._who.node,
            NodeKind.METAL,
            EtcdSettings((self.etcd.endpoint,)),
            (UplinkSettings("up0", UPLINK, self._who.segment),),
            state_dir=self._folder / "state",
            socket=self._folder / "agent.sock",
            bpffs=BPFFS,
        )


def has(table: Map, address: Address) -> bool:
    """Whether the map `addresses` has an entry for this very address."""
    return table.lookup(address_key(host_prefix(address))) is not None


@contextlib.contextmanager
def stand(who: Who) -> Iterator[Stand]:
    """A running etcd without records and an agent yet to be started; both end with the context."""
    with tempfile.TemporaryDirectory(prefix="meshfabric-bench-", dir="/run") as folder:
        place = Stand(Path(folder), who)
        try:
            place.etcd.start()
            yield place
        finally:
            place.end_agent()
            place.etcd.stop()


def run(
    bench: str,
    measure: Callable[[Stand, Etcd, int], Awaitable[list[Row]]],
    sizes: Sequence[int],
    who: Who = Who(),  # noqa: B008  # a value, never changed
) -> None:
    """Measure on one stand at each of the sizes, those of the command line if there are any."""
    cell.enclose(bench)
    wanted = sorted([int(size) for size in sys.argv[1:]] or sizes)

    async def all_sizes(place: Stand) -> list[Row]:
        async with Etcd(StoreSettings((place.etcd.endpoint,))) as etcd:
            return [row for size in wanted for row in await measure(place, etcd, size)]

    with stand(who) as place:
        report(bench, asyncio.run(all_sizes(place)))
