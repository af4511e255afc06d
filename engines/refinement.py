"""Iterative refinement: a loop around the fuse graph that fills absent evidence with what the model expects of it.

Some systems infer from everything at once and have nothing better for an absent modality than its average. Their fuse
graph then also estimates the evidence of every modality, and the loop puts the estimates in the place of what is absent
and fuses again, with the mask complete (Rezende et al. 2014). The rule as published samples in every round; graphs are
deterministic, so a session takes means, the noise being zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import Field

from configs.reading import StrictModel

Array = TypeVar("Array", bound=Any)
Fusion = TypeVar("Fusion")


class Refinement(StrictModel):
    """How often the loop goes round, and where in the posterior the estimates are."""

    iterations: int = Field(ge=1, description="rounds of filling and fusing")
    offsets: dict[str, int] = Field(
        description="modality -> where its estimated evidence, evidence_size numbers, begins in the posterior"
    )


def refined_evidence(
    posterior_of: Callable[[Mapping[str, Array]], Array],
    names: Sequence[str],
    evidence: Mapping[str, Array],
    presence: Array,
    posterior: Array,
    refinement: Refinement,
) -> dict[str, Array]:
    """Evidence with estimates where it is absent, after the given number of rounds; for NumPy arrays and tensors.

    Args:
        posterior_of: fuses evidence as if complete and gives the posterior (B, posterior_size).
        names: modalities in the order of the mask.
        evidence: modality -> (B, evidence_size); finite everywhere.
        presence: (B, M) of 0 and 1.
        posterior: of the fusion under ``presence``, which the first round takes its estimates from.
        refinement: rounds and layout.

    Returns:
        modality -> (B, evidence_size): as given where present, estimated where not. Fuse it under a complete mask.
    """
    filled = dict(evidence)
    for done in range(refinement.iterations):
        if done:
            posterior = posterior_of(filled)
        for column, name in enumerate(names):
            begin = refinement.offsets[name]
            here = presence[:, column : column + 1]
            estimate = posterior[:, begin : begin + evidence[name].shape[1]]
            filled[name] = here * evidence[name] + (1 - here) * estimate
    return filled


def refine_incomplete_rows(
    fuse: Callable[[Mapping[str, Array], Array], Fusion],
    posterior_of: Callable[[Fusion], Array],
    names: Sequence[str],
    evidence: Mapping[str, Array],
    presence: Array,
    posterior: Array,
    refinement: Refinement,
) -> tuple[Array, Fusion] | None:
    """Fuse again the rows that lack some modalities but not all, with estimates in the place of what is absent.

    Args:
        fuse: evidence and presence mask -> what fusion gives for those rows.
        posterior_of: the posterior (B, posterior_size) in what fusion gives.
        names: modalities in the order of the mask.
        evidence: modality -> (B, evidence_size); finite everywhere.
        presence: (B, M) of 0 and 1.
        posterior: (B, posterior_size) of the fusion under ``presence``.
        refinement: rounds and layout.

    Returns:
        Which rows those are, (B,) bool, and what fusion gives for them; None if there are none.
    """
    count = presence.sum(axis=1)
    rows = (count > 0) & (count < presence.shape[1])
    if not rows.any():
        return None
    there = presence[rows]
    complete = there * 0 + 1
    filled = refined_evidence(
        lambda found: posterior_of(fuse(found, complete)),
        names,
        {name: evidence[name][rows] for name in names},
        there,
        posterior[rows],
        refinement,
    )
    return rows, fuse(filled, complete)
