"""Fusion in precision space against closed forms and against a loop over subsets."""

from __future__ import annotations

import math

import pytest
import torch

from trainers.fusion.association_paths import NoPathError, cheapest_paths
from trainers.fusion.associators import Associator, own_or_associated
from trainers.fusion.gaussians import (
    Gaussian,
    kl_divergence,
    kl_to_standard_normal,
    product_of_experts,
)
from trainers.fusion.masks import all_patterns, draw_pattern_groups, draw_subset
from trainers.fusion.replacement_experts import draw_donors, expert_weights, fuse_replacement_experts


def random_gaussian(*shape: int, seed: int = 0) -> Gaussian:
    g = torch.Generator().manual_seed(seed)
    return Gaussian(torch.randn(shape, generator=g), torch.randn(shape, generator=g))


def test_product_of_two_gaussians_and_the_prior_in_closed_form() -> None:
    mean = torch.tensor([[[1.0], [-2.0]]])
    variance = torch.tensor([[[0.5], [4.0]]])
    with_prior = product_of_experts(mean, variance.log(), torch.ones(1, 2))
    assert with_prior.mean.item() == pytest.approx((1 / 0.5 - 2 / 4) / (1 + 2 + 0.25))
    assert with_prior.log_variance.exp().item() == pytest.approx(1 / (1 + 2 + 0.25))
    bare = product_of_experts(mean, variance.log(), torch.ones(1, 2), prior=False)
    assert bare.log_variance.exp().item() == pytest.approx(1 / 2.25)


@pytest.mark.parametrize("prior", [True, False])
def test_nothing_present_gives_the_standard_normal(prior: bool) -> None:
    g = random_gaussian(3, 4, 5)
    q = product_of_experts(g.mean, g.log_variance, torch.zeros(3, 4), prior=prior)
    assert torch.equal(q.mean, torch.zeros(3, 5))
    assert torch.equal(q.log_variance, torch.zeros(3, 5))


def test_kl_matches_torch_distributions_and_monte_carlo() -> None:
    q, p = random_gaussian(6, 8, seed=1), random_gaussian(6, 8, seed=2)

    def normal(g: Gaussian) -> torch.distributions.Normal:
        return torch.distributions.Normal(g.mean, (0.5 * g.log_variance).exp())

    reference = torch.distributions.kl_divergence(normal(q), normal(p)).sum(-1)
    torch.testing.assert_close(kl_divergence(q, p), reference)
    standard = Gaussian(torch.zeros_like(q.mean), torch.zeros_like(q.mean))
    torch.testing.assert_close(kl_to_standard_normal(q), kl_divergence(q, standard))
    many = Gaussian(q.mean[:1].expand(200_000, 8), q.log_variance[:1].expand(200_000, 8))
    z = many.sample(torch.Generator().manual_seed(0))
    estimate = (normal(many).log_prob(z) - torch.distributions.Normal(0.0, 1.0).log_prob(z)).sum(-1).mean()
    assert estimate.item() == pytest.approx(kl_to_standard_normal(q)[0].item(), rel=0.02)


def test_free_bits_are_a_floor_per_dimension() -> None:
    near_prior = Gaussian(torch.zeros(2, 4), torch.full((2, 4), 0.01))
    assert kl_to_standard_normal(near_prior, free_bits=0.1).tolist() == pytest.approx([0.4, 0.4])


def by_the_paper(experts: Gaussian, present: list[int]) -> Gaussian:
    """Eqs. D.32-D.36 with averaged donors, by a Python loop over the subset."""
    modalities, size = experts.mean.shape[1], experts.mean.shape[-1]
    precision, moment = torch.ones(size), torch.zeros(size)
    for slot in range(modalities):
        donors = [slot] if slot in present else present
        for donor in donors:
            share = torch.exp(-experts.log_variance[0, donor, slot]) / len(donors)
            precision = precision + share
            moment = moment + share * experts.mean[0, donor, slot]
    return Gaussian((moment / precision)[None], -precision.log()[None])


