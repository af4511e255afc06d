"""The interpreter while a node runs: garbage is collected between ticks, and other threads give way to a tick soon."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from runtime.core.clock import NS_PER_S

_SWITCH_INTERVAL_S = 0.0005
"""A thread that opens another bundle gives way to a tick this soon."""

_EVERY_NS = NS_PER_S
_SLACK_NS = 15_000_000
"""Garbage is collected about once a second, and only when the next tick is at least this far."""


class GarbageCollection:
    """Collects garbage when the node has nothing else to do and no tick is near."""

    def __init__(self, clock: Callable[[], int]) -> None:
        """Begin; the first collection is due a second from now."""
        self._clock = clock
        self._collected_ns = clock()

    def is_due(self, now_ns: int, deadline_ns: int) -> bool:
        """Whether a second has passed since the last one and there is time before the next tick."""
        return now_ns - self._collected_ns > _EVERY_NS and deadline_ns - now_ns > _SLACK_NS

    def collect(self) -> None:
        """Collect; takes milliseconds."""
        gc.collect()
        self._collected_ns = self._clock()


@contextmanager
def interpreter_tuned(clock: Callable[[], int]) -> Iterator[GarbageCollection]:
    """Turn automatic garbage collection off and switch between threads more often, until the block ends.

    What was loaded before is left out of later collections. Enter this before the clock of the ticks starts: it
    begins with a full collection, which takes longer than a tick in a large process.

    Args:
        clock: now in ns.

    Yields:
        The collections in place of the automatic ones.
    """
    was_enabled, interval = gc.isenabled(), sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield GarbageCollection(clock)
    finally:
        sys.setswitchinterval(interval)
        gc.unfreeze()
        if was_enabled:
            gc.enable()
