"""The pair of devices that the probes' token goes round in: made, adopted and repaired."""

import asyncio
import socket
import subprocess
from collections.abc import Iterator

import pytest

from meshfabric.kernel import delays, features, links
from meshfabric.kernel.delays import Delays
from meshfabric.kernel.features import Feature
from meshfabric.kernel.holding import HANDLE, QUEUES, TOKEN_BYTES, root_of
from meshfabric.kernel.lane import Lane
from meshfabric.model.plan import Change, Delay, Table
from tests.features import requires

OUT, INTO = "mftick0", "mftick1"
WANTED = Delay(INTO, 10)
KINDS = pytest.mark.parametrize("kind", [pytest.param("fq", marks=requires("fq")), "tbf", "htb"])
ABSENT = Feature("delay", False, "no such queue", False)


class Kept:
    """The target, and what it told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self._lane = Lane("netlink")
        self.target = Delays(lambda what, detail: self.told.append(what), self._lane)

    def apply(self, wanted: Delay | None = WANTED) -> None:
        asyncio.run(self.target.apply([Change(Table.DELAYS, OUT, wanted)]))

    def seen(self) -> dict[str, Delay]:
        async def observed() -> dict[str, Delay]:
            return dict(await self.target.observe(Table.DELAYS))

        return asyncio.run(observed())

    def close(self) -> None:
        self._lane.close()


def index() -> int:
    return socket.if_nametoindex(OUT)


def tc(words: str) -> str:
    done = subprocess.run(["tc", *words.split()], check=True, capture_output=True, text=True)
    return done.stdout


@requires("delay")
@KINDS
def test_the_pair_comes_whole_and_is_adopted_as_it_is(kind: str) -> None:
    delays.make(OUT, WANTED, kind)
    near, far = links.find(OUT), links.find(INTO)
    assert near is not None
    assert far is not None
    assert (near.peer, near.up, far.up) == (far.index, True, False)
    assert root_of(OUT, near.index) == (kind, HANDLE)
    assert delays.is_made(OUT, WANTED, kind)
    delays.make(OUT, WANTED, kind)
    assert links.find(OUT) == near


@requires("delay")
@pytest.mark.parametrize("kind", ["tbf", "htb"])
def test_another_interval_is_another_rate(kind: str) -> None:
    for interval_ms, rate in ((10, "68800bit"), (50, "13760bit")):
        delays.make(OUT, Delay(INTO, interval_ms), kind)
        shown = tc(f"qdisc show dev {OUT}") + tc(f"class show dev {OUT}")
        assert f"rate {rate}" in shown.lower().replace("kbit", "000bit")


@requires("delay")
def test_another_kind_takes_its_place() -> None:
    for kind in ("htb", "tbf", "htb"):
        delays.make(OUT, WANTED, kind)
        assert root_of(OUT, index()) == (kind, HANDLE)


@requires("delay")
def test_a_checksum_is_not_left_to_the_device() -> None:
    delays.make(OUT, WANTED, "tbf")
    shown = subprocess.run(["ethtool", "-k", OUT], check=True, capture_output=True, text=True).stdout
    assert "tx-checksumming: off" in shown


@requires("delay")
def test_nobody_speaks_there() -> None:
    delays.make(OUT, WANTED, "tbf")
    links.set_up(INTO)
    assert links.observe_addresses(OUT) == links.observe_addresses(INTO) == set()
    for name in (OUT, INTO):
        with open(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6") as setting:
            assert setting.read().strip() == "1"


HURTS = {
    "down": f"ip link set {OUT} down",
    "without a queue": f"tc qdisc del dev {OUT} root",
    "with another's queue": f"tc qdisc replace dev {OUT} root handle 7: tbf rate 1mbit burst 10k limit 10k",
    "without its peer": f"ip link del {INTO}",
}


@requires("delay")
@pytest.mark.parametrize("name", HURTS)
def test_what_was_done_to_it_is_seen_and_repaired(kept: Kept, name: str) -> None:
    kept.apply()
    assert kept.seen() == {OUT: WANTED}
    subprocess.run(HURTS[name].split(), check=True)
    assert kept.seen() != {OUT: WANTED}
    kept.apply()
    assert kept.seen() == {OUT: WANTED}


@requires("delay")
def test_the_next_agent_takes_it_over(kept: Kept) -> None:
    kept.apply()
    before = index()
    other = Kept()
    try:
        assert other.seen() == {}
        other.apply()
        assert other.seen() == {OUT: WANTED}
    finally:
        other.close()
    assert index() == before


@requires("delay")
def test_what_is_not_wanted_goes(kept: Kept) -> None:
    kept.apply()
    kept.apply(None)
    assert links.find(OUT) is links.find(INTO) is None
    kept.apply(None)
    assert kept.seen() == {}


def test_without_any_such_queue_there_is_no_pair_and_it_is_told_once(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "delay", lambda: ABSENT)
    kept.apply()
    kept.apply()
    assert kept.told == ["no delay"]
    assert links.find(OUT) is None
    assert kept.seen() == {OUT: WANTED}, "there is nothing to repair"


@requires("delay")
def test_the_best_that_there_is_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert delays.kind() == next(name for name in QUEUES if name != "fq" or features.fq().present)


def test_the_token_is_what_the_bucket_is_made_for() -> None:
    assert TOKEN_BYTES == 14 + 20 + 8 + 44


@pytest.fixture
def kept() -> Iterator[Kept]:
    made = Kept()
    yield made
    made.close()
