"""How long tests wait for what happens by itself: generously, and longer where a machine is known to be slow.

MESHFABRIC_TEST_PATIENCE is a factor, read here and nowhere else: `tests.vm.matrix` sets it for an
emulated machine. Nothing waits so long that succeeds; what fails is told that much later.
"""

import os
import time
from collections.abc import Callable

from meshfabric.model.errors import MeshfabricError

PATIENCE = float(os.environ.get("MESHFABRIC_TEST_PATIENCE", "1"))
"""How much slower than a machine of today this one is."""
DEADLINE_S = 30.0 * PATIENCE
"""For anything at all, on a machine so busy that any process may stand still for seconds."""
POLL_S, POLL_MOST_S, SLOWER = 0.02, 0.2, 1.2
"""At first often, for what takes moments; then seldom, for asking costs what is waited for."""


def until(holds: Callable[[], object], within_s: float = DEADLINE_S) -> float:
    """Wait for it; the seconds it took, or the test fails. A question that cannot be asked is a no."""
    begun, pause = time.monotonic(), POLL_S
    doubt: object = None
    while True:
        late = time.monotonic() - begun > within_s  # before it is asked a last time
        try:
            if holds():
                return time.monotonic() - begun
        except MeshfabricError as error:
            doubt = error
        if late:
            raise AssertionError(f"not within {within_s:.0f} s" + (f": {doubt}" if doubt else ""))
        time.sleep(pause)
        pause = min(pause * SLOWER, POLL_MOST_S)
