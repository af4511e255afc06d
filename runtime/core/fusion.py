"""The input of one fuse call, under each policy for absent modalities.

``impute`` tells the model the truth: the mask marks the live modalities, and the model's own latent space stands in
for the others. ``hold`` and ``zero`` do what systems without a presence mask do, for comparison: they tell the model
that everything is present, and give it the last evidence (``hold``) or the evidence of a blank window (``zero``).
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
    """The arguments of one call of ``Session.fuse``, without the batch axis.

    Attributes:
        presence: (M,) float32, 0 or 1, in the order of the rig.
        evidence: modality -> (E,) float32; without a key for modalities that have none, for which fuse takes zeros.
        imputed: modalities that the model estimates.
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
        live: modality -> whether this tick may trust it.
        evidence: modality -> newest evidence, for modalities that ever had any; must hold every live one.
        blank: modality -> evidence of an all-zero window; only ``zero`` uses it.

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
    # The other policies claim that everything is present, so they flag nothing as imputed.
    absent = tuple(name for name in modalities if name not in given) if policy == "impute" else ()
    return FusionInput(presence, given, absent)
