"""Shared by all tests."""

import os
import socket

import hypothesis
import pytest

from meshfabric.model.node import NodeKind
from meshfabric.model.settings import EtcdSettings, Settings, UplinkSettings
from tests.features import Needs, demanded_here, probe_here

# No deadlines: machines are shared and slow at times. In CI the same examples each time: what is
# found there must be found again.
hypothesis.settings.register_profile("shared machine", deadline=None, derandomize="CI" in os.environ)
hypothesis.settings.load_profile("shared machine")


def pytest_configure(config: pytest.Config) -> None:
    """Let tests say what they require of the kernel."""
    config.pluginmanager.register(Needs(probe_here, demanded_here()), "needs")


@pytest.fixture(scope="session")
def base() -> Settings:
    """A node with two uplinks in the segments of `strategies`."""
    uplinks = (UplinkSettings("up0", "up0", "red"), UplinkSettings("up1", "up1", "blue"))
    return Settings("lab", "n1", NodeKind.METAL, EtcdSettings(("http://127.0.0.1:2379",)), uplinks)


@pytest.fixture
def free_port() -> int:
    """A TCP port of loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
