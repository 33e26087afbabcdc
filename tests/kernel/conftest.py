"""Every test of this folder runs in a cell of its own (see `cell`), with the real kernel."""

import platform
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.features import requires
from tests.kernel import cell

Compile = Callable[[str], Path]

HEADER = """
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>
char _license[] SEC("license") = "GPL";
"""
WIREGUARD_GO = Path(__file__).parents[2] / "build/deb/usr/bin/wireguard-go"


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool:
    """Call the test in its cell; it fails too when it leaves files open or warns while being collected."""
    requires("capabilities")
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    outcome, text = cell.run(lambda: _result(pyfuncitem, arguments))
    if outcome == "skipped":
        pytest.skip(text)
    if outcome == "failed":
        pytest.fail(text, pytrace=False)
    return True


def _result(item: pytest.Function, arguments: dict[str, object]) -> cell.Result:
    try:
        left = cell.leaks(lambda: item.obj(**arguments))
    except pytest.skip.Exception as skipped:
        return cell.Result("skipped", str(skipped))
    except BaseException:  # it is told where the test was asked for
        return cell.Result("failed", str(item.repr_failure(pytest.ExceptionInfo.from_current())))
    return cell.Result("failed" if left else "passed", left)


@pytest.fixture(scope="session")
def compile_bpf(tmp_path_factory: pytest.TempPathFactory) -> Compile:
    """Makes an object file of C text (beside the usual includes), each text once."""
    folder = tmp_path_factory.mktemp("bpf")
    made: dict[str, Path] = {}

    def compiled(text: str) -> Path:
        if text not in made:
            source = folder / f"o{len(made)}.bpf.c"
            source.write_text(HEADER + text)
            made[text] = source.with_suffix(".o")
            include = f"/usr/include/{platform.machine()}-linux-gnu"
            flags = ["-O2", "-g", "-Wall", "-Werror", "-target", "bpf", "-idirafter", include]
            subprocess.run(["clang-19", *flags, "-c", source, "-o", made[text]], check=True)
        return made[text]

    return compiled


@pytest.fixture(scope="session")
def wireguard_go() -> Path | None:
    """The build that the repository's own packages are made with, where it is there."""
    return WIREGUARD_GO if WIREGUARD_GO.exists() else None
