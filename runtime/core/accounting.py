"""Where every message went: received = used + pending + dropped by reason, at every instant.

*received*: given to the node, whatever it was. *used*: at least one of its samples was in a window given out for
encoding. *pending*: accepted, in the buffer, and may still become part of a window. *dropped*: refused; or accepted,
but no window that contains it can be due any more. *lost*: gaps in the sequence numbers of accepted messages, which
are messages that never arrived and messages that arrived and were refused.

The three outcomes are counted where they happen and ``received`` where messages come in, so :meth:`Ledger.unaccounted`
is a check, not an identity.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from runtime.wire import Reason


@dataclass(slots=True)
class _Pending:
    start: int
    end: int
    refused: bool = False


class Ledger:
    """The messages of one modality; or those that belong to none, of which none is accepted.

    Sample positions are absolute: samples accepted since the start.
    """

    def __init__(self) -> None:
        self.received = 0
        self.used = 0
        self.dropped: Counter[Reason] = Counter()
        self._pending: deque[_Pending] = deque()

    @property
    def pending(self) -> int:
        """Accepted messages that may still become part of a window."""
        return len(self._pending)

    def unaccounted(self) -> int:
        """Messages that are in no other count; always 0."""
        return self.received - self.used - self.pending - sum(self.dropped.values())

    def counters(self) -> dict[str, Any]:
        """All counts, ready for JSON."""
        return {
            "received": self.received,
            "used": self.used,
            "pending": self.pending,
            "dropped": {reason.value: n for reason, n in sorted(self.dropped.items())},
            "unaccounted": self.unaccounted(),
        }

    def arrive(self) -> None:
        """A message came in."""
        self.received += 1

    def drop(self, reason: Reason) -> None:
        """The message that came in was refused."""
        self.dropped[reason] += 1

    def accept(self, start: int, end: int) -> None:
        """The message that came in was buffered as samples ``start .. end``."""
        self._pending.append(_Pending(start, end))

    def window_used(self, start: int, end: int) -> None:
        """Samples ``start .. end`` were given out for encoding."""
        self.expire(start)
        while self._pending and self._pending[0].start < end:
            self._pending.popleft()
            self.used += 1

    def window_refused(self, start: int, end: int) -> None:
        """A content check refused the window of samples ``start .. end``; its messages may be in a later window."""
        for message in self._pending:
            if message.start >= end:
                break
            message.refused = message.refused or message.end > start

    def expire(self, before: int) -> None:
        """No later window can begin before sample ``before``: drop the messages that end there or earlier."""
        pending = self._pending
        while pending and pending[0].end <= before:
            refused = pending.popleft().refused
            self.dropped[Reason.CORRUPT if refused else Reason.SUPERSEDED] += 1

    def discard(self, reason: Reason) -> None:
        """The buffer was emptied: drop every pending message."""
        if self._pending:
            self.dropped[reason] += len(self._pending)
            self._pending.clear()


def sum_counters(parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The sum of maps of counters, nested or not, key by key."""
    total: dict[str, Any] = {}
    for part in parts:
        _add(total, part)
    return total


def _add(total: dict[str, Any], part: Mapping[str, Any]) -> None:
    for key, value in part.items():
        if isinstance(value, Mapping):
            _add(total.setdefault(key, {}), value)
        else:
            total[key] = total.get(key, 0) + value
