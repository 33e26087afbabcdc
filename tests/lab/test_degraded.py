"""A path that loses too much, or delays it, is left for a better one, and taken again when it is well.

pear ── up0 ── red  ── up0 ── plum      red is preferred
     ── up1 ── blue ── up1 ──
"""

from collections.abc import Iterator
from typing import Any

import pytest

from meshfabric.lab import impair
from meshfabric.lab.impairment import Impairment
from meshfabric.lab.state import Lab
from tests.features import requires
from tests.lab.streams import Flow, flowing
from tests.lab.whole import DRIFT, listing, paths, raised_whole, until, wait_whole

pytestmark = requires("capabilities", "delay")

TEXT = f"""\
segments:
  - {{name: red, ipv4: 172.31.1.0/24, delay_ms: 1}}
  - {{name: blue, ipv4: 172.31.2.0/24}}
nodes:
  - {{name: pear, uplinks: [{{name: up0, segment: red}}, {{name: up1, segment: blue, cost: 1}}]}}
  - {{name: plum, uplinks: [{{name: up0, segment: red}}, {{name: up1, segment: blue, cost: 1}}]}}
workloads:
  - {{name: web, node: pear}}
  - {{name: db, node: plum}}
probe: {{loss_percent: 10}}
{DRIFT}"""
ENDS = (("pear", "plum"), ("plum", "pear"))
FLOWS = (Flow("pear/web", "plum/db"), Flow("plum/db", "pear/web", 6))
LEFT_FOR = {"loss": Impairment(loss_percent=30), "delay": Impairment(delay_ms=200)}
WELL = Impairment(delay_ms=1)
SHOWN = {"loss": "lossy", "delay": "slow"}
WHY = {"loss": {"loses too much", "no answers"}, "delay": {"too slow", "no answers"}}
"""A delay that begins all at once looks like a cut first, and so do three losses in a row."""


@pytest.fixture(scope="module")
def standing() -> Iterator[Lab]:
    with raised_whole(TEXT) as lab:
        wait_whole(lab)
        yield lab


def active(lab: Lab, node: str, far: str) -> list[str]:
    """The segments that carry traffic."""
    return [row["segment"] for row in paths(lab, node, far) if row["active"]]


def all_take(lab: Lab, segment: str) -> bool:
    """Whether both ends do."""
    return all(active(lab, *ends) == [segment] for ends in ENDS)


def switches(lab: Lab, node: str) -> list[dict[str, Any]]:
    """What a node's agent tells, the latest first."""
    return listing(lab, node, "switches")


@pytest.mark.parametrize("what", LEFT_FOR)
def test_a_bad_path_is_left_and_taken_again_when_it_is_well(standing: Lab, what: str) -> None:
    lab = standing
    with flowing(lab, *FLOWS) as streams:
        until(streams.all_pass)
        until(lambda: all_take(lab, "red"))
        before = len(switches(lab, "pear"))
        impair.impair(lab, "red", LEFT_FOR[what])
        until(lambda: all_take(lab, "blue"))
        until(lambda: all(paths(lab, *ends)[0]["state"] == SHOWN[what] for ends in ENDS))
        until(lambda: len(switches(lab, "pear")) > before)
        assert WHY[what] & {one["why"] for one in switches(lab, "pear")[: -before or None]}
        impair.impair(lab, "red", WELL)
        until(lambda: all_take(lab, "red"))
        assert len(switches(lab, "pear")) - before <= 4, "it went to and fro"
