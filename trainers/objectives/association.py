"""The associator network's two objectives (eqs. 6 and 7), as pure functions of tensors.

The paper prints the divergence as −λ Σ (1 + log σ² − μ² − σ²); we keep the ½ of the KL, so our weight is
twice theirs.
"""

from __future__ import annotations

from torch import Tensor

from trainers.fusion.gaussians import Gaussian, kl_divergence, kl_to_standard_normal
from trainers.objectives.classification import masked_mean


def intra_modal_loss(
    reconstruction: Tensor, posterior: Gaussian, present: Tensor, *, kl_weight: float
) -> Tensor:
    """Eq. 6: −log p(x_i | z_i) + λ_int KL(q(z_i|x_i) ‖ N(0, I)), mean over rows that have modality i.

    Args:
        reconstruction: (B,) −log p(x_i | z_i).
        posterior: q(z_i | x_i), (B, L_i).
        present: (B,) of 0/1.
        kl_weight: λ_int.
    """
    return masked_mean(reconstruction + kl_weight * kl_to_standard_normal(posterior), present)


def cross_modal_loss(
    reconstruction: Tensor, associated: Gaussian, both_present: Tensor, *, kl_weight: float
) -> Tensor:
    """Eq. 7: −log p(x_j | z_ji) + λ_crs KL(q(z_ji|x_i) ‖ N(0, I)), mean over rows that have i and j.

    Args:
        reconstruction: (B,) −log p(x_j | z_ji), z_ji ~ A_ji(z_i).
        associated: q(z_ji | x_i) in the target's space, (B, L_j).
        both_present: (B,) of 0/1.
        kl_weight: λ_crs.
    """
    return masked_mean(reconstruction + kl_weight * kl_to_standard_normal(associated), both_present)


def latent_matching_loss(own: Gaussian, associated: Gaussian, both_present: Tensor) -> Tensor:
    """Ours, in place of eq. 7: KL(q(z_j|x_j) ‖ q(z_ji|x_i)), mean over rows that have i and j.

    Eq. 7 asks for the latent whose decoding is nearest to the partner. Where partners are drawn at random within a
    class, that is a blurred mean over the class, which the decoder paints although no sample looks like it. This one
    asks for the distribution of the partner's latent: over random partners its best mean is the mean latent of the
    class, and its variance covers the class.

    Args:
        own: q(z_j | x_j) of the partner, (B, L_j); a constant, since phase 1 is over.
        associated: q(z_ji | x_i), (B, L_j).
        both_present: (B,) of 0/1.
    """
    return masked_mean(kl_divergence(own, associated), both_present)
