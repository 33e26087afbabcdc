"""Functions run in other network namespaces, and the caller stays where it is."""

import fcntl
import os
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from meshfabric.kernel import netns
from meshfabric.model.errors import TemporaryError
from tests.kernel.cell import namespace

SIOCGSKNS = 0x894C  # the namespace of a socket (include/uapi/linux/sockios.h)


def _here() -> int:
    return os.stat("/proc/thread-self/ns/net").st_ino


def test_the_function_is_there_and_the_caller_here() -> None:
    before = _here()
    with namespace() as path:
        assert netns.run(path, _here) == path.stat().st_ino != before
    assert _here() == before
    assert netns.run(None, _here) == before


def test_sockets_and_processes_belong_to_it() -> None:
    with namespace() as path:
        with netns.run(path, socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as made:
            owner = fcntl.ioctl(made, SIOCGSKNS)
        assert os.fstat(owner).st_ino == path.stat().st_ino
        os.close(owner)
        told = netns.run(path, subprocess.check_output, ["readlink", "/proc/self/ns/net"])
        assert told.strip() == f"net:[{path.stat().st_ino}]".encode()


def test_errors_come_out_as_they_are() -> None:
    def failing() -> None:
        raise KeyError("seven")

    with namespace() as path, pytest.raises(KeyError, match="seven"):
        netns.run(path, failing)


def test_a_gone_namespace_is_worth_another_try() -> None:
    with pytest.raises(TemporaryError, match="/proc/1/nowhere: the network namespace is gone"):
        netns.run(Path("/proc/1/nowhere"), _here)


def test_no_thread_stays() -> None:
    with namespace() as path:
        for _ in range(20):
            netns.run(path, _here)
    assert threading.active_count() == 1
