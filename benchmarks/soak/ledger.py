"""What a node must have counted after a soak run, and whether it did: the driver's books, kept apart from the node's.

Most counters follow exactly from what was sent. Two things do not: which of the reasons that are right for random
bytes a node gives (:data:`GARBLED`), and what becomes of a message that was accepted, since that depends on when a
window was cut (:data:`FATES`). For those the sum is exact.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.soak.messages import Payload
from runtime.wire import Reason

GARBLED = (Reason.BAD_HEADER, Reason.WRONG_VERSION)
"""Random bytes may be a msgpack map by chance; then it is the version that is wrong first."""

FATES = (Reason.SUPERSEDED, Reason.BROKEN_WINDOW, Reason.CORRUPT, Reason.FROZEN)
"""Reasons for which a message is dropped after it was accepted."""


@dataclass
class SensorLedger:
    """What one sensor sent, and what must become of it.

    Attributes:
        frozen_frames: identical messages in a row that make a stream frozen, as in the rig.
        sent: messages handed to ZeroMQ.
        lost_in_queues: of those, dropped by ZeroMQ's full queues; counted where that was meant to happen.
        injected: fault -> how often.
        dropped: reason -> messages that must have been refused for it, exactly.
        garbled: messages whose header was replaced by random bytes, to be refused for one of :data:`GARBLED`.
        accepted: messages in order and of the right form, which must have gone into the buffer.
        lost: messages that the numbers of accepted ones leave out: never sent, or refused.
        restarts: times that the count began again, or a set clock was followed.
        reanchored: times that a set clock was followed.
    """

    frozen_frames: int
    sent: int = 0
    lost_in_queues: int = 0
    injected: Counter[str] = field(default_factory=Counter)
    dropped: Counter[Reason] = field(default_factory=Counter)
    garbled: int = 0
    accepted: int = 0
    lost: int = 0
    restarts: int = 0
    reanchored: int = 0
    _last: int = -1
    _before: bytes = b""
    _identical: int = 1

    def accept(self, sequence: int, payload: Payload) -> None:
        """A message in order was sent: it is taken in, or if it is one of a run of identical ones dropped as frozen."""
        self._follow(sequence)
        repeats = payload.data == self._before and not payload.constant
        self._identical = self._identical + 1 if repeats else 1
        self._before = payload.data
        if self._identical >= self.frozen_frames:
            self.dropped[Reason.FROZEN] += 1
        else:
            self.accepted += 1

    def refuse_in_order(self, sequence: int, reason: Reason) -> None:
        """A message in order was sent whose samples must be refused: it came, so it is not lost."""
        self._follow(sequence)
        self.dropped[reason] += 1

    def restart(self) -> None:
        """The next accepted message begins a new count."""
        self.restarts += 1
        self._last = -1

    def _follow(self, sequence: int) -> None:
        if self._last >= 0:
            self.lost += sequence - self._last - 1
        self._last = sequence


def discrepancies(
    ledgers: Mapping[str, SensorLedger], nowhere: Mapping[Reason, int], counters: Mapping[str, Any]
) -> list[str]:
    """Where a node's counters are not what they must be, one line each; empty if all agree.

    Args:
        ledgers: modality -> what was sent.
        nowhere: reason -> messages sent that belong to no modality.
        counters: of :meth:`runtime.core.pipeline.Pipeline.counters`.
    """
    found = []
    for modality, ledger in ledgers.items():
        for what, must, did in _comparisons(ledger, counters["modalities"][modality]):
            if must != did:
                found.append(f"{modality}: {what}: must be {must}, the node counted {did}")
    dropped = counters["unattributed"]["dropped"]
    for reason in sorted({*dropped, *(r.value for r in nowhere)}):
        if dropped.get(reason, 0) != nowhere.get(Reason(reason), 0):
            found.append(
                f"of no modality: {reason}: must be {nowhere.get(Reason(reason), 0)}, the node counted "
                f"{dropped.get(reason, 0)}"
            )
    if counters["unaccounted"]:
        found.append(f"unaccounted: must be 0, the node counted {counters['unaccounted']}")
    return found


def _comparisons(ledger: SensorLedger, counted: Mapping[str, Any]) -> Iterator[tuple[str, int, int]]:
    """(What, what it must be, what it is) of every counter of one modality."""
    dropped: Mapping[str, int] = counted["dropped"]
    yield "received = sent - lost in queues", ledger.sent - ledger.lost_in_queues, counted["received"]
    yield "lost", ledger.lost + ledger.lost_in_queues, counted["lost"]
    yield "restarts", ledger.restarts, counted["restarts"]
    yield "clock_reanchored", ledger.reanchored, counted["clock_reanchored"]
    yield "unaccounted", 0, counted["unaccounted"]
    exact = [r for r in Reason if r not in GARBLED and r not in FATES]
    for reason in exact:
        yield reason.value, ledger.dropped[reason], dropped.get(reason.value, 0)
    garbled = sum(ledger.dropped[r] for r in GARBLED) + ledger.garbled
    yield " or ".join(r.value for r in GARBLED), garbled, sum(dropped.get(r.value, 0) for r in GARBLED)
    later = sum(dropped.get(r.value, 0) for r in FATES) - ledger.dropped[Reason.FROZEN]
    fates = counted["used"] + counted["pending"] + later
    yield "used + pending + dropped later", ledger.accepted - ledger.lost_in_queues, fates
    # At least those that were refused on arrival; what else was in the buffer then is dropped with them.
    frozen = dropped.get(Reason.FROZEN.value, 0)
    yield "frozen, at least", ledger.dropped[Reason.FROZEN], min(frozen, ledger.dropped[Reason.FROZEN])
