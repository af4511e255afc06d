"""The plan of a tick: what to fuse and what to publish."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from runtime.core.agreement import CrossCheck
from runtime.core.fusion import FusionInput
from runtime.core.health import State


@dataclass(frozen=True, slots=True)
class ModalityStatus:
    """One modality at a tick.

    Attributes:
        state: its health.
        reason: the rule behind it; empty while live.
        age_ns: since the capture of its newest evidence; None before the first.
        weight: the presence value that the rig's fill policy gives to fuse.
        imputed: whether the model estimates it for the decision.
    """

    state: State
    reason: str
    age_ns: int | None
    weight: float
    imputed: bool


@dataclass(frozen=True, slots=True)
class TickPlan:
    """One tick to fuse and publish.

    Attributes:
        number: of the tick; missed ones leave gaps.
        deadline_ns: when it was due.
        input: for fuse, under the rig's fill policy.
        alternatives: policy -> input, for the policies to compare with.
        modalities: modality -> status, in the order of the mask.
        capture_ns: newest capture time among the live evidence; None if nothing is live.
        cross_checks: modality -> what to fuse as well, to compare that sensor with the others; empty at most ticks.
            :meth:`~runtime.core.pipeline.Pipeline.store_cross_checks` takes the result.
    """

    number: int
    deadline_ns: int
    input: FusionInput
    alternatives: Mapping[str, FusionInput]
    modalities: Mapping[str, ModalityStatus]
    capture_ns: int | None
    cross_checks: Mapping[str, CrossCheck] = field(default_factory=dict)
