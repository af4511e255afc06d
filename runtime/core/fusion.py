"""What one fuse call gets, under each policy for the modalities that are not there.

``impute`` tells the model the truth: the mask has the live ones, the model's own latent space stands in for the
others. ``hold`` and ``zero`` are what systems without a presence mask do, kept for comparison: they tell the model
that everything is there, and give it the last evidence, or the evidence of a blank window.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from runtime.rig import FillPolicy

Evidence = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class FusionInput:
    """What one call of ``Session.fuse`` gets (add the batch axis).

    Attributes:
        presence: (M,) float32, 0 or 1, in the order of the rig.
        evidence: modality -> (E,) float32; a key is missing where there is nothing to give (fuse takes zeros).
        imputed: modalities for which the decision stands on the model's estimate.
    """

    presence: npt.NDArray[np.float32]
    evidence: Mapping[str, Evidence]
    imputed: tuple[str, ...]


def fill(
    policy: FillPolicy,
    modalities: Sequence[str],
    live: Mapping[str, bool],
    evidence: Mapping[str, Evidence],
    blank: Mapping[str, Evidence],
) -> FusionInput:
    """The input of fuse under one policy.

    Args:
        policy: ``impute``, ``hold`` or ``zero``.
        modalities: in the order of the mask.
        live: modality -> may this tick trust it.
        evidence: modality -> newest evidence, of those that ever had any; must hold every live one.
        blank: modality -> evidence of an all-zero window; used by ``zero`` only.

    Returns:
        Under ``hold``, a modality that never delivered stays absent: there is nothing to repeat.
    """
    given: dict[str, Evidence] = {}
    for name in modalities:
        if live[name] or (policy == "hold" and name in evidence):
            given[name] = evidence[name]
        elif policy == "zero" and name in blank:
            given[name] = blank[name]
    presence = np.array([name in given for name in modalities], np.float32)
    # The other policies deny that anything is missing, so what they make up is not flagged by them either.
    absent = tuple(name for name in modalities if name not in given) if policy == "impute" else ()
    return FusionInput(presence, given, absent)
