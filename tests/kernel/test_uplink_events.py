"""What the kernel does to routes when an uplink is shaken, and that it is noticed however short it was."""

import asyncio
import subprocess
from collections.abc import Callable, Iterable
from typing import Any, cast

import pytest

from meshfabric.agent.sources import OF_AN_UPLINK, LinkSource
from meshfabric.kernel import links
from meshfabric.kernel.lane import Lane
from meshfabric.model.node import NodeKind
from meshfabric.model.plan import Table
from meshfabric.model.settings import EtcdSettings, Settings, UplinkSettings
from meshfabric.model.world import Event, World
from tests.features import requires
from tests.kernel.cell import namespace
from tests.patience import DEADLINE_S

pytestmark = requires("capabilities")

TABLE = "19780"
OLD, NEW = "192.0.2.1/24", "192.0.2.77/24"
NETWORK = "192.0.2.0/24"
DOWN_AND_UP = ("link set mfu0 down", "link set mfu0 up")
RENEWED = (f"address del {OLD} dev mfu0", f"address add {OLD} dev mfu0")
READDRESSED = (f"address del {OLD} dev mfu0", f"address add {NEW} dev mfu0")


class Loop:
    """Notes what is to be looked at."""

    def __init__(self) -> None:
        uplink = UplinkSettings("up0", "mfu0")
        etcd = EtcdSettings(("http://192.0.2.9:2379",))
        self.world = World(Settings("lab", "n1", NodeKind.VM, etcd, (uplink,)))
        self.seen, self.checked = asyncio.Event(), asyncio.Event()

    def feed(self, events: Iterable[Event]) -> None:
        for event in events:
            self.world.apply(event)
            self.seen.set()

    def check(self, tables: Iterable[Table], *, drift: bool = False) -> None:
        assert (tuple(tables), drift) == (OF_AN_UPLINK, False)
        self.checked.set()


def ip(*lines: str) -> str:
    """In one go, so that nobody sees what is between."""
    argv = ["ip", "-batch", "-"]
    return subprocess.run(argv, input="\n".join(lines), check=True, capture_output=True, text=True).stdout


def routes() -> str:
    return ip(f"route show table {TABLE}")


async def noticed(shake: Callable[[], object]) -> bool:
    """Whether the agent looks at its routes after this."""
    lane, loop = Lane("netlink"), Loop()
    source = LinkSource(cast(Any, loop), lane, lambda device: device == "mfu0")
    following = asyncio.create_task(source.run())
    try:
        async with asyncio.timeout(DEADLINE_S):
            await loop.seen.wait()
            loop.checked.clear()
            shake()
            await loop.checked.wait()
    finally:
        following.cancel()
        lane.close()
    return True


@pytest.mark.parametrize("lines", [DOWN_AND_UP, RENEWED, READDRESSED], ids=["down", "renewed", "another"])
def test_routes_that_the_kernel_forgot_are_looked_at(lines: tuple[str, ...]) -> None:
    with namespace() as far:
        links.ensure_veth("mfu0", "mfr0", far)
        ip("link set mfu0 up", f"address add {OLD} dev mfu0", f"route add {NETWORK} dev mfu0 table {TABLE}")
        assert NETWORK in routes()
        assert asyncio.run(noticed(lambda: ip(*lines)))
        assert NETWORK not in routes(), "else nothing would have to be looked at"
