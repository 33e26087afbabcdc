"""A small fabric, printed: what each of four nodes makes.

            red 192.0.2.0/24, 2001:db8:1::/64
      |0            |0            |0
     n1            n2            n3            n4
      |1            |1                          |0
            blue 198.51.100.0/24

n1 and n2 have an uplink in each segment, n3 only red, n4 only blue: so n3 and
n4 cannot reach each other. A web pod lives on n1, its database on n1 and n2,
a guest on n4; two policies rule the database. Write the texts anew with

    python -m tests.golden.test_plan
"""

from pathlib import Path

import pytest

from meshfabric import __version__
from meshfabric.compiler.step import compile_plan
from meshfabric.model.plan import Plan
from meshfabric.model.policytext import EgressText, IngressText, PolicyText, read_policy
from meshfabric.model.world import Event, Kind
from tests.fabric import Attachment, Node, fabric, settle

HERE = Path(__file__).parent

RED_MTU = 1500
BLUE_MTU = 9000
POLICIES = [
    PolicyText(
        "database",
        "app=db",
        ingress=[
            IngressText(["app=web, tier in (gold, silver)"], ["tcp/5432", "tcp/8000-8100"]),
            IngressText(None, ["icmp", "icmpv6"]),
        ],
        egress=[],
    ),
    PolicyText("guests", "kind=guest", egress=[EgressText(["!kind"])]),
]


def red(host: int, cost: int = 0) -> Attachment:
    """An uplink in the red segment, with both families."""
    return Attachment("red", (f"192.0.2.{host}/24", f"2001:db8:1::{host}/64"), RED_MTU, cost)


def blue(host: int, cost: int = 10) -> Attachment:
    """A dearer one in the blue segment."""
    return Attachment("blue", (f"198.51.100.{host}/24",), BLUE_MTU, cost)


def four_nodes() -> list[Node]:
    """The fabric above, settled."""
    nodes = fabric([[red(1), blue(1)], [red(2), blue(2)], [red(3)], [blue(4)]])
    n1, n2, _, n4 = nodes
    for node in nodes:
        for text in POLICIES:
            node.tell(Event(Kind.POLICY, text.name, read_policy(text)))
    n1.attach("pod", "shop/web-1", {"app": "web", "tier": "gold"}, "mfp2", ["10.1.1.10", "fd00:1:0:1::10"])
    n1.attach("pod", "shop/db-0", {"app": "db"}, "mfp3", ["10.1.1.11"])
    n2.attach("pod", "shop/db-1", {"app": "db"}, "mfp2", ["10.1.2.11"])
    n4.attach("vm", "guest", {"kind": "guest"}, "tap0", ["10.1.4.20"])
    settle(nodes)
    return nodes


def printed(plan: Plan) -> str:
    """The plan's text with any version for this one."""
    return str(plan).replace(f'"agent":"{__version__}"', '"agent":"VERSION"') + "\n"


@pytest.mark.parametrize("node", four_nodes(), ids=lambda node: node.name)
def test_a_plan_reads_as_it_did(node: Node) -> None:
    assert printed(compile_plan(node.world)) == (HERE / f"plan_{node.name}.txt").read_text()


def test_two_fabrics_of_one_kind_are_the_same() -> None:
    assert [str(node.plan) for node in four_nodes()] == [str(node.plan) for node in four_nodes()]


def write() -> None:
    """Take what is made now for right."""
    for node in four_nodes():
        (HERE / f"plan_{node.name}.txt").write_text(printed(node.plan))


if __name__ == "__main__":
    write()
