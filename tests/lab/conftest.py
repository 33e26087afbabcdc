"""The two whole labs of the session; each test gets one in order."""

import os
import shutil
from collections.abc import Iterator

import pytest

from meshfabric.kernel import features
from meshfabric.lab.state import Lab
from meshfabric.lab.tools import ETCD_VARIABLE
from tests.features import requires
from tests.lab.store import EARLY, back_up
from tests.lab.whole import FABRIC, MIXED, by_userspace, put_right, raised_whole


@pytest.fixture(scope="session")
def standing_fabric() -> Iterator[Lab]:
    """The built-in lab."""
    with raised_whole(FABRIC) as lab:
        yield lab


@pytest.fixture
def fabric(standing_fabric: Lab) -> Lab:
    """Four nodes in two segments, all well."""
    return put_right(standing_fabric)


@pytest.fixture(scope="session")
def standing_userspace(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """The built-in lab with wireguard-go for every tunnel: where the kernel has no WireGuard, it is that."""
    requires("wireguard-go", "tun")
    if not features.wireguard_module().present:
        yield request.getfixturevalue("standing_fabric")
        return
    with raised_whole(by_userspace(FABRIC)) as lab:
        yield lab


@pytest.fixture
def userspace(standing_userspace: Lab) -> Lab:
    """`fabric`, with processes behind its tunnels that can be killed; all well."""
    return put_right(standing_userspace)


@pytest.fixture(scope="session")
def standing_mixed() -> Iterator[Lab]:
    """Three nodes, one of them IPv4 only and one IPv6 only underneath; the distribution's etcd.

    `EARLY` is a backup of etcd from before any agent ran.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ETCD_VARIABLE, shutil.which("etcd", path=os.defpath) or "etcd")
        with raised_whole(MIXED, lambda lab: back_up(lab, EARLY)) as lab:
            yield lab


@pytest.fixture
def mixed(standing_mixed: Lab) -> Lab:
    """Three nodes in a row, all well."""
    return put_right(standing_mixed)
