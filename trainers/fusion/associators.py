"""Associators: networks that carry a latent of one modality into the latent space of another."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainers.fusion.gaussians import Gaussian, product_of_experts


class Associator(nn.Module):
    """A_ji of the associator network: z_i -> (mean, log variance) in the space of modality j.

    Input and output sizes may differ, since every modality has its own latent size. Two hidden layers; or, with
    ``prototypes`` K, one, and a softmax over K in the place of the second: the output is then a mean of K learned
    Gaussians' parameters with weights that depend on the input. If partners were drawn at random within a class, the
    target is one point per class plus much noise. With prototypes, that noise is averaged over all inputs that choose
    the same one, and the output is one class rather than a mixture, which would decode to nothing recognisable.
    """

    def __init__(self, source_size: int, target_size: int, hidden_size: int, prototypes: int = 0) -> None:
        super().__init__()
        width = prototypes or hidden_size
        second, last = nn.Linear(hidden_size, width), nn.Linear(width, 2 * target_size)
        if prototypes:
            # Prototypes start far apart, so that choosing matters at once: with equal weights on similar prototypes,
            # none of them would learn.
            with torch.no_grad():
                second.weight.mul_(4.0)
            nn.init.normal_(last.weight, std=0.3)
        self.layers = nn.Sequential(
            nn.Linear(source_size, hidden_size),
            nn.ReLU(),
            second,
            nn.Softmax(dim=1) if prototypes else nn.ReLU(),
            last,
        )

    def forward(self, latent: Tensor) -> Gaussian:
        """(B, source_size) -> Gaussian over (B, target_size)."""
        return Gaussian.from_flat(self.layers(latent))


def own_or_associated(
    own: Gaussian, associated: list[Gaussian], own_present: Tensor, source_weight: Tensor
) -> Gaussian:
    """A modality's latent: its own where present, else what the present ones associate to it.

    The paper leaves several sources undefined. We take their *averaged* product of experts in the target's space,
    ∏_k q(z_j | x_k)^{w_k} with w summing to 1: one source alone gives exactly its associator's output, as in
    the paper, and sources that know the same thing are not counted twice (each already contains the prior).
    Nothing present, or no other modality at all, gives the target's prior N(0, I).

    Args:
        own: q(z_j | x_j), (B, L_j).
        associated: q(z_j | x_i) along the path of each other modality i, each (B, L_j).
        own_present: (B, 1) of 0/1.
        source_weight: (B, K) weight of each of ``associated``: presence times reliability.

    Returns:
        (B, L_j), blended by arithmetic on the mask.
    """
    if associated:
        total = source_weight.sum(dim=1, keepdim=True)
        imputed = product_of_experts(
            torch.stack([g.mean for g in associated], dim=1),
            torch.stack([g.log_variance for g in associated], dim=1),
            source_weight / total.clamp(min=1e-6),
            prior=False,
        )
    else:
        imputed = Gaussian(torch.zeros_like(own.mean), torch.zeros_like(own.log_variance))
    return Gaussian(
        own_present * own.mean + (1.0 - own_present) * imputed.mean,
        own_present * own.log_variance + (1.0 - own_present) * imputed.log_variance,
    )
