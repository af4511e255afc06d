"""What a node logs, under ``afterimage.node``: state changes as INFO, what it refuses or misses as WARNING.

What can come often is throttled here, and not only by our log handler, because a node also runs in programs of others;
and before a line is formatted, so that a flood of refused messages cannot hold up a tick.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from engines.session import Session
from runtime.core.clock import NS_PER_S
from runtime.core.pipeline import Rejected
from runtime.logs import THROTTLE_S, Throttle, with_left_out
from runtime.rig import Rig
from runtime.transport.endpoints import Endpoints
from runtime.wire import HealthEvent

_LOG = logging.getLogger("afterimage.node")


class NodeLog:
    """The log of one node."""

    def __init__(self, clock: Callable[[], int]) -> None:
        """Nothing logged yet.

        Args:
            clock: now in ns, the node's.
        """
        self._clock = clock
        self._throttle = Throttle(THROTTLE_S)
        self._next_tick: dict[str, int] = {}

    def started(
        self, rigs: Sequence[Rig], session: Session, endpoints: Endpoints, control: str | None
    ) -> None:
        """The node is about to take messages in."""
        names = ", ".join(rig.name for rig in rigs)
        text = (
            f"rig {names}, bundle {session.bundle_hash} on {session.backend}: "
            f"frames {endpoints.frames}, decisions {endpoints.decisions}"
        )
        _info(
            text,
            rig=names,
            bundle=session.bundle_hash,
            backend=session.backend,
            frames=endpoints.frames,
            decisions=endpoints.decisions,
            control=control,
        )

    def state_changed(self, event: HealthEvent) -> None:
        """The health of a sensor changed."""
        why = f"{event.reason}: {event.detail}" if event.detail else event.reason
        _info(
            f"{event.rig}/{event.modality}: {event.previous} -> {event.state} ({why})",
            rig=event.rig,
            modality=event.modality,
            previous=event.previous,
            state=event.state,
            reason=event.reason,
            detail=event.detail,
        )

    def message_refused(self, rig: str, rejected: Rejected) -> None:
        """A message was refused and counted."""
        left_out = self._admit(("refused", rig, rejected.modality, rejected.reason))
        if left_out is None:
            return
        whose = "of no modality of the rig" if rejected.modality is None else f"of {rejected.modality}"
        text = (
            f"{rig}: a message {whose} was refused, {rejected.reason}: "
            f"expected {rejected.expected}, got {rejected.came}"
        )
        _log(
            logging.WARNING,
            text,
            left_out,
            rig=rig,
            modality=rejected.modality,
            reason=rejected.reason.value,
            expected=rejected.expected,
            came=rejected.came,
        )

    def tick_planned(self, rig: str, number: int) -> None:
        """A tick is about to be fused; the numbers between it and the one before were missed."""
        missed = number - self._next_tick.get(rig, 0)
        self._next_tick[rig] = number + 1
        if missed and (left_out := self._admit(("missed", rig))) is not None:
            text = f"{rig}: {missed} ticks missed before tick {number}; the node was held up or its engine is too slow"
            _log(logging.WARNING, text, left_out, rig=rig, missed=missed, tick=number)

    def engine_failed(self, stage: str, error: Exception) -> None:
        """The engine failed in a stage; the node goes on."""
        if (left_out := self._admit(("failed", stage))) is not None:
            text = f"the engine failed in {stage}: {error}"
            _log(logging.ERROR, text, left_out, stage=stage, error=str(error))

    def bundle_swapped(self, previous: str, session: Session) -> None:
        """The session of another bundle took over from the bundle with the hash ``previous``."""
        _info(
            f"bundle {session.bundle_hash} on {session.backend} took over from bundle {previous}",
            bundle=session.bundle_hash,
            backend=session.backend,
            previous=previous,
        )

    def swap_failed(self, path: str, detail: str) -> None:
        """A bundle that was to take over could not; the one at work goes on."""
        if (left_out := self._admit(("swap",))) is not None:
            text = f"bundle {path!r} could not take over: {detail}"
            _log(logging.WARNING, text, left_out, path=path, detail=detail)

    def _admit(self, key: Hashable) -> int | None:
        return self._throttle.admit(key, self._clock() / NS_PER_S)


def _info(text: str, **fields: Any) -> None:
    _LOG.info("%s", text, extra={"fields": fields})


def _log(level: int, text: str, left_out: int, **fields: Any) -> None:
    _LOG.log(level, "%s", with_left_out(text, left_out), extra={"fields": {**fields, "left_out": left_out}})
