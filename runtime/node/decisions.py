"""From the plan of a tick to its messages: fusion, the decision, and observations.

A live node and a replay share this code, so the same inputs give the same decisions in both.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from engines.session import Session
from runtime.core.pipeline import DueWindow, FusionInput, State, TickPlan
from runtime.rig import Rig
from runtime.wire import Alternative, Decision, ModalityReport, Observation


@dataclass(frozen=True, slots=True)
class FusedPlan:
    """The result of fusing a tick's plan: class probabilities, in the order of the manifest's classes.

    Attributes:
        own: under the rig's own policy.
        compared: under each compared policy, in the plan's order.
        cross_checks: modality -> from that modality alone, and from the others; empty at most ticks.
    """

    own: list[float]
    compared: list[list[float]] = field(default_factory=list)
    cross_checks: Mapping[str, tuple[list[float], list[float]]] = field(default_factory=dict)


def fuse_plans(session: Session, plans: Sequence[TickPlan]) -> list[FusedPlan]:
    """Fuse the plans of ticks that are due together, from one rig or several, in as few calls as the engine allows.

    Raises:
        EngineError: the engine failed.
    """
    inputs = [each for plan in plans for each in _inputs(plan)]
    size = session.maximum_batch or len(inputs)
    rows = iter(
        [row for at in range(0, len(inputs), size) for row in _fused(session, inputs[at : at + size])]
    )
    return [
        FusedPlan(
            next(rows),
            list(islice(rows, len(plan.alternatives))),
            {modality: (next(rows), next(rows)) for modality in plan.cross_checks},
        )
        for plan in plans
    ]


def _inputs(plan: TickPlan) -> Iterator[FusionInput]:
    yield plan.input
    yield from plan.alternatives.values()
    for check in plan.cross_checks.values():
        yield check.alone
        yield check.others


def _fused(session: Session, inputs: Sequence[FusionInput]) -> list[list[float]]:
    """One row per input; evidence that an input lacks is zeros."""
    if len(inputs) == 1:
        evidence = {name: e[np.newaxis] for name, e in inputs[0].evidence.items()}
        presence = inputs[0].presence[np.newaxis]
    else:
        blank = {m.name: np.zeros(m.evidence_size, np.float32) for m in session.manifest.modalities}
        evidence = {
            name: np.stack([i.evidence.get(name, zero) for i in inputs]) for name, zero in blank.items()
        }
        presence = np.stack([i.presence for i in inputs])
    rows: list[list[float]] = session.fuse(evidence, presence).probabilities.tolist()
    return rows


def blank_evidence(session: Session) -> dict[str, npt.NDArray[np.float32]]:
    """The evidence of an all-zero window of every modality, which policy ``zero`` feeds in place of absent ones.

    Raises:
        EngineError: the engine failed.
    """
    return {
        m.name: session.encode(m.name, np.zeros((1, *m.window_shape), dtype=m.dtype))[0]
        for m in session.manifest.modalities
    }


class DecisionMaker:
    """Makes the messages of a rig's ticks: decisions, and observations of single modalities."""

    def __init__(self, rig: Rig, session: Session) -> None:
        """Make messages of a rig with the session of a bundle that it feeds."""
        self.rig = rig
        self._session = session
        self._names = rig.modality_names
        self._classes = session.manifest.classes
        self._units = {m.name: m.observation_unit for m in session.manifest.modalities}

    def decision(self, plan: TickPlan, fused: FusedPlan, *, published_ns: int, fuse_ms: float) -> Decision:
        """The decision of a tick.

        Args:
            plan: of the tick.
            fused: the result of fusing it.
            published_ns: now.
            fuse_ms: how long the tick took so far.
        """
        own, weights = fused.own, plan.input.presence.tolist()
        latency = {"fuse": fuse_ms, "lateness": (published_ns - plan.deadline_ns) / 1e6}
        if plan.capture_ns is not None:
            latency["frame_to_decision"] = (published_ns - plan.capture_ns) / 1e6
        return Decision(
            rig=self.rig.name,
            bundle=self._session.bundle_hash,
            tick=plan.number,
            deadline_ns=plan.deadline_ns,
            published_ns=published_ns,
            capture_ns=plan.capture_ns,
            label=self._label(own),
            probabilities=dict(zip(self._classes, own, strict=True)),
            entropy=-sum([p * math.log(p) for p in own if p > 0]),
            presence={m: int(weight) for m, weight in zip(self._names, weights, strict=True)},
            fill=self.rig.fill,
            modalities={
                name: ModalityReport(
                    state=str(status.state),
                    reason=status.reason,
                    age_ms=None if status.age_ns is None else status.age_ns / 1e6,
                    weight=status.weight,
                    imputed=status.imputed,
                )
                for name, status in plan.modalities.items()
            },
            latency_ms=latency,
            compare={
                policy: Alternative(self._label(row), dict(zip(self._classes, row, strict=True)))
                for policy, row in zip(plan.alternatives, fused.compared, strict=True)
            },
        )

    def observations(
        self,
        plan: TickPlan,
        modality: str,
        window: DueWindow | None,
        streams: Sequence[Literal["imputed", "best"]],
        *,
        published_ns: int,
    ) -> list[Observation]:
        """The observations of one modality as of a tick.

        The imputed stream never uses the modality itself: it is estimated from the *other* sensors, so it can be
        compared with the measurement while there is one.

        Args:
            plan: of the tick.
            modality: to observe.
            window: its newest measured window while it is live, else None.
            streams: to make: ``imputed``, ``best`` or both.
            published_ns: now.

        Raises:
            EngineError: the engine failed.
        """
        observations = []
        if "best" in streams and window is not None:
            values = self._session.observe(modality, window.window[np.newaxis])[0]
            observations.append(
                self._observation(plan, modality, "best", values, (modality,), published_ns, imputed=False)
            )
        if "imputed" in streams or window is None:
            values, sources = self._impute(modality, plan)
            missing: tuple[Literal["imputed", "best"], ...] = ("best",) if window is None else ()
            for stream in ("imputed", *missing):
                if stream in streams:
                    observations.append(
                        self._observation(plan, modality, stream, values, sources, published_ns, imputed=True)
                    )
        return observations

    def _impute(self, modality: str, plan: TickPlan) -> tuple[npt.NDArray[Any], tuple[str, ...]]:
        """The estimate of ``modality`` from the other live sensors, and which ones they are."""
        names = self.rig.modality_names
        sources = tuple(m for m in names if m != modality and plan.modalities[m].state is State.LIVE)
        presence = np.array([float(m in sources) for m in names], dtype=np.float32)
        evidence = {m: e[np.newaxis] for m, e in plan.input.evidence.items() if m in sources}
        fused = self._session.fuse(evidence, presence[np.newaxis])
        return self._session.decode(modality, fused.latents[modality])[0], sources

    def _observation(
        self,
        plan: TickPlan,
        modality: str,
        stream: str,
        values: npt.NDArray[Any],
        sources: tuple[str, ...],
        published_ns: int,
        *,
        imputed: bool,
    ) -> Observation:
        return Observation(
            rig=self.rig.name,
            bundle=self._session.bundle_hash,
            modality=modality,
            stream=stream,
            tick=plan.number,
            published_ns=published_ns,
            imputed=imputed,
            sources=sources,
            unit=self._units[modality],
            values=values,
        )

    def _label(self, probabilities: Sequence[float]) -> str:
        return self._classes[probabilities.index(max(probabilities))]
