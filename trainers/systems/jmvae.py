"""JMVAE-kl: one joint network over all modalities, and single ones pulled towards it (Suzuki et al. 2017)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from trainers.fusion.gaussians import Gaussian, product_of_experts
from trainers.modalities.network import ModalityNetwork
from trainers.objectives.elbo import complete_rows, joint_loss, subset_loss
from trainers.systems.base import LabelledWindows
from trainers.systems.joint_encoding import JointEncoding, JointEncodingConfig


class JmvaeConfig(JointEncodingConfig):
    """Settings of the JMVAE baseline."""

    name: Literal["jmvae"] = "jmvae"
    alpha: float = Field(default=1.0, ge=0, description="weight of the divergences to the single posteriors")
    unpaired: bool = Field(
        default=True,
        description="our extension: incomplete rows train the ELBO of the modalities that they have; the paper's JMVAE "
        "learns from complete rows alone",
    )


class Jmvae(JointEncoding):
    """The joint network's posterior for complete rows; for all others the product of the single posteriors.

    The product leaves out N(0, I), because each single posterior already contains it; so one posterior alone stays
    as it is.
    """

    config: JmvaeConfig

    def __init__(self, networks: Mapping[str, ModalityNetwork], classes: int, config: JmvaeConfig) -> None:
        count = len(networks)
        super().__init__(networks, classes, config, torch.cat((torch.eye(count), torch.ones(1, count))))

    def posterior(
        self, experts: Gaussian, presence: Tensor, generator: torch.Generator | None = None
    ) -> Gaussian:
        """The joint posterior where all is present, else the product of singles by reliability, (B, L)."""
        singles, joint = self._split(experts)
        product = product_of_experts(
            singles.mean, singles.log_variance, presence * self.reliability, prior=False
        )
        complete = complete_rows(presence).unsqueeze(1)
        return Gaussian(
            complete * joint.mean + (1.0 - complete) * product.mean,
            complete * joint.log_variance + (1.0 - complete) * product.log_variance,
        )

    def generative_terms(
        self, experts: Gaussian, batch: LabelledWindows, generator: torch.Generator, beta: float
    ) -> dict[str, Tensor]:
        """The joint bound of complete rows, and with ``unpaired`` the ELBO of the others."""
        presence, free_bits = batch.presence, self.config.free_bits
        complete = complete_rows(presence)
        q = self.posterior(experts, presence)
        cross, lacking = self.observed_means(experts, batch, generator)
        counts = {"cross": lacking.amax(dim=1)}
        nll = self.reconstruct(batch, {"whole": q.sample(generator)} | cross, generator, counts=counts)
        singles, joint = self._split(experts)
        terms = {
            "joint": joint_loss(
                nll["whole"],
                joint,
                singles,
                complete,
                beta=beta,
                alpha=self.config.alpha,
                free_bits=free_bits,
            )
        }
        if self.config.unpaired:
            rows = (1.0 - complete) * presence.amax(dim=1)
            terms["unpaired"] = subset_loss(
                nll["whole"], q, presence, beta=beta, rows=rows, free_bits=free_bits
            )
        return terms | self.cross_terms(nll, lacking)

    def _split(self, experts: Gaussian) -> tuple[Gaussian, Gaussian]:
        """The single posteriors (B, M, L) and the joint one (B, L)."""
        return (
            Gaussian(experts.mean[:, :-1], experts.log_variance[:, :-1]),
            Gaussian(experts.mean[:, -1], experts.log_variance[:, -1]),
        )
