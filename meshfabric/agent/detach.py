"""The break-glass: takes a fabric off its node, which then is a machine like any other.

    uplinks excepted, programs ─> devices ─> rules, routes ─> uplinks' programs ─> pins ─> guard

In this order nothing leaves in clear on the way: what could send the fabric's packets goes
before what holds them back. Keys, numbers and the snapshot stay: an agent that is started again is
the same node to its peers. Pods lose their interfaces and have to be attached again.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

from meshfabric.agent.main import alone, read_config
from meshfabric.guard import install
from meshfabric.kernel import attach, links, wireguard
from meshfabric.kernel.routes import MAIN
from meshfabric.model.names import (
    host_devices,
    is_plain_device,
    is_pod_device,
    is_tunnel_device,
    loop_devices,
)
from meshfabric.model.settings import Settings


def detach(config: Path) -> Iterator[str]:
    """Take everything off, telling each thing that is done; what is gone already is no error.

    Raises PermanentError, with nothing done, while an agent runs on the same state folder.
    """
    settings = read_config(config)
    with alone(settings.state_dir):
        pins = settings.bpffs / settings.fabric
        uplinks = {uplink.device for uplink in settings.uplinks}
        yield from _programs(pins / "links", uplinks, of_uplinks=False)
        yield from _devices(settings)
        yield from _ways(settings)
        yield from _programs(pins / "links", uplinks, of_uplinks=True)
        if pins.exists():
            shutil.rmtree(pins)
            yield f"pins: {pins} removed"
        if install.down(settings.fabric):
            yield f"guard: of fabric {settings.fabric}, down"


def _programs(pins: Path, uplinks: set[str], *, of_uplinks: bool) -> Iterator[str]:
    for name in sorted(attach.attached(pins)):
        device, direction = attach.pinned_at(name)
        if (device in uplinks) is of_uplinks and attach.detach(pins / name):
            yield f"program: off {device}, {direction.name.lower()}"


def _devices(settings: Settings) -> Iterator[str]:
    prefix = settings.datapath.prefix
    for device in sorted(link.name for link in links.observe()):
        if is_tunnel_device(prefix, device):
            gone = wireguard.delete_device(device)
        else:  # one end of a pair may have gone with the other
            pairs = (*host_devices(prefix), *loop_devices(prefix))
            named = (is_pod_device, is_plain_device)
            mine = any(is_one(prefix, device) for is_one in named) or device in pairs
            gone = mine and links.delete(device)
        if gone:
            yield f"device: {device} removed"


def _ways(settings: Settings) -> Iterator[str]:
    first = settings.datapath.table_base
    tables = range(first, first + len(settings.uplinks))
    rules = links.observe_rules()
    if links.ensure_rules({mark: table for mark, table in rules.items() if table not in tables}):
        yield f"rules: to tables {first} to {tables[-1]} removed"
    for table in (*tables, MAIN):
        if links.ensure_routes(table, set()):
            yield f"routes: ours in table {table} removed"
