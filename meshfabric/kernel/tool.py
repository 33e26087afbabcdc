"""Runs the few programs that we need: wg, wireguard-go, nft. What they print is kept out of the log.

Secrets go to them through standard input or a file, never in an argument: any
user may read the arguments of any process.
"""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from meshfabric.model.errors import PermanentError, TemporaryError, UnsupportedError

TIMEOUT_S = 10.0
WIREGUARD_GO_ENV = "MESHFABRIC_WIREGUARD_GO"
COMPLAINT = "Error: "  # nft quotes the place below its complaint, others complain last
_REMEDY = {
    "nft": "install the package nftables",
    "wg": "install the package wireguard-tools",
    "wireguard-go": "install the package wireguard-go",
}


def run(command: Sequence[str], text: str = "", *, secret: bool = False) -> str:
    """What the command prints, given `text` on its input; of a `secret` text no complaint is quoted.

    Raises UnsupportedError when it is not installed, PermanentError with its
    last complaint when it fails, TemporaryError when it hangs.
    """
    place = " ".join(command[:3])
    try:
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except FileNotFoundError as cause:
        raise _absent(command[0]) from cause
    except subprocess.TimeoutExpired as cause:
        raise TemporaryError(f"no answer within {TIMEOUT_S:.0f} s", place=place) from cause
    if done.returncode:
        said = "" if secret else _complaint(done.stderr)
        raise PermanentError(said or f"exit status {done.returncode}", place=place)
    return done.stdout


def find(name: str, setting: Path | None = None, variable: str = "") -> Path:
    """The program: as configured, else as the environment variable says, else from PATH.

    Raises UnsupportedError when it is not there or cannot be run.
    """
    named = setting or os.environ.get(variable) or shutil.which(name)
    if not named or not os.access(named, os.X_OK):
        raise _absent(str(named or name))
    return Path(named)


def _complaint(text: str) -> str:
    lines = text.strip().splitlines() or [""]
    return next((line.partition(COMPLAINT)[2] for line in lines if COMPLAINT in line), lines[-1])


def _absent(program: str) -> UnsupportedError:
    remedy = _REMEDY.get(os.path.basename(program), "")
    return UnsupportedError("no such program, or it cannot be run", place=program, remedy=remedy)
