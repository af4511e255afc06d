"""Objectives of VAEVAE and the baselines, against closed forms and equations written out."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from trainers.fusion.gaussians import Gaussian, kl_divergence, kl_to_standard_normal
from trainers.fusion.masks import all_patterns
from trainers.fusion.subset_networks import SubsetNetworks, choose_subset, subset_weights
from trainers.objectives.elbo import complete_rows, joint_loss, subset_loss
from trainers.objectives.mixture import (
    importance_weighted_bound,
    log_importance_weight,
    mixture_log_density,
    mixture_moments,
    reweighted_elbo,
)
from trainers.objectives.svae import divergence_to_smaller_subsets


def gaussian(*shape: int, seed: int = 0) -> Gaussian:
    g = torch.Generator().manual_seed(seed)
    return Gaussian(torch.randn(shape, generator=g), torch.randn(shape, generator=g))


def test_one_subset_is_chosen_and_nothing_gives_the_prior() -> None:
    subsets = all_patterns(3)
    weight = subset_weights(all_patterns(3, empty=True), subsets)
    torch.testing.assert_close(weight, torch.cat((torch.eye(7), torch.zeros(1, 7))))
    candidates = gaussian(8, 7, 4)
    chosen = choose_subset(candidates, weight)
    for row in range(7):
        assert torch.equal(chosen.mean[row], candidates.mean[row, row])
        assert torch.equal(chosen.log_variance[row], candidates.log_variance[row, row])
    assert torch.equal(chosen.mean[7], torch.zeros(4))
    assert torch.equal(chosen.log_variance[7], torch.zeros(4))


def test_a_joint_network_reads_its_members_alone_and_singles_are_their_own() -> None:
    networks = SubsetNetworks(all_patterns(3), [5, 6, 7], width=8, latent_size=4)
    features = [torch.randn(2, n, generator=torch.Generator().manual_seed(n)) for n in (5, 6, 7)]
    own = gaussian(2, 3, 4)
    before = networks(features, own)
    after = networks([features[0], features[1] + 1.0, features[2]], own)
    for k, members in enumerate(all_patterns(3)):
        reads = bool(members[1]) and members.sum() > 1
        assert torch.equal(before.mean[:, k], after.mean[:, k]) != reads
        if members.sum() == 1:
            assert torch.equal(before.mean[:, k], own.mean[:, int(members.argmax())])
    assert len(networks.networks) == 4


def test_d29_adds_the_divergence_to_the_prior() -> None:
    q = {m: gaussian(2, 3, seed=i) for i, m in enumerate(((1, 1, 0), (1, 0, 0), (0, 1, 0)))}
    nothing = gaussian(2, 3, seed=9)

    def posterior(mask: torch.Tensor) -> Gaussian:
        return q.get(tuple(int(p) for p in mask[0]), nothing)

    subset = torch.tensor([[1.0, 1.0, 0.0]] * 2)
    found = divergence_to_smaller_subsets(posterior, subset, prior=True)
    pair = q[1, 1, 0]
    expected = kl_divergence(pair, q[1, 0, 0]) + kl_divergence(pair, q[0, 1, 0]) + kl_to_standard_normal(pair)
    torch.testing.assert_close(found, expected)


def test_the_elbo_of_a_subset_counts_its_members_and_its_rows() -> None:
    q = Gaussian(torch.tensor([[1.0, 0.0], [2.0, 0.0], [9.0, 9.0]]), torch.zeros(3, 2))
    nll = torch.tensor([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0], [500.0, 500.0, 500.0]])
    subset = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    by_hand = ((1 + 4) + 0.5 * 0.5 + 16 + 0.5 * 2.0) / 2  # KL of N(m, 1) to N(0, 1) is m² / 2
    assert subset_loss(nll, q, subset, beta=0.5).item() == pytest.approx(by_hand)
    first = torch.tensor([1.0, 0.0, 0.0])
    assert subset_loss(nll, q, subset, beta=0.5, rows=first).item() == pytest.approx(5.25)


def test_the_joint_bound_is_jmvaes() -> None:
    joint = Gaussian(torch.tensor([[1.0], [7.0]]), torch.zeros(2, 1))
    singles = Gaussian(torch.tensor([[[0.0], [3.0]], [[7.0], [7.0]]]), torch.zeros(2, 2, 1))
    nll = torch.tensor([[10.0, 20.0], [1000.0, 1000.0]])
    complete = complete_rows(torch.tensor([[1.0, 1.0], [1.0, 0.0]]))
    assert complete.tolist() == [1.0, 0.0]
    by_hand = 30.0 + 2.0 * (0.5 + 0.1 * (0.5 + 2.0))  # KLs between unit Gaussians: half the squared distance
    found = joint_loss(nll, joint, singles, complete, beta=2.0, alpha=0.1)
    assert found.item() == pytest.approx(by_hand)


def test_the_density_of_a_mixture_is_torchs_over_what_is_present() -> None:
    experts, value = gaussian(4, 3, 2), torch.randn(5, 4, 2, generator=torch.Generator().manual_seed(1))
    present = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 1.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    found = mixture_log_density(value, experts, present)
    for row, members in enumerate(([0, 1, 2], [0, 2], [1], [0, 1, 2])):
        scale = torch.exp(0.5 * experts.log_variance[row, members])
        mixture = MixtureSameFamily(
            Categorical(torch.ones(len(members))), Independent(Normal(experts.mean[row, members], scale), 1)
        )
        torch.testing.assert_close(found[:, row], mixture.log_prob(value[:, row]))


def test_absent_experts_get_no_gradient_from_the_density() -> None:
    experts = Gaussian(*(t.requires_grad_() for t in gaussian(1, 3, 2)))
    density = mixture_log_density(torch.zeros(1, 1, 2), experts, torch.tensor([[1.0, 0.0, 1.0]]))
    density.sum().backward()
    assert experts.mean.grad is not None
    assert experts.mean.grad[0, 1].abs().sum() == 0
    assert experts.mean.grad[0, 0].abs().sum() > 0
    assert bool(torch.isfinite(experts.mean.grad).all())


def test_the_importance_weight_of_a_unimodal_row_is_log_joint_over_posterior() -> None:
    experts, z = gaussian(1, 2, 3), torch.full((1, 1, 3), 0.5)
    nll, present = torch.tensor([[[4.0, 999.0]]]), torch.tensor([[1.0, 0.0]])
    found = log_importance_weight(z, nll, experts, present, beta=1.0).item()
    posterior = Normal(experts.mean[0, 0], torch.exp(0.5 * experts.log_variance[0, 0]))
    expected = -4.0 + Normal(0.0, 1.0).log_prob(z).sum() - posterior.log_prob(z[0, 0]).sum()
    assert found == pytest.approx(expected.item(), rel=1e-5)


def test_the_bound_is_the_log_mean_weight_with_weights_as_its_gradient() -> None:
    log_weight = torch.log(torch.tensor([[1.0, 2.0], [3.0, 2.0]])).requires_grad_()
    bound, weight = importance_weighted_bound(log_weight)
    torch.testing.assert_close(bound, torch.log(torch.tensor([2.0, 2.0])))
    bound.sum().backward()
    expected = torch.tensor([[0.25, 0.5], [0.75, 0.5]])
    torch.testing.assert_close(log_weight.grad, expected)
    torch.testing.assert_close(weight, expected)


def test_dreg_has_the_gradient_of_the_bound_in_expectation() -> None:
    """One-dimensional q(z) = N(μ, 1), log p(x, z) = −(z − 2)²: DReG against the plain reparameterised gradient."""
    samples, draws = 3, 200_000
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(samples, draws, 1, generator=generator)
    zero = torch.zeros(draws, 1, 1)

    def log_weight(z: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
        return -(z.squeeze(2) - 2.0).square() - mixture_log_density(
            z, Gaussian(mean + zero, zero), torch.ones(draws, 1)
        )

    mean = torch.tensor(0.3, requires_grad=True)
    z = mean + noise
    bound, weight = importance_weighted_bound(log_weight(z, mean.detach()))
    z.register_hook(lambda gradient: gradient * weight.unsqueeze(2))
    bound.mean().backward()
    doubly = mean.grad
    plain_mean = torch.tensor(0.3, requires_grad=True)
    plain = torch.logsumexp(log_weight(plain_mean + noise, plain_mean), dim=0) - math.log(samples)
    plain.mean().backward()
    assert doubly is not None
    assert plain_mean.grad is not None
    assert doubly.item() == pytest.approx(plain_mean.grad.item(), rel=0.03)
    torch.testing.assert_close(bound.mean(), plain.mean())


def test_a_mixtures_moments() -> None:
    experts = Gaussian(torch.tensor([[[0.0], [4.0]]] * 2), torch.log(torch.tensor([[[1.0], [3.0]]] * 2)))
    q = mixture_moments(experts, torch.tensor([[0.5, 0.5], [0.0, 0.0]]))
    assert q.mean.flatten().tolist() == pytest.approx([2.0, 0.0])
    assert q.log_variance.exp().flatten().tolist() == pytest.approx([2.0 + 4.0, 1.0], rel=1e-4)


def test_the_reweighted_elbo_is_the_public_codes_worked_out_by_hand() -> None:
    experts = Gaussian(torch.tensor([[[0.0], [1.0], [9.0]]], requires_grad=True), torch.zeros(1, 3, 1))
    value, nll = torch.tensor([[[0.5], [2.0], [9.0]]]), torch.tensor([[3.0, 5.0, 100.0]])
    divergence, present = torch.tensor([[0.1, 0.2, 50.0]]), torch.tensor([[1.0, 1.0, 0.0]])
    # q_1(0.5) = q_0(0.5), for both are half a unit away; q_0(2) / q_1(2) = exp(-2 + 1/2).
    expected = (3.0 + 5.0 + 1.0 * 3.0 + math.exp(-1.5) * 5.0 + 2.0 * 0.3) / 2
    found = reweighted_elbo(nll, value, experts, divergence, present, beta=2.0)
    assert found.item() == pytest.approx(expected, rel=1e-5)
    found.backward()
    gradient = experts.mean.grad
    assert gradient is not None
    # d w_01 / d mu_0 = w_01 (2 - mu_0): expert 0 is driven away from what expert 1 drew.
    assert float(gradient[0, 0]) == pytest.approx(math.exp(-1.5) * 2.0 * 5.0 / 2, rel=1e-5)
    assert float(gradient[0, 2]) == 0.0, "what is absent must not learn"
