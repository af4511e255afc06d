"""The objectives of associators: what matching latents asks for, and that it reaches the associators alone."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="trainers need torch, which is not installed")
import torch

from trainers.fusion.gaussians import Gaussian
from trainers.objectives.association import latent_matching_loss


def test_matching_is_the_divergence_from_the_partner_by_hand_and_skips_unpaired_rows() -> None:
    own = Gaussian(torch.tensor([[1.0], [50.0]]), torch.log(torch.tensor([[0.25], [1.0]])))
    associated = Gaussian(torch.tensor([[3.0], [0.0]]), torch.log(torch.tensor([[4.0], [1.0]])))
    loss = latent_matching_loss(own, associated, torch.tensor([1.0, 0.0]))
    # ½ [log 4 − log ¼ + (¼ + (1 − 3)²) / 4 − 1]
    assert loss.item() == pytest.approx(0.5 * (2.7725887 + 4.25 / 4 - 1.0))
    assert latent_matching_loss(own, own, torch.ones(2)).item() == pytest.approx(0.0)
    assert latent_matching_loss(own, associated, torch.zeros(2)).item() == 0.0


def test_over_random_partners_the_best_match_has_their_mean_and_covers_them() -> None:
    """Two partners with variance s² at ±d: the best Gaussian has mean 0 and variance s² + d²."""
    own = Gaussian(torch.tensor([[2.0], [-2.0]]), torch.log(torch.tensor([[0.5], [0.5]])))
    mean, log_variance = torch.tensor([0.7], requires_grad=True), torch.tensor([0.3], requires_grad=True)
    optimizer = torch.optim.Adam([mean, log_variance], lr=0.05)
    for _ in range(500):
        optimizer.zero_grad()
        latent_matching_loss(
            own, Gaussian(mean.expand(2, 1), log_variance.expand(2, 1)), torch.ones(2)
        ).backward()
        optimizer.step()
    assert mean.item() == pytest.approx(0.0, abs=1e-3)
    assert log_variance.exp().item() == pytest.approx(4.5, rel=1e-2)
