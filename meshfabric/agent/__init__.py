"""The agent of a node: everything below, composed and kept running. See `main`."""

from meshfabric.agent.main import run

__all__ = ["run"]
