"""Where paths are shared, connections get around what befalls only their data.

pear ── up0 ── red  ── up0 ── plum      probes pass everywhere, and no path is better than the other
     ── up1 ── blue ── up1 ──
"""

from collections.abc import Iterator

import pytest

from meshfabric.lab import measure
from meshfabric.lab.state import Lab
from tests.features import requires
from tests.lab.losing import losing
from tests.lab.scrape import scraped
from tests.lab.whole import PAIR, address, paths, raised_whole, until, wait_whole

pytestmark = requires("capabilities", "delay", "nftables")

TEXT = f"{PAIR}sharing: on"
LARGE = "meta length > 800"
SMALL_BYTES = 256 << 10
CONNECTIONS = 16
"""That all of them have the same share by chance comes once in 30,000 runs."""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with raised_whole(TEXT) as lab:
        wait_whole(lab)
        yield lab


def moved(lab: Lab, node: str) -> float:
    """Connections that the node moved so far."""
    return scraped(lab, node)["meshfabric_packets_total"]['reason="flow_moved"']


def carried(lab: Lab) -> list[int]:
    """Bytes that pear sent by each path."""
    return [row["tx_bytes"] for row in paths(lab, "pear", "plum")]


def transfers(lab: Lab) -> None:
    for _ in range(CONNECTIONS):
        measure.transfer(lab, "pear/web", "plum/db", address(lab, "plum/db"), SMALL_BYTES)


def test_connections_are_shared_and_stay_where_they_are(lab: Lab) -> None:
    before = carried(lab)
    transfers(lab)
    assert all(now - then > SMALL_BYTES for now, then in zip(carried(lab), before, strict=True))
    assert moved(lab, "pear") == 0


def test_a_path_that_only_loses_data_is_left_by_those_that_suffer(lab: Lab) -> None:
    with losing(lab, "pear", "up0", LARGE):
        transfers(lab)
        until(lambda: moved(lab, "pear") > 0)
        assert all(row["state"] == "up" for row in paths(lab, "pear", "plum")), "probes saw nothing"
