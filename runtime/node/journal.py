"""A pipeline that tells its inputs to whoever subscribes: what a recording is made of."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.bundle import Manifest
from runtime.core.pipeline import DueWindow, Pipeline, Received, Rejected, TickPlan
from runtime.rig import FillPolicy, Rig
from runtime.transport.sockets import DecisionSender
from runtime.wire import JournalEntry, encode_entry
from runtime.wire.journal import Call


class JournaledPipeline(Pipeline):
    """A :class:`~runtime.core.pipeline.Pipeline` whose every input is published while somebody subscribes.

    Inputs are counted from the first one on, subscribed or not, so a reader knows whether it has all of them.
    """

    def __init__(
        self,
        rig: Rig,
        manifest: Manifest,
        start_ns: int,
        sender: DecisionSender,
        *,
        backend: str,
        compare: Sequence[FillPolicy] = (),
    ) -> None:
        """Begin; arguments as of the pipeline.

        Args:
            rig: what is delivered, and the policies.
            manifest: what the model needs.
            start_ns: now.
            sender: where entries are published.
            backend: of the session, for the record.
            compare: fill policies to compare with.
        """
        super().__init__(rig, manifest, start_ns, compare=compare)
        self._sender = sender
        self._order = 0
        self._numbers: Counter[Call] = Counter()
        self._frames: dict[str, int] = {}
        self._now_ns = start_ns
        self._settings = {
            "rig": rig.model_dump(mode="json"),
            "bundle": manifest.hash,
            "bundle_name": manifest.name,
            "backend": backend,
            "start_ns": start_ns,
            "wall_ns": time.time_ns() - (time.monotonic_ns() - start_ns),
            "compare": list(compare),
        }

    def introduce(self, now_ns: int) -> None:
        """Publish the run's settings: to be called whenever somebody subscribes to the journal."""
        entry = JournalEntry("begin", self._order, now_ns, settings=self._settings)
        self._sender.send(encode_entry(entry))

    def receive(self, parts: Sequence[Any], now_ns: int) -> Received | Rejected:
        """As the pipeline's; published with the time of arrival."""
        result = super().receive(parts, now_ns)
        modality = result.frame.modality if isinstance(result, Received) else result.modality or ""
        number = self._frames.get(modality, 0)
        self._frames[modality] = number + 1
        self._order += 1
        self._now_ns = now_ns
        if self._sender.journaled:
            entry = JournalEntry("frame", self._order - 1, now_ns, number, modality, parts=tuple(parts))
            self._sender.send(encode_entry(entry))
        return result

    def due_windows(self, now_ns: int) -> list[DueWindow]:
        """As the pipeline's; published where any window was due."""
        due = self.has_due_windows
        windows = super().due_windows(now_ns)
        if due:
            self._enter("windows", now_ns)
        return windows

    def store_evidence(self, modality: str, evidence: npt.NDArray[np.float32], capture_ns: int) -> None:
        """As the pipeline's; published without the evidence, which the bundle makes of the window again."""
        super().store_evidence(modality, evidence, capture_ns)
        self._enter("evidence", self._now_ns, modality=modality, capture_ns=capture_ns)

    def encode_failed(self, modality: str, now_ns: int, detail: str) -> None:
        """As the pipeline's; published."""
        super().encode_failed(modality, now_ns, detail)
        self._enter("encode_failed", now_ns, modality=modality, detail=detail)

    def replace_bundle(self, manifest: Manifest, now_ns: int = 0, backend: str = "") -> list[DueWindow]:
        """As the pipeline's; published with the bundle's hash and name and the session's backend."""
        windows = super().replace_bundle(manifest)
        bundle = {"bundle": manifest.hash, "bundle_name": manifest.name, "backend": backend}
        self._settings |= bundle
        self._enter("bundle", now_ns, settings=bundle)
        return windows

    def tick(self, now_ns: int) -> TickPlan | None:
        """As the pipeline's; published whether a tick was due or only silence was to be judged."""
        plan = super().tick(now_ns)
        self._enter("tick", now_ns)
        return plan

    def _enter(self, call: Call, at_ns: int, *, modality: str = "", **fields: Any) -> None:
        order, number = self._order, self._numbers[call]
        self._order += 1
        self._numbers[call] += 1
        self._now_ns = at_ns
        if self._sender.journaled:
            entry = JournalEntry(call, order, at_ns, number, modality, **fields)
            self._sender.send(encode_entry(entry))
