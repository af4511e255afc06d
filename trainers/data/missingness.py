"""Which labels and modalities a training set lacks: a configured plan, and the masks drawn from it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from pydantic import Field

from configs.reading import StrictModel

_STREAM = 0x4D495353  # keeps these draws apart from others that use the same seed


class MissingnessPlan(StrictModel):
    """Shares of labels and of modalities that are withheld from training.

    The unit is a moment. Where recordings are paired at random within class, as on ``commands-4`` recorded, a recording
    takes part in many moments, and may lack its label or its partner in some and have them in others.
    """

    labels: float = Field(default=0.0, ge=0, le=1, description="share of moments without a label")
    modalities: dict[str, float] = Field(
        default_factory=dict, description="modality -> share of moments without it"
    )
    unpaired: float = Field(default=0.0, ge=0, le=1, description="share of moments with one modality only")
    seed: int = 0

    def masks(
        self, moments: int, modalities: Sequence[str]
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32]]:
        """Draw the masks of a set; the same plan and sizes give the same masks.

        Shares are met exactly up to rounding, except that a moment never loses its last modality: where all would
        be missing, one drawn at random stays.

        Args:
            moments: N.
            modalities: names, in the order of the presence mask.

        Returns:
            labelled (N,) bool, presence (N, M) float32 of 0 and 1.

        Raises:
            ValueError: the plan names a modality that is not there, or a share outside 0 .. 1.
        """
        unknown = sorted(set(self.modalities) - set(modalities))
        if unknown:
            raise ValueError(f"missingness names modalities {unknown}; there are {list(modalities)}")
        bad = {m: share for m, share in self.modalities.items() if not 0 <= share <= 1}
        if bad:
            raise ValueError(f"missingness shares should lie in 0 .. 1, got {bad}")
        rng = np.random.default_rng([_STREAM, self.seed])
        labelled = ~_exact_share(self.labels, moments, rng)
        present = np.stack(
            [~_exact_share(self.modalities.get(m, 0.0), moments, rng) for m in modalities], axis=1
        )
        survivor = rng.integers(len(modalities), size=moments)
        alone = _exact_share(self.unpaired, moments, rng) | ~present.any(axis=1)
        present[alone] = np.eye(len(modalities), dtype=bool)[survivor[alone]]
        return labelled, present.astype(np.float32)


def _exact_share(share: float, count: int, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """(count,) bool with ``round(share * count)`` True, at random places."""
    chosen = np.zeros(count, bool)
    chosen[rng.permutation(count)[: round(share * count)]] = True
    return chosen
