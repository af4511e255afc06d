"""What becomes of messages that a node accepted, by the rule of windows alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from benchmarks.virtual_node.ledger import SensorLedger
from benchmarks.virtual_node.payloads import Payload
from engines.bundle import ModalitySpec
from runtime.wire import Reason


@dataclass
class Stretch:
    """Accepted messages between two gaps: no window spans more than one stretch.

    Attributes:
        sizes: samples in each message.
        spoilt: whether its samples are what the sensor should not deliver.
        reason: for which messages are dropped that came into no window before the gap.
    """

    sizes: list[int] = field(default_factory=list)
    spoilt: list[bool] = field(default_factory=list)
    reason: Reason = Reason.BROKEN_WINDOW


@dataclass
class StretchLedger(SensorLedger):
    """A ledger that keeps every accepted message."""

    stretches: list[Stretch] = field(default_factory=lambda: [Stretch()])

    def take(self, payload: Payload, *, spoilt: bool) -> None:
        self.stretches[-1].sizes.append(len(payload.samples))
        self.stretches[-1].spoilt.append(spoilt)

    def gap(self, reason: Reason = Reason.BROKEN_WINDOW) -> None:
        self.stretches[-1].reason = reason
        self.stretches.append(Stretch())


def expected_fates(ledger: StretchLedger, spec: ModalitySpec, tolerated: int | None) -> Counter[str]:
    """How many messages must have which fate.

    Args:
        ledger: of the sensor.
        spec: its windows: one per hop in each stretch that is long enough.
        tolerated: a window with at most this many spoilt messages passes the checks of content; None: every one does.

    Returns:
        ``used``, ``pending`` or the reason for which a message was dropped -> messages.
    """
    fate: Counter[str] = Counter({r.value: n for r, n in ledger.dropped.items()})
    for stretch in ledger.stretches:
        sizes, spoilt = np.array(stretch.sizes, int), np.array(stretch.spoilt, bool)
        ends = np.cumsum(sizes)
        last = ends[-1] if len(ends) else 0
        windows = np.arange(spec.window, last + 1, spec.hop)[:, np.newaxis]
        has = (ends > windows - spec.window) & (ends - sizes < windows)
        passes = np.ones(len(windows), bool)
        if tolerated is not None:
            passes = has[:, spoilt].sum(axis=1) <= tolerated
        used, judged = has[passes].any(axis=0), has.any(axis=0)
        fate["used"] += int(used.sum())
        fate["corrupt"] += int((judged & ~used).sum())
        fate["pending" if stretch is ledger.stretches[-1] else stretch.reason.value] += int((~judged).sum())
    # Images that newer ones replaced were accepted, and then not used.
    fate["used"] -= ledger.superseded
    fate["superseded"] += ledger.superseded
    return +fate
