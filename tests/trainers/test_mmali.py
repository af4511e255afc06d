"""MMALI: ratios against closed forms, who learns from what, and what missing rows may not do."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

pytest.importorskip("torch", reason="trainers need torch, which is not installed")
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal
from toy_sensors import LENGTHS, ToySource

from trainers.configuration import ModelConfig
from trainers.data.sampler import Batch, BatchSampler
from trainers.fusion.averaged_product import averaged_product_of_experts
from trainers.fusion.gaussians import Gaussian
from trainers.objectives.mmali import (
    density_ratio_loss,
    discriminator_loss,
    factorized_logits,
    generator_loss,
    possible_classes,
)
from trainers.systems.base import System
from trainers.systems.mmali import Mmali
from trainers.systems.mmali_discriminators import FactorizedDiscriminator
from trainers.systems.standardization import PresentStandardization

Make = Callable[[ModelConfig], System]
Configure = Callable[..., ModelConfig]


def batch(size: int = 12, seed: int = 0) -> Batch:
    return BatchSampler(ToySource(), LENGTHS, "train", size, seed).next()


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class KnownDensities:
    """Two modalities, one number each of data, style and content, every density of eqs. 8 and 9 a Gaussian."""

    def __init__(self) -> None:
        self.data = MultivariateNormal(torch.zeros(2), torch.tensor([[1.0, 0.6], [0.6, 1.5]]))
        self.marginals = (Normal(0.0, 1.0), Normal(0.0, math.sqrt(1.5)))
        self.prior = Normal(0.0, 1.0)

    def content(self, i: int, x: Tensor) -> Normal:
        return Normal((0.8, 0.5)[i] * x, (0.5, 0.7)[i])

    def style(self, j: int, x: Tensor) -> Normal:
        return Normal((0.3, -0.4)[j] * x, (0.9, 0.6)[j])

    def decoded(self, j: int, s: Tensor, c: Tensor) -> Normal:
        return Normal((1.0, 0.7)[j] * c + (0.2, 0.5)[j] * s, (0.6, 0.8)[j])

    def log_encoder(self, i: int, x: Tensor, s: Tensor, c: Tensor) -> Tensor:
        styles = sum(self.style(j, x[:, j]).log_prob(s[:, j]) for j in range(2))
        return self.data.log_prob(x) + self.content(i, x[:, i]).log_prob(c) + styles

    def log_decoder(self, x: Tensor, s: Tensor, c: Tensor) -> Tensor:
        parts = [
            self.prior.log_prob(s[:, j]) + self.decoded(j, s[:, j], c).log_prob(x[:, j]) for j in range(2)
        ]
        return self.prior.log_prob(c) + parts[0] + parts[1]

    def factors(self, x: Tensor, s: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        t, u = [], []
        for j in range(2):
            own = self.content(j, x[:, j]).log_prob(c)
            data_and_style = self.marginals[j].log_prob(x[:, j]) + self.style(j, x[:, j]).log_prob(s[:, j])
            made = self.prior.log_prob(s[:, j]) + self.decoded(j, s[:, j], c).log_prob(x[:, j])
            t.append(own - self.prior.log_prob(c))
            u.append(data_and_style + own - self.prior.log_prob(c) - made)
        dependence = self.data.log_prob(x) - sum(self.marginals[j].log_prob(x[:, j]) for j in range(2))
        return torch.stack(t, dim=1), torch.stack(u, dim=1), dependence


def test_factors_of_known_densities_make_the_optimal_discriminator() -> None:
    """Eqs. 5, 6 and 10: both from all densities at once and from the factors."""
    known, generator = KnownDensities(), random()
    x = torch.randn(50, 2, generator=generator)
    s, c = torch.randn(50, 2, generator=generator), torch.randn(50, generator=generator)
    t, u, dependence = known.factors(x, s, c)
    encoders = torch.stack([known.log_encoder(i, x, s, c) for i in range(2)], dim=1)
    decoder = known.log_decoder(x, s, c)
    present = torch.ones(50, 2)
    logits = factorized_logits(t, u, dependence, present)
    ratios = logits[:, :-1] - logits[:, -1:]
    torch.testing.assert_close(ratios, encoders - decoder.unsqueeze(1), rtol=1e-4, atol=1e-4)
    optimal = torch.softmax(torch.cat((encoders, decoder.unsqueeze(1)), dim=1), dim=1)
    found = torch.softmax(logits, dim=1)
    torch.testing.assert_close(found, optimal, rtol=1e-4, atol=1e-5)


def test_with_one_modality_the_ratio_is_that_of_its_own_pair() -> None:
    t, u = torch.tensor([[1.0, 50.0]]), torch.tensor([[2.5, -70.0]])
    logits = factorized_logits(t, u, torch.zeros(1), torch.tensor([[1.0, 0.0]]))
    assert (logits[0, 0] - logits[0, -1]).item() == pytest.approx(2.5)


def test_the_logistic_loss_learns_the_log_ratio_of_two_gaussians() -> None:
    """N(1, 1) against N(0, 4): log 2 − (x − 1)² / 2 + x² / 8."""
    generator = random()
    top = 1 + torch.randn(20000, generator=generator)
    bottom = 2 * torch.randn(20000, generator=generator)
    weights = torch.zeros(3, requires_grad=True)

    def score(x: Tensor) -> Tensor:
        return weights[0] + weights[1] * x + weights[2] * x.square()

    optimizer = torch.optim.LBFGS([weights], max_iter=60, line_search_fn="strong_wolfe")

    def evaluate() -> Tensor:
        optimizer.zero_grad()
        loss = density_ratio_loss(score(top), score(bottom), torch.ones(20000))
        loss.backward()
        return loss

    optimizer.step(evaluate)  # type: ignore[arg-type]
    exact = torch.tensor([math.log(2) - 0.5, 1.0, -0.5 + 0.125])
    torch.testing.assert_close(weights.detach(), exact, rtol=0.05, atol=0.03)


def test_losses_of_the_game_by_hand() -> None:
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.5, 1.0, 0.0], [0.0, 0.0, 3.0]]).unsqueeze(1)
    possible = possible_classes(torch.ones(1, 2))
    logs = torch.log_softmax(logits.squeeze(1), dim=1)
    assert discriminator_loss(logits, possible).item() == pytest.approx(-logs.diagonal().mean().item())
    wrong = -(logs.sum(dim=1) - logs.diagonal()) / 2
    assert generator_loss(logits, possible).item() == pytest.approx(2 * wrong.mean().item())
    lacking = possible_classes(torch.tensor([[1.0, 0.0]]))
    pair = torch.log_softmax(logits[[0, 2], 0][:, [0, 2]], dim=1)
    assert discriminator_loss(logits, lacking).item() == pytest.approx(-pair.diagonal().mean().item())
    crossed = -(pair[0, 1] + pair[1, 0]) / 2
    assert generator_loss(logits, lacking).item() == pytest.approx(2 * crossed.item())
    assert generator_loss(logits, torch.zeros(1, 3)).item() == 0.0


def test_the_game_is_at_rest_where_all_classes_are_as_likely() -> None:
    logits = torch.zeros(4, 5, 4)
    possible = possible_classes(torch.ones(5, 3))
    assert generator_loss(logits, possible).item() == pytest.approx(2 * math.log(4))
    assert discriminator_loss(logits, possible).item() == pytest.approx(math.log(4))


def test_experts_that_agree_are_not_made_sharper() -> None:
    expert = Gaussian(torch.full((1, 3, 2), 0.7), torch.full((1, 3, 2), -1.0))
    found = averaged_product_of_experts(expert, torch.tensor([[1.0, 0.5, 0.0]]))
    torch.testing.assert_close(found.mean, torch.full((1, 2), 0.7))
    torch.testing.assert_close(found.log_variance, torch.full((1, 2), -1.0))
    nothing = averaged_product_of_experts(expert, torch.zeros(1, 3))
    assert nothing.mean.abs().max() == 0
    assert nothing.log_variance.abs().max() == 0
    two = Gaussian(torch.tensor([[[1.0], [4.0]]]), torch.tensor([[[0.0], [math.log(2.0)]]]))
    mixed = averaged_product_of_experts(two, torch.ones(1, 2))
    precision = 0.5 * 1.0 + 0.5 * 0.5
    assert mixed.mean.item() == pytest.approx((0.5 * 1.0 + 0.5 * 0.5 * 4.0) / precision)
    assert mixed.log_variance.item() == pytest.approx(-math.log(precision))


def totals(system: System, given: Batch) -> tuple[float, float]:
    played = system.loss("adversarial", given, random(), progress=0.5)["total"]
    learned = system.adversary_loss("adversarial", given, random(), progress=0.5)["total"]
    return float(played.detach()), float(learned.detach())


@pytest.mark.parametrize("discriminator", ["factorized", "joint"])
def test_what_an_absent_row_holds_reaches_neither_side(
    discriminator: str, toy_config: Configure, toy_system: Make
) -> None:
    config = toy_config("mmali", discriminator=discriminator, reconstruction=0.1, standardise=True)
    system = toy_system(config).eval()
    assert isinstance(system, Mmali)
    system.standards.train()
    given, presence = batch(), torch.ones(12, 3)
    presence[:6, 1] = 0.0
    presence[:2, 2] = 0.0
    presence[11] = 0.0
    absent = presence[:, 1] == 0
    garbage = given.windows["b"].clone()
    garbage[absent] = 50.0
    one = Batch(given.windows, given.labels, presence)
    two = Batch({**given.windows, "b": garbage}, given.labels, presence)
    assert totals(system, one) == pytest.approx(totals(system, two), rel=1e-6)
    assert totals(system, one) != pytest.approx(totals(system, batch(seed=1)), rel=1e-6)


def gradients(module: torch.nn.Module) -> float:
    return max((float(p.grad.abs().max()) for p in module.parameters() if p.grad is not None), default=0.0)


def test_rows_with_one_modality_teach_that_modality_alone(toy_config: Configure, toy_system: Make) -> None:
    system = toy_system(toy_config("mmali", classification=0.0))
    given = batch()
    only_a = Batch(given.windows, torch.full((12,), -1), torch.eye(3)[torch.zeros(12, dtype=torch.long)])
    system.begin_phase("adversarial")
    terms = system.loss("adversarial", only_a, random(), progress=0.5)
    terms["total"].backward()
    assert gradients(system.networks["a"]) > 1e-6
    assert gradients(system.networks["b"]) == gradients(system.networks["c"]) == 0.0
    system.zero_grad()
    learned = system.adversary_loss("adversarial", only_a, random(), progress=0.5)
    assert learned["dependence"].item() == 0.0
    learned["total"].backward()
    assert isinstance(system, Mmali)
    assert isinstance(system.discriminator, FactorizedDiscriminator)
    assert gradients(system.discriminator.critics["a"]) > 1e-6
    assert gradients(system.discriminator.critics["b"]) == 0.0


def test_the_joint_discriminator_has_no_use_for_single_modalities(
    toy_config: Configure, toy_system: Make
) -> None:
    system = toy_system(toy_config("mmali", classification=0.0, discriminator="joint"))
    alone = Batch(batch().windows, torch.full((12,), -1), torch.eye(3)[torch.arange(12) % 3])
    assert totals(system, alone) == (0.0, 0.0)


@pytest.mark.parametrize("discriminator", ["factorized", "joint"])
def test_each_side_learns_from_its_own_loss(
    discriminator: str, toy_config: Configure, toy_system: Make
) -> None:
    system = toy_system(toy_config("mmali", discriminator=discriminator))
    assert isinstance(system, Mmali)
    system.begin_phase("adversarial")
    unlabelled = Batch(batch().windows, torch.full((12,), -1), torch.ones(12, 3))
    system.adversary_loss("adversarial", unlabelled, random(), progress=0.5)["total"].backward()
    assert gradients(system.discriminator) > 1e-6
    assert gradients(system.networks) == gradients(system.heads) == 0.0
    system.zero_grad()
    terms = system.loss("adversarial", unlabelled, random(), progress=0.5)
    assert terms["classification"].item() == 0.0
    terms["total"].backward()
    for name in system.names:
        network = system.network(name)
        assert gradients(network.encoder) > 1e-6  # type: ignore[arg-type]
        assert gradients(network.decoder) > 1e-6  # type: ignore[arg-type]


def test_a_style_is_the_modalitys_own_or_the_priors_mean(toy_config: Configure, toy_system: Make) -> None:
    system = toy_system(toy_config("mmali", style_size=3)).eval()
    assert isinstance(system, Mmali)
    given = batch()
    evidence = {n: system.encode(n, given.windows[n]) for n in system.names}
    fused = system.fuse(evidence, torch.tensor([[1.0, 0.0, 1.0]]).expand(12, 3))
    contents, styles = system.codes(evidence)
    own = averaged_product_of_experts(contents, torch.tensor([[1.0, 0.0, 1.0]]).expand(12, 3))
    for j, n in enumerate(system.names):
        torch.testing.assert_close(fused.latents[n][:, :4], own.mean)
        expected = styles.mean[:, j] if n != "b" else torch.zeros(12, 3)
        torch.testing.assert_close(fused.latents[n][:, 4:], expected)
    nothing = system.fuse(evidence, torch.zeros(12, 3))
    assert all(float(z.detach().abs().max()) == 0.0 for z in nothing.latents.values())
    assert bool(torch.isfinite(nothing.logits).all())


def test_codes_are_standardised_over_the_rows_that_count() -> None:
    standard, features = PresentStandardization(3, floor=1e-5), 4 + 2 * torch.randn(50, 3, generator=random())
    present = torch.ones(50)
    present[30:] = 0.0
    features[30:] = 1e4
    found = standard(features, present)[:30]
    torch.testing.assert_close(found.mean(dim=0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.var(dim=0, unbiased=False), torch.ones(3), atol=1e-3, rtol=0)
    for _ in range(200):
        standard(features, present)
    standard.eval()
    torch.testing.assert_close(standard(features, present)[:30], found, atol=1e-3, rtol=1e-3)
    alone = standard.train()(features[:1], torch.ones(1))
    torch.testing.assert_close(alone, found[:1], atol=1e-3, rtol=1e-3)


def test_the_prior_has_one_content_and_a_style_each(toy_config: Configure, toy_system: Make) -> None:
    drawn = toy_system(toy_config("mmali", style_size=3)).sample_prior(5, random())
    assert torch.equal(drawn["a"][:, :4], drawn["c"][:, :4])
    assert not torch.equal(drawn["a"][:, 4:], drawn["c"][:, 4:])
    assert drawn["b"].shape == (5, 7)


def test_sizes_that_do_not_fit_are_refused_by_name(toy_config: Configure, toy_system: Make) -> None:
    system = toy_system(toy_config("mmali"))
    config = toy_config("mmali", style_size=5).system
    networks = {n: system.network(n) for n in system.names}
    with pytest.raises(ValueError, match=r"modality .a.: .*4 \+ 5"):
        Mmali(networks, 2, config)  # type: ignore[arg-type]
