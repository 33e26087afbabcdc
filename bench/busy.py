"""A machine whose CPUs others want as well."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

HOG = "while True: pass"


@contextmanager
def crowded(count: int) -> Iterator[None]:
    """So many processes that want a CPU each, all the time."""
    hogs = [subprocess.Popen([sys.executable, "-c", HOG]) for _ in range(count)]
    try:
        yield
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()
