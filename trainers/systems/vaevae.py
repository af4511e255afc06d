"""VAEVAE(b) and VAEVAE*: a joint network for every subset of the modalities, chosen by the mask."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from trainers.fusion.gaussians import Gaussian
from trainers.fusion.masks import all_patterns
from trainers.fusion.subset_networks import choose_subset, subset_weights
from trainers.modalities.network import ModalityNetwork
from trainers.systems.base import LabelledWindows
from trainers.systems.joint_encoding import JointEncoding, JointEncodingConfig


class VaevaeConfig(JointEncodingConfig):
    """Settings of the VAEVAE system."""

    name: Literal["vaevae"] = "vaevae"
    star: bool = Field(
        default=False,
        description="VAEVAE*: SVAE's objective, in which paired rows have the unimodal ELBOs too; without it only "
        "rows with a single modality do, so a data set should have some (or repeat its paired rows as such)",
    )
    subset_prior: bool = Field(
        default=True,
        description="with three modalities or more, D.29's KL of a subset's posterior to the prior",
    )


class Vaevae(JointEncoding):
    """2ⁿ − 1 posteriors q(z | x_S), a network each; the paper's variant (b) for any number of modalities.

    A joint network only learns from rows that have all of its modalities; SVAE's replacement experts avoid this limit.
    :attr:`reliability` is not used, because joint networks weight their modalities themselves.
    """

    config: VaevaeConfig

    def __init__(self, networks: Mapping[str, ModalityNetwork], classes: int, config: VaevaeConfig) -> None:
        super().__init__(networks, classes, config, all_patterns(len(networks)))

    def posterior(
        self, experts: Gaussian, presence: Tensor, generator: torch.Generator | None = None
    ) -> Gaussian:
        """q(z | x_S) of the network whose subset equals the mask, (B, L); N(0, I) for the empty mask."""
        return choose_subset(experts, subset_weights(presence, self.patterns))

    def generative_terms(
        self, experts: Gaussian, batch: LabelledWindows, generator: torch.Generator, beta: float
    ) -> dict[str, Tensor]:
        """Eq. 7's joint line for paired rows, eq. 8 for unpaired ones, and with ``star`` eq. 7's second part."""
        unpaired = (batch.presence.sum(dim=1, keepdim=True) == 1).to(batch.presence.dtype)
        unimodal = batch.presence if self.config.star else batch.presence * unpaired
        return self.aligned_terms(
            experts,
            batch,
            generator,
            beta,
            unimodal=unimodal,
            subset_prior=self.config.subset_prior,
        )
