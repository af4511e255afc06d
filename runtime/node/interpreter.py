"""Settings of the interpreter while a node runs: they are the node's job, not the user's."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_SWITCH_INTERVAL_S = 0.0005
"""A thread that opens another bundle gives way to a tick this soon."""


@contextmanager
def interpreter_held_back() -> Iterator[None]:
    """No garbage collection by itself: what a tick leaves behind is collected between ticks, when there is time.

    And other threads, where there are any, give way sooner than usual. What was loaded before is left out of the
    collections. Entered before the clock of the ticks starts, because a full collection of a large process takes longer
    than a tick.
    """
    was_enabled, interval = gc.isenabled(), sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        sys.setswitchinterval(interval)
        gc.unfreeze()
        if was_enabled:
            gc.enable()