@pytest.mark.parametrize("pattern", [p.tolist() for p in all_patterns(4)])
def test_replacement_experts_equal_the_papers_rule_for_every_pattern(pattern: list[float]) -> None:
    experts = random_gaussian(1, 4, 4, 6)
    fused = fuse_replacement_experts(experts, torch.tensor([pattern]))
    expected = by_the_paper(experts, [i for i, p in enumerate(pattern) if p])
    torch.testing.assert_close(fused.mean, expected.mean)
    torch.testing.assert_close(fused.log_variance, expected.log_variance)


def test_what_an_absent_modality_says_never_matters() -> None:
    experts = random_gaussian(15, 4, 4, 6)
    masks = all_patterns(4)
    fused = fuse_replacement_experts(experts, masks)
    noise = random_gaussian(15, 4, 4, 6, seed=9)
    absent = (1 - masks)[:, :, None, None].bool()
    changed = Gaussian(
        torch.where(absent, noise.mean, experts.mean),
        torch.where(absent, noise.log_variance, experts.log_variance),
    )
    again = fuse_replacement_experts(changed, masks)
    assert torch.equal(fused.mean, again.mean)
    assert torch.equal(fused.log_variance, again.log_variance)


def test_every_slot_is_filled_once_unless_nothing_is_present() -> None:
    weights = expert_weights(all_patterns(4, empty=True))
    filled = weights.sum(dim=1)
    torch.testing.assert_close(filled[:-1], torch.ones(15, 4))
    assert torch.equal(filled[-1], torch.zeros(4))


def test_a_drawn_donor_is_present_and_fills_all_absent_slots() -> None:
    presence = all_patterns(4, empty=True).repeat(50, 1)
    donors = draw_donors(presence, torch.Generator().manual_seed(0))
    assert bool((donors <= presence).all())
    assert torch.equal(donors.sum(1), (presence.sum(1) > 0).float())
    assert donors[presence.sum(1) == 4].mean(0).min() > 0.1
    torch.testing.assert_close(
        expert_weights(presence, donors).sum(1), (presence.sum(1, keepdim=True) > 0).float().expand(-1, 4)
    )


def test_reliability_scales_precision_not_the_mean_of_a_lone_expert() -> None:
    experts = random_gaussian(1, 2, 2, 3)
    alone = torch.tensor([[1.0, 0.0]])
    full = fuse_replacement_experts(experts, alone, prior=False)
    half = fuse_replacement_experts(experts, alone, reliability=torch.tensor([0.5, 1.0]), prior=False)
    torch.testing.assert_close(half.mean, full.mean)
    torch.testing.assert_close(half.log_variance, full.log_variance + math.log(2))


def test_drawn_subsets_are_proper_and_of_all_sizes() -> None:
    presence = torch.tensor([[1.0, 1, 1, 1], [1, 0, 1, 1], [1, 0, 1, 0], [0, 0, 0, 1]]).repeat(300, 1)
    subset = draw_subset(presence, torch.Generator().manual_seed(0))
    assert bool((subset <= presence).all())
    sizes = subset.sum(1).reshape(300, 4)
    assert set(sizes[:, 0].tolist()) == {2.0, 3.0}
    assert set(sizes[:, 1].tolist()) == {2.0}
    assert set(sizes[:, 2:].flatten().tolist()) == {0.0}
    assert len({tuple(r) for r in subset.reshape(300, 4, 4)[:, 0].tolist()}) == 6 + 4


def test_cheapest_paths_cascade_only_where_it_pays() -> None:
    cost = dict.fromkeys([("a", "b"), ("b", "a"), ("b", "c"), ("c", "b")], 1.0)
    cost |= {("a", "c"): 5.0, ("c", "a"): 1.5}
    paths = cheapest_paths(cost)
    assert paths["a", "c"] == ("a", "b", "c")
    assert paths["c", "a"] == ("c", "a")
    assert paths["a", "b"] == ("a", "b")


