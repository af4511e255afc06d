"""What a node must have counted, computed from what was sent alone, and whether it did.

Most counters follow exactly from what was sent. Two things do not: which of two right reasons a node gives for random
bytes (:data:`GARBLED`), and what becomes of a message that was accepted, because that depends on when a window was cut
(:data:`FATES`). For those the sum is exact.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.virtual_node.payloads import Payload
from runtime.wire import Reason

GARBLED = (Reason.BAD_HEADER, Reason.WRONG_VERSION)
"""Random bytes may happen to be a msgpack map; then the wrong version is found first."""

FATES = (Reason.SUPERSEDED, Reason.BROKEN_WINDOW, Reason.CORRUPT, Reason.FROZEN)
"""Reasons for which a message is dropped after it was accepted."""


@dataclass
class SensorLedger:
    """What one sensor sent, and what must become of it.

    Attributes:
        frozen_frames: identical messages in a row that make a stream frozen, as in the rig.
        sent: messages handed to ZeroMQ.
        lost_in_queues: those of them that ZeroMQ's full queues dropped; counted where that was meant to happen.
        injected: fault -> how often.
        dropped: reason -> messages that must have been refused for it, exactly.
        nowhere: reason -> messages that belong to no modality of the rig.
        garbled: messages whose header was replaced by random bytes, to be refused for one of :data:`GARBLED`.
        accepted: messages in order and of the right form, which must have gone into the buffer.
        superseded: accepted messages that must have been replaced by newer ones before the engine took them; only
            faults that know it for certain count here.
        lost: messages that the numbers of accepted ones leave out: never sent, or refused.
        restarts: times that the numbers began again, or a set clock was followed.
        reanchored: times that a set clock was followed.
    """

    frozen_frames: int
    sent: int = 0
    lost_in_queues: int = 0
    injected: Counter[str] = field(default_factory=Counter)
    dropped: Counter[Reason] = field(default_factory=Counter)
    nowhere: Counter[Reason] = field(default_factory=Counter)
    garbled: int = 0
    accepted: int = 0
    superseded: int = 0
    lost: int = 0
    restarts: int = 0
    reanchored: int = 0
    _last: int = -1
    _before: bytes = b""
    _identical: int = 1

    def accept(self, sequence: int, payload: Payload, *, spoilt: bool = False) -> None:
        """Note a message in order: the node takes it in, or drops it as one of a run of identical ones.

        Args:
            sequence: its number.
            payload: its samples.
            spoilt: its samples are not what the sensor should deliver.
        """
        self._follow(sequence)
        repeats = payload.data == self._before and not payload.constant
        self._identical = self._identical + 1 if repeats else 1
        self._before = payload.data
        if self._identical >= self.frozen_frames:
            self.dropped[Reason.FROZEN] += 1
            self.gap(Reason.FROZEN)
        else:
            self.accepted += 1
            self.take(payload, spoilt=spoilt)

    def refuse_in_order(self, sequence: int, reason: Reason) -> None:
        """Note a message in order whose samples must be refused: it arrived, so it is not lost."""
        self._follow(sequence)
        self.dropped[reason] += 1
        self.gap()

    def restart(self, *, reanchored: bool = False) -> None:
        """The next accepted message begins a new count; ``reanchored`` where that is because the clock was set."""
        self.restarts += 1
        self.reanchored += reanchored
        self._last = -1
        self.gap()

    def take(self, payload: Payload, *, spoilt: bool) -> None:
        """Called for each message that goes into the buffer; for ledgers that predict windows."""

    def gap(self, reason: Reason = Reason.BROKEN_WINDOW) -> None:
        """Called where no window may span what came before and what comes next; for ledgers that predict windows.

        Args:
            reason: for which messages before the gap are dropped that came into no window.
        """

    def _follow(self, sequence: int) -> None:
        if self._last >= 0 and sequence > self._last + 1:
            self.lost += sequence - self._last - 1
            self.gap()
        self._last = sequence


def discrepancies(
    ledgers: Mapping[str, SensorLedger], nowhere: Mapping[Reason, int], counters: Mapping[str, Any]
) -> list[str]:
    """Where a node's counters are not what they must be, one line each; empty if all agree.

    Args:
        ledgers: modality -> what was sent.
        nowhere: reason -> messages that belong to no modality, besides those of the ledgers.
        counters: of :meth:`runtime.node.node.Node.counters`.
    """
    found = []
    for modality, ledger in ledgers.items():
        for what, expected, counted in _comparisons(ledger, counters["modalities"][modality]):
            if expected != counted:
                found.append(f"{modality}: {what}: must be {expected}, the node counted {counted}")
    every = sum((ledger.nowhere for ledger in ledgers.values()), Counter(nowhere))
    dropped = counters["unattributed"]["dropped"]
    for reason in sorted({*dropped, *(r.value for r in every)}):
        expected, counted = every[Reason(reason)], dropped.get(reason, 0)
        if expected != counted:
            found.append(f"of no modality: {reason}: must be {expected}, the node counted {counted}")
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
