"""The observation model that all decoders share."""

from __future__ import annotations

from torch import Tensor


def weighted_gaussian_nll(
    decoded: Tensor, target: Tensor, weight: Tensor, *, noise_scale: float, effective_size: float
) -> Tensor:
    r"""Negative log likelihood of a Gaussian with fixed variance, on a common scale for all modalities.

    .. math::
        -\log p(x \mid z) = \frac{D}{2\sigma^2}
            \frac{\sum_e w_e (x_e - \hat x_e)^2}{\sum_e w_e} + \text{const.}

    The sum over elements is written as D times the weighted mean: neighbouring pixels, frames and bins are
    not independent, so counting each would let the modality with most pixels drown the others and the KL
    term. D = ``effective_size`` says how many independent elements a target is taken for; it is the
    modality's weight in a multimodal ELBO (the ``d_max / d_m`` weighting of earlier work with D set by
    hand). Elements with weight 0 (depth holes) count for nothing, and a row without any weight gives 0.

    Args:
        decoded: (B, ...) decoder means in model units.
        target: (B, ...) measured values in model units.
        weight: (B, ...) in 0..1, how far each element was measured.
        noise_scale: sigma, in model units.
        effective_size: D.

    Returns:
        (B,) in nats, without the constant.
    """
    squared = (weight * (target - decoded).square()).flatten(1).sum(1)
    return 0.5 * effective_size / noise_scale**2 * squared / weight.flatten(1).sum(1).clamp_min(1e-6)
