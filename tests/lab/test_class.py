"""Traffic classes on their way from an operator to every node."""

import sys
from collections.abc import Iterator

import pytest

from meshfabric.lab import build
from meshfabric.lab.state import Lab
from tests.features import requires
from tests.lab.policies import everywhere
from tests.lab.store import Store
from tests.lab.whole import listing, names, order, until
from tests.patience import DEADLINE_S

pytestmark = requires("capabilities")

CLASSES = """\
name: front
select: tier=front
priority: 6
uplink: {guaranteed: 1mbit, max: 2gbit}
---
name: bulk
select: app in (backup, cache)
"""


@pytest.fixture
def classes(fabric: Lab) -> Iterator[Lab]:
    """Two classes in force on every node, which an operator applied on one of them."""
    command = [sys.executable, "-m", "meshfabric", "class", "apply", "--wait", "-"]
    done = build.run(fabric, "kube1", command, stdin=CLASSES, timeout_s=4 * DEADLINE_S)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("front: created\nbulk: created\nin force on 4 nodes (revision ")
    try:
        yield fabric
    finally:
        for name in ("front", "bulk"):
            if Store(fabric).get(f"classes/{name}") is not None:
                everywhere(fabric, Store(fabric).delete(f"classes/{name}"))


def selected(lab: Lab, node: str) -> dict[str, int]:
    """How many of a node's workloads send in each class that any sends in."""
    return {row["class"]: row["selected"] for row in listing(lab, node, "classes") if row["selected"]}


def test_a_class_that_is_applied_is_listed_on_every_node_with_its_workloads(classes: Lab) -> None:
    for node in names(classes):
        rows = {row["class"]: row for row in listing(classes, node, "classes")}
        assert list(rows) == ["control", "front", "interactive", "default", "bulk"]
        assert (rows["front"]["guaranteed"], rows["front"]["max"]) == (10**6, 2 * 10**9)
        assert (rows["bulk"]["priority"], rows["bulk"]["origin"]) == (1, "document")
    assert selected(classes, "kube1") == {"front": 2, "default": 1}
    assert selected(classes, "kube2") == {"bulk": 1, "default": 2}
    assert "front" in order(classes, "metal1", "class", "list").stdout
    assert order(classes, "kube1", "class", "delete", "front").stdout == "front: deleted\n"
    until(lambda: all("front" not in selected(classes, node) for node in names(classes)))
    assert selected(classes, "kube1") == {"default": 3}
