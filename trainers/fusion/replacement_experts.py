"""SVAE's fusion: each absent modality's expert is replaced by experts of the present modalities.

Every modality i carries M experts over the shared latent: its own q_i(z|x_i), and replacements q*_j(z|x_i)
for every other slot j (SVAE eqs. 3-5; n modalities: D.32-D.37). Slot j of the product is filled by its own
expert where j is present. Where it is absent, each present modality i offers a donor expert q*_j(z|x_i); the
paper writes one posterior per donor. We average the donors' natural parameters by default, which for one
donor is the paper's rule exactly.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trainers.fusion.gaussians import Gaussian, product_of_experts


def expert_weights(presence: Tensor, donors: Tensor | None = None) -> Tensor:
    """The weight of every expert in the product, as arithmetic on the mask.

    w[b, i, j] = p_i δ_ij + (1 − p_j) d_i, where d = p / Σp (average) or the given donor distribution. An
    empty pattern has all weights 0.

    Args:
        presence: (B, M) of 0/1.
        donors: (B, M) distribution over present modalities that fill absent slots; None averages all present.

    Returns:
        (B, M, M): axis 1 is the modality that speaks (i), axis 2 the slot it speaks for (j).
    """
    presence = presence.float()
    if donors is None:
        donors = presence / presence.sum(dim=1, keepdim=True).clamp(min=1.0)
    own = torch.eye(presence.shape[1], dtype=presence.dtype, device=presence.device)
    return presence.unsqueeze(2) * own + donors.unsqueeze(2) * (1.0 - presence).unsqueeze(1)


def draw_donors(presence: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """One present modality per row, uniformly, one-hot (B, M); all 0 where nothing is present.

    Training with a drawn donor is an unbiased draw from the paper's sum over per-donor posteriors (D.34,
    D.35).
    """
    scores = torch.rand(presence.shape, generator=generator, device=presence.device)
    choice = (scores + presence).argmax(dim=1)
    return torch.nn.functional.one_hot(choice, presence.shape[1]).to(presence.dtype) * presence


def fuse_replacement_experts(
    experts: Gaussian,
    presence: Tensor,
    *,
    donors: Tensor | None = None,
    reliability: Tensor | None = None,
    prior: bool = True,
) -> Gaussian:
    """The shared posterior q(z | x_S) for any presence mask, by one weighted product over all M × M experts.

    Args:
        experts: mean and log variance (B, M, M, L); [b, i, j] is what modality i says for slot j. Entries of
            absent modalities are ignored, but must be finite.
        presence: (B, M) of 0/1.
        donors: see :func:`expert_weights`.
        reliability: (M,) exponent on everything modality i says, fitted on validation; None is 1.
        prior: multiply in N(0, I).

    Returns:
        The posterior, (B, L); N(0, I) for the empty pattern.
    """
    weight = expert_weights(presence, donors)
    if reliability is not None:
        weight = weight * reliability.reshape(1, -1, 1)
    size = experts.mean.shape[-1]
    slots = presence.shape[1] ** 2
    return product_of_experts(
        experts.mean.reshape(-1, slots, size),
        experts.log_variance.reshape(-1, slots, size),
        weight.reshape(-1, slots),
        prior=prior,
    )
