"""Refusals: what is counted, and what is said of it: once a minute for each key or address, however often it knocks."""

from __future__ import annotations

import logging
import threading
from collections import Counter

_LOG = logging.getLogger("afterimage.transport")


class Refusals:
    """Counts refusals by reason, and logs each one's peer at most once in an interval; bounded, and for any thread."""

    def __init__(self, *, interval_s: float = 60.0, capacity: int = 64) -> None:
        """An empty count.

        Args:
            interval_s: a peer is in the log at most once in this time.
            capacity: peers that are told apart; a crowd beyond it shares one line in the interval.
        """
        self._counts: Counter[str] = Counter()
        self._interval_s = interval_s
        self._capacity = capacity
        self._said: dict[
            tuple[str, str], tuple[float, int]
        ] = {}  # when it was said last, and how often not since
        self._lock = threading.Lock()

    def add(self, reason: str, peer: str, text: str, now_s: float) -> None:
        """Count one refusal and say it, unless that was said lately.

        Args:
            reason: one word, for the counts.
            peer: the key or address that is told apart.
            text: the line for the log.
            now_s: now, on any steady clock.
        """
        with self._lock:
            self._counts[reason] += 1
            line = self._line(reason, peer, text, now_s)
        if line is not None:
            _LOG.warning("%s", line)

    def counts(self) -> dict[str, int]:
        """Reason -> how many."""
        with self._lock:
            return dict(self._counts)

    def _line(self, reason: str, peer: str, text: str, now_s: float) -> str | None:
        entry = (reason, peer)
        if entry not in self._said and len(self._said) >= self._capacity:
            self._said = {e: v for e, v in self._said.items() if now_s - v[0] < self._interval_s}
            if len(self._said) >= self._capacity:
                entry, text = (reason, "others"), f"more peers are refused than can be told apart ({reason})"
        said_s, silent = self._said.get(entry, (-float("inf"), 0))
        if now_s - said_s < self._interval_s:
            self._said[entry] = (said_s, silent + 1)
            return None
        self._said[entry] = (now_s, 0)
        return f"{text} ({silent} more times since)" if silent else text
