"""What a node logs, under ``afterimage.node``: changes of state as INFO, what it refuses or misses as WARNING."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from engines.session import Session
from runtime.core.clock import nanoseconds
from runtime.core.pipeline import Rejected
from runtime.logs import THROTTLE_S, throttled
from runtime.rig import Rig
from runtime.transport.endpoints import Endpoints
from runtime.wire import HealthEvent, Reason

_logger = logging.getLogger("afterimage.node")
_THROTTLE_NS = nanoseconds(THROTTLE_S)


class NodeLog:
    """The log of one node. It keeps what it needs to tell refusals and missed ticks apart and to throttle them."""

    def __init__(self) -> None:
        self._refusals: dict[tuple[str, str | None, Reason], tuple[int, int]] = {}
        """(rig, modality, reason) -> how many so far, and when a line was last written."""
        self._next_tick: dict[str, int] = {}

    def started(
        self, rigs: Sequence[Rig], session: Session, endpoints: Endpoints, control: str | None
    ) -> None:
        """The node is about to take messages in."""
        names = ", ".join(rig.name for rig in rigs)
        _logger.info(
            "rig %s, bundle %s on %s: frames %s, decisions %s",
            names,
            session.bundle_hash,
            session.backend,
            endpoints.frames,
            endpoints.decisions,
            extra=_fields(
                rig=names,
                bundle=session.bundle_hash,
                backend=session.backend,
                frames=endpoints.frames,
                decisions=endpoints.decisions,
                control=control,
            ),
        )

    def state_changed(self, event: HealthEvent) -> None:
        """The health of a sensor changed."""
        _logger.info(
            "%s/%s: %s -> %s (%s%s)",
            event.rig,
            event.modality,
            event.previous,
            event.state,
            event.reason,
            f": {event.detail}" if event.detail else "",
            extra=_fields(
                rig=event.rig,
                modality=event.modality,
                previous=event.previous,
                state=event.state,
                reason=event.reason,
                detail=event.detail,
            ),
        )

    def message_refused(self, rig: str, rejected: Rejected, now_ns: int) -> None:
        """A message was refused and counted. A flood of them costs a look-up each, and a line per throttle time."""
        key = rig, rejected.modality, rejected.reason
        count, logged_ns = self._refusals.get(key, (0, now_ns - _THROTTLE_NS))
        count += 1
        if now_ns - logged_ns < _THROTTLE_NS:
            self._refusals[key] = count, logged_ns
            return
        self._refusals[key] = count, now_ns
        whose = rejected.modality or "no modality of the rig"
        _logger.warning(
            "%s: message of %s refused, %s: expected %s, got %s (%d so far)",
            rig,
            whose,
            rejected.reason,
            rejected.expected,
            rejected.came,
            count,
            extra=throttled(
                f"refused {rig} {whose} {rejected.reason}",
                rig=rig,
                modality=rejected.modality,
                reason=rejected.reason,
                expected=rejected.expected,
                came=rejected.came,
                count=count,
            ),
        )

    def tick_planned(self, rig: str, number: int) -> None:
        """A tick is about to be fused; the numbers between it and the one before were missed."""
        missed = number - self._next_tick.get(rig, 0)
        self._next_tick[rig] = number + 1
        if missed:
            _logger.warning(
                "%s: %d ticks missed before tick %d: the node was held up, or the engine is too slow",
                rig,
                missed,
                number,
                extra=throttled(f"missed {rig}", rig=rig, missed=missed, tick=number),
            )

    def engine_failed(self, stage: str, error: Exception) -> None:
        """The engine failed in a stage; the node goes on."""
        _logger.error(
            "the engine failed in %s: %s",
            stage,
            error,
            extra=throttled(f"failed {stage}", stage=stage, error=str(error)),
        )

    def bundle_swapped(self, previous: Session, session: Session) -> None:
        """Another bundle took over."""
        _logger.info(
            "bundle %s on %s replaced bundle %s",
            session.bundle_hash,
            session.backend,
            previous.bundle_hash,
            extra=_fields(bundle=session.bundle_hash, backend=session.backend, previous=previous.bundle_hash),
        )

    def swap_failed(self, path: str, detail: str) -> None:
        """A bundle that was to take over could not; the one at work goes on."""
        _logger.warning(
            "bundle %s was not taken over: %s",
            path,
            detail,
            extra=throttled("swap", path=path, detail=detail),
        )


def _fields(**fields: Any) -> dict[str, Any]:
    """The ``extra`` of a record that is not throttled: entries of its JSON form."""
    return {"fields": fields}
