"""Ending a program by a signal: it finishes what it does, and exits with 0."""

from __future__ import annotations

import contextlib
import queue
import signal
import threading


class StopEvent(threading.Event):
    """An event that a signal handler may set, at any moment and more than once.

    The handler of :class:`threading.Event` takes a lock that the interrupted code may hold, be it a handler of the
    signal before: two signals shortly after one another then hang the process for good. A simple queue is made for
    that. Set, it stays set; one thread may wait.
    """

    def __init__(self) -> None:
        super().__init__()
        self._stopped = False
        self._wakes: queue.SimpleQueue[None] = queue.SimpleQueue()

    def is_set(self) -> bool:
        """Whether it was set."""
        return self._stopped

    def set(self) -> None:
        """Set it, and wake who waits."""
        self._stopped = True
        self._wakes.put(None)

    def clear(self) -> None:
        """Never: what was told to stop stops.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError("a StopEvent stays set; make another one")

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set, or for ``timeout`` seconds; whether it is set."""
        if not self._stopped:
            with contextlib.suppress(queue.Empty):
                self._wakes.get(timeout=None if timeout is None else max(0.0, timeout))
        return self._stopped


def stop_on_signals() -> StopEvent:
    """An event that SIGINT and SIGTERM set, for programs that run until they are told to stop."""
    stop = StopEvent()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    return stop
