"""Iterative refinement: a loop around the fuse graph that replaces absent evidence by the model's own estimate of it.

Some systems infer from all modalities at once and can only put an average in the place of an absent one. The fuse graph
of such a system also estimates the evidence of every modality. The loop puts these estimates in the place of absent
evidence and fuses again under a complete mask (Rezende et al. 2014). The published rule samples in every round; graphs
are deterministic, so a session uses the means instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import Field

from configs.reading import StrictModel

Array = TypeVar("Array", bound=Any)
Fusion = TypeVar("Fusion")


class Refinement(StrictModel):
    """The number of rounds, and where in the posterior the estimates are."""

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
    """Evidence with estimates where it is absent, after the given number of rounds; for NumPy arrays or torch tensors.

    Args:
        posterior_of: fuses evidence under a complete mask and returns the posterior (B, posterior_size).
        names: modalities in the order of the mask.
        evidence: modality -> (B, evidence_size); finite everywhere.
        presence: (B, M) of 0 and 1.
        posterior: result of fusion under ``presence``; the first round takes its estimates from it.
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
    """Fuse the rows that lack some modalities, but not all, once more, with estimates of the absent evidence.

    Args:
        fuse: takes evidence and a presence mask, returns the result of fusion.
        posterior_of: takes a result of fusion, returns its posterior (B, posterior_size).
        names: modalities in the order of the mask.
        evidence: modality -> (B, evidence_size); finite everywhere.
        presence: (B, M) of 0 and 1.
        posterior: (B, posterior_size), result of fusion under ``presence``.
        refinement: rounds and layout.

    Returns:
        A mask (B,) of those rows and the new result of fusion for them; None if there are no such rows.
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
