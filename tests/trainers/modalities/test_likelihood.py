from __future__ import annotations

import torch

from trainers.modalities.likelihood import weighted_gaussian_nll


def test_agrees_with_the_normal_distribution_up_to_its_constant() -> None:
    # With all weights 1 and D = number of elements it is the ordinary diagonal Gaussian.
    torch.manual_seed(0)
    decoded, target = torch.randn(3, 4, 5), torch.randn(3, 4, 5)
    nll = weighted_gaussian_nll(decoded, target, torch.ones(3, 4, 5), noise_scale=0.3, effective_size=20.0)
    normal = torch.distributions.Normal(decoded, 0.3)
    constant = torch.distributions.Normal(0.0, 0.3).log_prob(torch.tensor(0.0)) * 20
    expected = -(normal.log_prob(target).sum((1, 2)) - constant)
    torch.testing.assert_close(nll, expected, rtol=1e-4, atol=1e-4)


def test_elements_without_weight_count_for_nothing() -> None:
    target, weight = torch.zeros(1, 4), torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    decoded = torch.tensor([[1.0, 1.0, 100.0, -7.0]])
    nll = weighted_gaussian_nll(decoded, target, weight, noise_scale=1.0, effective_size=2.0)
    torch.testing.assert_close(nll, torch.tensor([1.0]))


def test_a_row_without_any_weight_gives_zero() -> None:
    nll = weighted_gaussian_nll(
        torch.ones(1, 4), torch.zeros(1, 4), torch.zeros(1, 4), noise_scale=1.0, effective_size=2.0
    )
    assert nll.tolist() == [0.0]
