"""What a node puts on an uplink gets lost on the way, all of it or some."""

import contextlib
import subprocess
from collections.abc import Iterator

from meshfabric.kernel import netns
from meshfabric.lab.state import Lab
from tests.lab.places import namespace

TABLE = "netdev losing"


@contextlib.contextmanager
def losing(lab: Lab, node: str, uplink: str, which: str = "") -> Iterator[None]:
    """What the node sends by the uplink gets lost, if nftables says that it is `which`; nothing else does."""
    rules = (
        f"add table {TABLE}; add chain {TABLE} out {{ type filter hook egress device {uplink} priority 0; }};"
        f" add rule {TABLE} out {which} drop"
    )
    _nft(lab, node, rules)
    try:
        yield
    finally:
        _nft(lab, node, f"delete table {TABLE}")


def _nft(lab: Lab, node: str, rules: str) -> None:
    netns.run(namespace(lab, node), subprocess.run, ["nft", rules], check=True)
