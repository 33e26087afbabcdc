"""Ports that sockets get by themselves, in a namespace where we say which."""

import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from meshfabric.kernel import netns
from meshfabric.kernel.ephemeral import RANGE, RESERVED, given_to_sockets, reserve
from tests.kernel.cell import namespace

CASES = {
    "Linux's own": ("32768 60999", "", range(61000, 65536), []),
    "wider": ("1024 65535", "", range(61000, 65536), [range(61000, 65536)]),
    "reserved": ("1024 65535", "61000-65535", range(61000, 65536), []),
    "partly reserved": (
        "1024 62000",
        "61500,61700-61800",
        range(61000, 65536),
        [
            range(61000, 61500),
            range(61501, 61700),
            range(61801, 62001),
        ],
    ),
    "below": ("32768 60999", "", range(32760, 32770), [range(32768, 32770)]),
}


@pytest.mark.parametrize("name", CASES)
def test_which_ports_are_given_to_sockets(name: str) -> None:
    row, reserved, ports, wanted = CASES[name]

    def ask(row: str, reserved: str, ports: range) -> list[range]:
        RANGE.write_text(row)
        RESERVED.write_text(reserved + "\n")
        return given_to_sockets(ports)

    with namespace() as where:
        assert netns.run(where, ask, row, reserved, ports) == wanted


def test_what_is_reserved_no_socket_gets_and_what_was_stays_so() -> None:
    def take() -> list[int]:
        """Every port that there is for sockets, but one that is asked for by its number."""
        RANGE.write_text("50000 50009")
        RESERVED.write_text("50001,60000-60010\n")
        assert reserve(range(50003, 50008)) == [range(50003, 50008)]
        assert reserve(range(50003, 50009)) == [range(50008, 50009)]
        assert RESERVED.read_text() == "50001,50003-50008,60000-60010\n"
        with ExitStack() as stack:
            sockets = [stack.enter_context(socket.socket(type=socket.SOCK_DGRAM)) for _ in range(4)]
            sockets[0].bind(("", 50004))
            for one in sockets[1:]:
                one.bind(("", 0))
            return [one.getsockname()[1] for one in sockets]

    with namespace() as where:
        first, *others = netns.run(where, take)
    assert first == 50004
    assert sorted(others) == [50000, 50002, 50009]


def test_they_are_read_where_they_stand() -> None:
    assert Path(RANGE).exists()
    assert given_to_sockets(range(0)) == []
