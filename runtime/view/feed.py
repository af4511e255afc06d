"""The feed: the one thread that reads the node for the page and the metrics."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from runtime.client import Client
from runtime.view.state import Snapshot, ViewState
from runtime.wire import Decision, Output

_OBSERVED = ("best/", "imputed/")
_POLL_S = 0.05
"""While the node is silent, the thread notices within this time that a browser came or that it is to stop."""
_STATUS_WORDS = {"absent": "not there yet", "live": "deciding", "stopped": "silent"}
_LOG = logging.getLogger("afterimage.view")


class DecisionWatcher(Protocol):
    """Something that is shown every decision, such as the histograms of the metrics."""

    def decided(self, decision: Decision) -> None:
        """Take in one decision; called in the feed's thread, so it must be quick."""
        ...


class NodeFeed:
    """Reads a node's decisions, state changes and statistics, and its observations while somebody looks at the page.

    The node decodes observations only while somebody subscribes to them: a page that nobody looks at costs it nothing.
    """

    def __init__(
        self,
        client: Client,
        *,
        watcher: DecisionWatcher | None = None,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """Take over a client; :meth:`start` starts the thread.

        Args:
            client: subscribed to ``fused``, ``health`` and ``statistics``; closed with the feed.
            watcher: is shown every decision.
            clock: now in ns.
        """
        self.rig = client.rig
        self._client = client
        self._watcher = watcher
        self._clock = clock
        self._state = ViewState(client.rig)
        self._lock = threading.Lock()
        self._watching = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="afterimage-view-feed", daemon=True)
        self.decisions = 0
        """Decisions that came so far."""

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def close(self) -> None:
        """Stop reading and disconnect; may be called again."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._client.close()

    @property
    def watching(self) -> int:
        """How many browsers are subscribed to observations now."""
        return self._watching

    @contextmanager
    def watched(self) -> Iterator[None]:
        """A context during which observations are subscribed to."""
        with self._lock:
            self._watching += 1
        try:
            yield
        finally:
            with self._lock:
                self._watching -= 1

    def snapshot(self) -> Snapshot:
        """What is known now; from any thread."""
        with self._lock:
            return self._state.snapshot(self._clock())

    def _run(self) -> None:
        observing, status = False, "absent"
        while not self._stop.is_set():
            with self._lock:
                before, status = status, self._state.status(self._clock())
            if status != before:
                _LOG.info("the node of rig %s is %s", self.rig.name, _STATUS_WORDS[status])
            if observing != (self._watching > 0):
                observing = not observing
                (self._client.subscribe if observing else self._client.unsubscribe)(*_OBSERVED)
                if not observing:
                    with self._lock:
                        self._state.forget_observations()
            message = self._client.receive(_POLL_S)
            if message is not None:
                self._take(message)

    def _take(self, message: Output) -> None:
        with self._lock:
            self._state.add(message, self._clock())
            self._state.lost = self._client.lost
        if isinstance(message, Decision):
            self.decisions += 1
            if self._watcher is not None:
                self._watcher.decided(message)
