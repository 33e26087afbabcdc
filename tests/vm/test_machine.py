"""A VM passes on what its command says and how it ends, as it happens, and leaves nothing behind.

Each test boots the default kernel, which takes some seconds.
"""

import contextlib
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from meshfabric.model.errors import TemporaryError
from tests.features import requires
from tests.vm import machine, qemu
from tests.vm.__main__ import NO_VM, TIME_IS_UP
from tests.vm.kernels import CHECKOUT, DEFAULT, find
from tests.vm.qemu import Size

pytestmark = [requires("capabilities"), pytest.mark.timeout(300)]

SIZE = Size(memory_mib=512, timeout_s=120)
HARNESS = [sys.executable, "-m", "tests.vm", "--memory", "512"]
GONE_WITHIN_S = 20.0
SPEAKS_WITHIN_S = 120.0


class Said:
    """What a command said, by stream."""

    def __init__(self) -> None:
        self.out, self.err = bytearray(), bytearray()

    def run(self, *argv: str, **more: object) -> int:
        given = {"size": SIZE, "stdout": self.out.extend, "stderr": self.err.extend, **more}
        return machine.run(argv, **given)  # type: ignore[arg-type]  # options by name


@pytest.fixture
def said() -> Said:
    return Said()


def test_the_command_runs_as_root_in_the_checkout_on_that_kernel(said: Said) -> None:
    odd = "a 'b' \"c\" $d \\ *"
    script = 'uname -r; pwd; id -u; printf "%s\n" "$1" "$GIVEN"; echo wrong >&2; exit 7'
    assert said.run("sh", "-c", script, "sh", odd, env={"GIVEN": odd}) == 7
    assert said.out.decode().splitlines() == [find(DEFAULT).release, str(CHECKOUT), "0", odd, odd]
    assert said.err == b"wrong\n"


