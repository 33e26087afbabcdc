"""What the bench of policies fills tables with is what the agent reads out of them."""

from itertools import islice

from bench.policies import PORT_BE, TCP, conversations
from meshfabric.model.tables import read_flow


def test_flows_are_read_as_they_were_meant() -> None:
    for at, (key, value) in enumerate(islice(conversations(5), 10)):
        seen = read_flow(key, value)
        assert (seen.protocol, seen.ports) == (TCP, (at, int.from_bytes(PORT_BE, "big")))
        assert seen.replied
        assert not seen.closing
