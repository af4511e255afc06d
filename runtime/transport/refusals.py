"""Refusals: connections and keys that a socket refused are counted; the log names each peer at most once a minute."""

from __future__ import annotations

import logging
import threading
from collections import Counter

from runtime.logs import Throttle, with_left_out

_LOG = logging.getLogger("afterimage.transport")
_INTERVAL_S = 60.0
"""A peer is named in the log at most once in this time, however often it tries."""
_PEERS = 64
"""Peers that are told apart in the log; a crowd beyond it shares one line in the interval."""


class Refusals:
    """Counts refusals by reason, and logs them; bounded, for any thread.

    The throttle is here and not only in our log handler, because the sockets also run in programs of others.
    """

    def __init__(self) -> None:
        """An empty count."""
        self._counts: Counter[str] = Counter()
        self._throttle = Throttle(_INTERVAL_S, _PEERS)
        self._lock = threading.Lock()

    def add(self, reason: str, peer: str, text: str, now_s: float) -> None:
        """Count one refusal, and log it unless the same was logged lately.

        Args:
            reason: one word, for the counts.
            peer: the key or address that is told apart.
            text: the line for the log.
            now_s: now, on any steady clock.
        """
        with self._lock:
            self._counts[reason] += 1
            left_out = self._throttle.admit((reason, peer), now_s)
        if left_out is not None:
            fields = {"reason": reason, "peer": peer}
            _LOG.warning("%s", with_left_out(text, left_out), extra={"fields": fields})

    def counts(self) -> dict[str, int]:
        """Reason -> how many."""
        with self._lock:
            return dict(self._counts)