def test_unconnected_modalities_are_named() -> None:
    with pytest.raises(NoPathError, match="'b' to 'a'"):
        cheapest_paths({("a", "b"): 1.0})
    with pytest.raises(ValueError, match="a -> b"):
        cheapest_paths({("a", "b"): float("nan")})


def test_one_source_alone_gives_exactly_its_associators_output():
    own, first, second = (Gaussian(torch.randn(2, 3), torch.randn(2, 3)) for _ in range(3))
    absent, weight = torch.zeros(2, 1), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    fused = own_or_associated(own, [first, second], absent, weight)
    assert torch.allclose(fused.mean, first.mean, atol=1e-5)
    assert torch.allclose(fused.log_variance, first.log_variance, atol=1e-5)


def test_sources_that_agree_are_not_counted_twice_and_none_give_the_prior():
    own, source = (Gaussian(torch.randn(2, 3), torch.randn(2, 3)) for _ in range(2))
    absent = torch.zeros(2, 1)
    both = own_or_associated(own, [source, source], absent, torch.ones(2, 2))
    assert torch.allclose(both.mean, source.mean, atol=1e-5)
    assert torch.allclose(both.log_variance, source.log_variance, atol=1e-5)
    none = own_or_associated(own, [source, source], absent, torch.zeros(2, 2))
    assert torch.allclose(none.mean, torch.zeros(2, 3))
    assert torch.allclose(none.log_variance, torch.zeros(2, 3))


def test_a_present_modality_keeps_its_own_latent():
    own, source = (Gaussian(torch.randn(2, 3), torch.randn(2, 3)) for _ in range(2))
    fused = own_or_associated(own, [source], torch.ones(2, 1), torch.ones(2, 1))
    assert torch.allclose(fused.mean, own.mean)


def test_an_associator_with_prototypes_stays_between_them_and_learns_to_choose() -> None:
    """Noisy targets around two points, chosen by the sign of the source: each side gets its own point."""
    torch.manual_seed(0)
    associator = Associator(3, 2, 16, prototypes=4)
    generator = torch.Generator().manual_seed(1)
    source = torch.randn(400, 3, generator=generator)
    point = torch.where(source[:, :1] > 0, torch.tensor([[2.0, -1.0]]), torch.tensor([[-2.0, 1.0]]))
    target = point + torch.randn(400, 2, generator=generator)
    optimizer = torch.optim.Adam(associator.parameters(), lr=0.02)
    for _ in range(200):
        optimizer.zero_grad()
        (associator(source).mean - target).square().mean().backward()
        optimizer.step()
    with torch.no_grad():
        clear = source[source[:, 0].abs() > 0.3]
        found = associator(clear).mean
        wanted = torch.where(clear[:, :1] > 0, torch.tensor([[2.0, -1.0]]), torch.tensor([[-2.0, 1.0]]))
        assert (found - wanted).norm(dim=1).mean() < 0.5
        last = associator.layers[-1]
        corners = (last.weight + last.bias.unsqueeze(1))[:2]  # type: ignore[union-attr, operator]
        far = associator(1000 * source).mean
        assert (far >= corners.amin(1) - 1e-4).all()
        assert (far <= corners.amax(1) + 1e-4).all()


def test_patterns_are_classified_in_two_groups_with_their_shares() -> None:
    patterns = all_patterns(3)
    several, alone = draw_pattern_groups(patterns, 2, 0.25, torch.Generator().manual_seed(0))
    assert (several[1], alone[1]) == (0.75, 0.25)
    assert several[0].shape == alone[0].shape == (2, 3)
    assert (several[0].sum(dim=1) > 1).all()
    assert alone[0].sum(dim=1).tolist() == [1.0, 1.0]
    every = draw_pattern_groups(patterns, 15, 0.0, torch.Generator())
    assert [(len(group), share) for group, share in every] == [(4, 1.0)]