def test_what_it_writes_is_gone_with_it_but_for_out(said: Said, tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    script = f"echo x >{inside} && cat {inside} && echo kept >/out/file"
    assert said.run("sh", "-c", script, out=tmp_path) == 0
    assert said.out == b"x\n"
    assert not inside.exists()
    assert (tmp_path / "file").read_text() == "kept\n"


def test_what_it_says_comes_as_it_is_said(said: Said, tmp_path: Path) -> None:
    """The command goes on only after its first line was heard here."""
    script = "echo first; while [ ! -e /out/go ]; do sleep 0.1; done; seq 100000; echo last >&2"

    def heard(data: bytes) -> None:
        said.out.extend(data)
        (tmp_path / "go").touch()

    assert said.run("sh", "-c", script, out=tmp_path, stdout=heard) == 0
    assert said.out.split() == [b"first", *(b"%d" % number for number in range(1, 100001))]
    assert said.err == b"last\n"


def test_what_the_command_leaves_running_ends_with_it(said: Said) -> None:
    script = (
        "sleep 1000 & trap '' TERM; setsid sh -c 'trap \"\" TERM HUP; sleep 1001' & echo done >/dev/stdout"
    )
    assert said.run("sh", "-c", script) == 0
    assert said.out == b"done\n"


def test_modules_load_by_themselves(said: Said) -> None:
    script = (
        "ip link add wg9 type wireguard && ip link add d9 type dummy && tc qdisc add dev d9 root fq && lsmod"
    )
    assert said.run("sh", "-c", script) == 0, said.err.decode()
    assert {b"wireguard", b"dummy", b"sch_fq"} <= {bytes(line.split()[0]) for line in said.out.splitlines()}


def test_a_kernel_that_dies_is_told_with_its_last_words(said: Said) -> None:
    with pytest.raises(TemporaryError, match=r"(?s)ended before its command.*sysrq triggered crash"):
        said.run("sh", "-c", "echo c >/proc/sysrq-trigger")


def test_a_kernel_that_dies_at_boot_is_booted_anew(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first finds no process 1, which is its end."""
    arguments = [f"{qemu.ARGUMENTS} rdinit=/none", qemu.ARGUMENTS]
    command_line = qemu.command_line

    def next_line(*given: Any) -> list[str]:
        monkeypatch.setattr(qemu, "ARGUMENTS", arguments.pop(0))
        return command_line(*given)

    monkeypatch.setattr(qemu, "command_line", next_line)
    assert said.run("echo", "up") == 0
    assert not arguments
    assert said.out == b"up\n"


def test_a_kernel_that_complains_is_heard(said: Said) -> None:
    """Only its complaint is made up: whoever may write to the log may say that."""
    assert said.run("sh", "-c", "echo '<4>WARNING: CPU: 0 at net/core/made_up.c' >/dev/kmsg") == 0
    assert said.err.startswith(b"vm: the kernel complained")
    assert b"net/core/made_up.c" in said.err


def test_time_that_is_up_ends_it_with_a_line() -> None:
    done = subprocess.run(
        [*HARNESS, "--timeout", "2", "--", "sleep", "1000"],
        capture_output=True,
        text=True,
        check=False,
        cwd=CHECKOUT,
    )
    assert done.returncode == TIME_IS_UP
    assert done.stderr.splitlines()[-1] == "vm: not done within 2 s: the VM was ended"


def test_a_kernel_that_is_not_there_is_one_line() -> None:
    done = subprocess.run(
        [*HARNESS, "--kernel", "6.66", "--", "true"],
        capture_output=True,
        text=True,
        check=False,
        cwd=CHECKOUT,
    )
    assert (done.returncode, done.stdout) == (NO_VM, "")
    assert done.stderr == "vm: no kernel 6.66 (choose of 6.1, 6.12, newest)\n"


@pytest.mark.parametrize(("whom", "number"), [
    ("parent", signal.SIGKILL),
    ("harness", signal.SIGKILL),
    ("harness", signal.SIGINT),
    ("harness", signal.SIGTERM),
])  # fmt: skip
def test_nothing_is_left_when_it_is_ended(whom: str, number: int, tmp_path: Path) -> None:
    with speaking(tmp_path) as (parent, harness, qemu):
        os.kill(parent if whom == "parent" else harness, number)
        for pid in (harness, qemu):
            assert is_gone(pid)
    assert not list(tmp_path.iterdir())


@contextlib.contextmanager
def speaking(folder: Path) -> Iterator[tuple[int, int, int]]:
    """A shell whose child is the harness whose child is QEMU, once its command says something; their pids.

    Temporary files would be made in the folder.
    """
    line = " ".join([*HARNESS, "--", "sh", "-c", "'echo up; sleep 1000'"])
    shell = subprocess.Popen(
        ["sh", "-c", f"{line}; :"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "TMPDIR": str(folder)},
        cwd=CHECKOUT,
    )
    try:
        assert shell.stdout is not None
        with shell.stdout:
            assert select.select([shell.stdout], [], [], SPEAKS_WITHIN_S)[0], "nothing was said"
            assert os.read(shell.stdout.fileno(), 99) == b"up\n"
            (harness,) = children(shell.pid)
            (qemu,) = children(harness)
            yield shell.pid, harness, qemu
    finally:
        shell.kill()
        shell.wait()


def children(pid: int) -> list[int]:
    """Pids of a process's children."""
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_gone(pid: int) -> bool:
    """Whether a process that is no child of ours ends soon."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([handle], [], [], GONE_WITHIN_S)[0])
    finally:
        os.close(handle)


def test_a_shell_on_the_terminal() -> None:
    """Typed on a terminal of our own: commands, ^C, and the status of the shell's end."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(CHECKOUT)
        os.execv(sys.executable, HARNESS)
    try:
        until_shown(terminal, b"# ")
        os.write(terminal, b"sleep 1000\n")
        until_shown(terminal, b"sleep 1000\r")
        os.write(terminal, b"\x03")
        until_shown(terminal, b"# ")
        os.write(
            terminal, b"pwd; echo \"<$(uname -r)>\"; .venv/bin/python -c 'import meshfabric; print(6*7)'\n"
        )
        shown = until_shown(terminal, b"42\r")
        assert str(CHECKOUT).encode() in shown
        assert f"<{find(DEFAULT).release}>".encode() in shown
        os.write(terminal, b"exit 3\n")
        until_shown(terminal, None)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
    finally:
        os.close(terminal)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)


def until_shown(terminal: int, wanted: bytes | None) -> bytes:
    """What a terminal shows until something is among it, or until its other end is closed."""
    shown, deadline = b"", time.monotonic() + SPEAKS_WITHIN_S
    while wanted is None or wanted not in shown:
        left = deadline - time.monotonic()
        assert left > 0, shown
        if select.select([terminal], [], [], left)[0]:
            try:
                data = os.read(terminal, 65536)
            except OSError:  # EIO: the other end of a terminal is closed
                data = b""
            if not data:
                assert wanted is None, shown
                break
            shown += data
    return shown
