"""The averaged product of experts: the geometric mean of the posteriors of those that are present."""

from __future__ import annotations

from torch import Tensor

from trainers.fusion.gaussians import Gaussian, product_of_experts


def averaged_product_of_experts(experts: Gaussian, weight: Tensor) -> Gaussian:
    """Weighted geometric mean of Gaussian experts, q(c) ∝ Π_i N(c; μ_i, σ²_i)^{w_i / Σ w}.

    If all experts agree, the result equals each of them: unlike a product of experts, it is no sharper than they are.
    So posteriors from one and from many modalities can be the same distribution (MMALI, section 3.1).

    Args:
        experts: mean and log variance, (B, M, L).
        weight: (B, M) at least 0; 0 leaves the expert out.

    Returns:
        (B, L); N(0, I) for rows whose weights are all 0.
    """
    share = weight / weight.sum(dim=1, keepdim=True).clamp(min=1e-6)
    return product_of_experts(experts.mean, experts.log_variance, share, prior=False)
