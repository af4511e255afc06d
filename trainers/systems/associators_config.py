"""Settings of the associator network, and the associators that they ask for."""

from __future__ import annotations

from itertools import combinations
from typing import ClassVar, Literal

from pydantic import Field

from trainers.fusion.association_paths import Edge, cheapest_paths
from trainers.systems.base import SystemConfig


class AssociatorsConfig(SystemConfig):
    """Settings of the associator network."""

    PHASES: ClassVar = ("intra", "cross", "classify")

    name: Literal["associators"] = "associators"
    latent_size: int = Field(default=32, ge=1, description="of modalities that latent_sizes does not name")
    latent_sizes: dict[str, int] = Field(default_factory=dict, description="modality -> latent size")
    pairs: Literal["all"] | tuple[tuple[str, str], ...] = Field(
        default="all", description="pairs joined directly, both ways; they must connect all modalities"
    )
    hidden_size: int = Field(default=128, ge=1, description="width of an associator")
    prototypes: int = Field(
        default=0,
        ge=0,
        description="number of Gaussians among which an associator makes a soft choice; 0: a second hidden layer",
    )
    associators_per_step: int = Field(default=4, ge=1, description="associators that learn in one step")
    intra_kl: float = Field(default=1.0, ge=0, description="λ_int of eq. 6")
    cross_objective: Literal["reconstruction", "latent"] = Field(
        default="reconstruction",
        description="what associators learn from: eq. 7, or our KL between the partner's own latent and the associated",
    )
    associate_from: Literal["sample", "mean"] = Field(
        default="sample", description="what associators see of the source's latent in training"
    )
    round_trip: float = Field(
        default=0.0,
        ge=0,
        description="our extension: weight of the KL between a latent and what comes back after a round trip",
    )
    cross_kl: float = Field(default=1.0, ge=0, description="λ_crs of eq. 7")
    kl_warmup: float = Field(
        default=0.2, ge=0, le=1, description="share of a phase over which the λ rise from 0"
    )
    intra_classification: float = Field(
        default=0.0, ge=0, description="our extension: weight of each modality's own cross entropy in phase 1"
    )
    classify: Literal["sample", "mean", "never"] = Field(
        default="sample",
        description="what classifiers see in training; never: none are trained, as in the paper",
    )
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    added: tuple[str, ...] = Field(
        default=(),
        description="modalities added to an earlier network; they vote on the class only where present",
    )
    kept_modalities: tuple[str, ...] = Field(
        default=(),
        description="modalities whose autoencoder and classifier an earlier run trained; they stay",
    )
    kept_pairs: tuple[tuple[str, str], ...] = Field(
        default=(), description="pairs whose associators an earlier run trained, both ways; they stay"
    )

    def decoder_size(self, modality: str, classes: int) -> int:
        """The modality's own latent size."""
        return self.latent_sizes.get(modality, self.latent_size)

    def edges(self, names: tuple[str, ...]) -> tuple[Edge, ...]:
        """Source and target of every associator: both directions of the configured pairs.

        Args:
            names: the modalities, in the order of the presence mask.

        Raises:
            ValueError: a setting names a modality that is not there, or the pairs leave some modality unconnected.
        """
        pairs = tuple(combinations(names, 2)) if self.pairs == "all" else self.pairs
        named = {
            "pairs": {n for pair in pairs for n in pair},
            "kept_pairs": {n for pair in self.kept_pairs for n in pair},
            "kept_modalities": set(self.kept_modalities),
            "added": set(self.added),
        }
        for field, chosen in named.items():
            if unknown := sorted(chosen - set(names)):
                raise ValueError(f"system.{field} names modalities {unknown}; there are {list(names)}")
        both = tuple(dict.fromkeys(edge for i, j in pairs for edge in ((i, j), (j, i))))
        reached = {n for path in cheapest_paths(dict.fromkeys(both, 1.0)) for n in path}
        if len(names) > 1 and reached != set(names):
            raise ValueError(f"system.pairs join {sorted(reached)}; all of {list(names)} must be connected")
        return both
