"""The cell itself: alone inside, nothing left behind, faults reported."""

import os
import socket
import subprocess
from pathlib import Path

from meshfabric.kernel import links
from tests.kernel import cell


def test_a_cell_sees_only_itself() -> None:
    assert os.getpid() == 1
    assert [link.name for link in links.observe() if not link.kind] == ["lo"]  # some kernels add ifb0, sit0
    assert not any(Path("/run").iterdir())
    assert all("." in pin.name for pin in cell.BPFFS.iterdir())  # but for the kernel's own progs.debug


def test_a_failure_inside_comes_out_with_its_words() -> None:
    def broken() -> cell.Result:
        raise ValueError("seven is not eight")

    result = cell.run(broken)
    assert result.outcome == "failed"
    assert "seven is not eight" in result.text


def test_a_cell_that_dies_is_a_failure() -> None:
    def dying() -> cell.Result:
        os._exit(3)

    assert cell.run(dying).outcome == "failed"


def test_what_was_started_in_a_cell_ends_with_it() -> None:
    reading, writing = os.pipe()

    def starting() -> cell.Result:
        subprocess.Popen(["sleep", "1000"], pass_fds=[writing])
        return cell.Result("passed", "")

    assert cell.run(starting).outcome == "passed"
    os.close(writing)
    assert os.read(reading, 1) == b""  # the end: nobody holds the other side any more
    os.close(reading)


def test_an_open_file_is_reported() -> None:
    kept: list[socket.socket] = []
    assert "left open" in cell.leaks(lambda: kept.append(socket.socket()))
    kept.pop().close()
