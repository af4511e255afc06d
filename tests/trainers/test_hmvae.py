"""SS-HMVAE: its objective against closed forms, every pattern, incomplete rows, and the loop around the engine."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_sensors import LENGTHS, ToySource

from engines.bundle import load_manifest
from engines.opening import open_session
from trainers.calibration import calibrate, validation_evidence
from trainers.configuration import ModelConfig, load_model_config
from trainers.data.sampler import Batch, BatchSampler
from trainers.export import export_bundle
from trainers.fusion.gaussians import Gaussian, kl_divergence, log_density
from trainers.fusion.gumbel import gumbel_softmax
from trainers.fusion.masks import all_patterns
from trainers.loop import Trainer
from trainers.objectives.hmvae import (
    divergence_to_singles,
    entropy,
    label_divergence,
    negative_bound,
    semi_supervised_mean,
)
from trainers.systems.base import System
from trainers.systems.hmvae import Hmvae
from trainers.systems.standardization import PresentStandardization

Make = Callable[[ModelConfig], System]
Configure = Callable[..., ModelConfig]
SMALL = {"z_size": 3, "hidden_size": 16}
VARIANTS = {"plain": SMALL, "kl": SMALL | {"kl": True}}


@pytest.fixture(params=VARIANTS)
def system(request: pytest.FixtureRequest, toy_config: Configure, toy_system: Make) -> Hmvae:
    """Both variants, in evaluation mode with running moments that are not the initial ones."""
    found = toy_system(toy_config("hmvae", subset_classification=0.5, **VARIANTS[request.param]))
    assert isinstance(found, Hmvae)
    found.train()
    found.loss("joint", batch(), torch.Generator().manual_seed(0), progress=0.0)
    return found.eval()


def batch(size: int = 8, seed: int = 0) -> Batch:
    return BatchSampler(ToySource(), LENGTHS, "train", size, seed).next()


def evidence_of(system: System, given: Batch) -> dict[str, torch.Tensor]:
    return {n: system.encode(n, given.windows[n]) for n in system.names}


def random_gaussian(*shape: int, seed: int) -> Gaussian:
    generator = torch.Generator().manual_seed(seed)
    return Gaussian(torch.randn(shape, generator=generator), torch.randn(shape, generator=generator))


def test_density_and_entropy_are_those_of_torch() -> None:
    g, value = random_gaussian(5, 3, seed=0), torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    normal = torch.distributions.Normal(g.mean, torch.exp(0.5 * g.log_variance))
    torch.testing.assert_close(log_density(value, g), normal.log_prob(value).sum(1))
    torch.testing.assert_close(entropy(g), normal.entropy().sum(1))


def test_label_divergence_is_the_prior_of_given_labels_and_the_divergence_of_others() -> None:
    logits = torch.tensor([[2.0, 0.0, -1.0]] * 3 + [[0.0, 0.0, 0.0]])
    found = label_divergence(logits, torch.tensor([0, 2, -1, -1]))
    q = torch.distributions.Categorical(logits=logits[0])
    uniform = torch.distributions.Categorical(logits=torch.zeros(3))
    assert found[:2].tolist() == pytest.approx([math.log(3)] * 2)
    assert found[2].item() == pytest.approx(torch.distributions.kl_divergence(q, uniform).item())
    assert found[3].item() == pytest.approx(0.0, abs=1e-6)


def test_the_bound_has_the_expectation_of_the_papers_ratio() -> None:
    """Eq. 1 as the mean over samples of log densities, against the version with entropies in closed form."""
    a, z, fixed_prior = (random_gaussian(1, 2, seed=s) for s in (0, 1, 2))
    generator = torch.Generator().manual_seed(3)
    repeat = Gaussian(*(t.expand(200_000, -1) for t in a))
    top = Gaussian(*(t.expand(200_000, -1) for t in z))
    prior = Gaussian(*(t.expand(200_000, -1) for t in fixed_prior))
    sample, top_sample = repeat.sample(generator), top.sample(generator)
    reconstruction = sample.square().sum(1)
    standard = Gaussian(torch.zeros_like(top.mean), torch.zeros_like(top.mean))
    paper = (
        -reconstruction
        + log_density(sample, prior)
        + log_density(top_sample, standard)
        - math.log(3)
        - log_density(sample, repeat)
        - log_density(top_sample, top)
    )
    label_term = torch.full((200_000,), math.log(3))
    ours = negative_bound(reconstruction, sample, repeat, prior, top, label_term)
    assert ours.mean().item() == pytest.approx(-paper.mean().item(), rel=0.01)
    halved = negative_bound(reconstruction, sample, repeat, prior, top, label_term, divergence_weight=0.5)
    torch.testing.assert_close(halved, (ours + reconstruction) / 2)


def test_labelled_and_unlabelled_rows_are_averaged_apart() -> None:
    bound = torch.tensor([1.0, 3.0, 10.0, 100.0])
    labels = torch.tensor([0, 1, -1, -1])
    assert semi_supervised_mean(bound, labels, torch.ones(4)).item() == pytest.approx(2.0 + 55.0)
    assert semi_supervised_mean(bound, labels, torch.tensor([1.0, 1, 1, 0])).item() == pytest.approx(12.0)


def test_divergence_to_singles_counts_present_ones_only() -> None:
    whole, one, two = (random_gaussian(3, 4, seed=s) for s in range(3))
    presence = torch.tensor([[1.0, 1.0], [0.0, 1.0], [0.0, 0.0]])
    first, second = kl_divergence(whole, one), kl_divergence(whole, two)
    expected = torch.stack([first[0] + second[0], second[1], torch.tensor(0.0)])
    torch.testing.assert_close(divergence_to_singles(whole, {0: one, 1: two}, presence), expected)


def test_relaxed_labels_are_drawn_as_often_as_they_are_likely() -> None:
    logits = torch.tensor([1.0, 0.0, -1.0]).expand(20_000, 3)
    drawn = gumbel_softmax(logits, 0.1, torch.Generator().manual_seed(0))
    assert torch.allclose(drawn.sum(1), torch.ones(20_000), atol=1e-5)
    share = torch.nn.functional.one_hot(drawn.argmax(1), 3).float().mean(0)
    torch.testing.assert_close(share, torch.softmax(logits[0], 0), atol=0.01, rtol=0)
    cold, warm = (gumbel_softmax(logits, t, torch.Generator().manual_seed(0)) for t in (0.1, 5.0))
    assert cold.amax(1).mean() > 0.9 > 0.6 > warm.amax(1).mean()


def test_moments_are_those_of_present_rows() -> None:
    layer = PresentStandardization(2).train()
    features = torch.tensor([[1.0, 10.0], [3.0, 30.0], [1e6, -1e6]])
    out = layer(features, torch.tensor([1.0, 1.0, 0.0]))
    torch.testing.assert_close(out[:2], torch.tensor([[-1.0, -1.0], [1.0, 1.0]]), atol=1e-3, rtol=0)
    torch.testing.assert_close(layer.mean, torch.tensor([0.2, 2.0]))
    torch.testing.assert_close(layer.eval()(torch.tensor([[0.2, 2.0]])), torch.zeros(1, 2))


def test_every_pattern_gives_a_valid_decision(system: Hmvae) -> None:
    evidence = {n: e.repeat(8, 1) for n, e in evidence_of(system, batch()).items()}
    masks = all_patterns(3, empty=True).repeat_interleave(8, dim=0)
    fused = system.infer(evidence, masks)
    assert fused.logits.shape == (64, 2)
    assert fused.posterior.shape == (64, system.posterior_size)
    assert all(evidence[n].shape[1] == system.evidence_size(n) for n in system.names)
    assert bool(torch.isfinite(fused.logits).all() & torch.isfinite(fused.posterior).all())
    assert torch.equal(fused.logits[-8:], torch.zeros(8, 2))
    torch.testing.assert_close(fused.latents["a"][-8:], system.prior_mean().expand(8, -1))
    absent = {n: (masks[:, i : i + 1] == 0) for i, n in enumerate(system.names)}
    other = {n: torch.where(absent[n], torch.full_like(e, 3.0), e) for n, e in evidence.items()}
    assert torch.equal(system.infer(other, masks).logits, fused.logits)


def test_kl_uses_the_joint_network_the_single_ones_and_their_product(
    toy_config: Configure, toy_system: Make
) -> None:
    system = toy_system(toy_config("hmvae", **VARIANTS["kl"])).eval()
    assert isinstance(system, Hmvae)
    evidence = evidence_of(system, batch())
    features = {n: e[:, :16] for n, e in evidence.items()}
    singles = {n: Gaussian.from_flat(e[:, 16:]) for n, e in evidence.items()}

    def posterior(*mask: float) -> Gaussian:
        return Gaussian.from_flat(system.fuse(evidence, torch.tensor([mask]).expand(8, 3)).posterior)

    torch.testing.assert_close(posterior(1, 1, 1), system.joint(*features.values()))
    torch.testing.assert_close(posterior(0, 1, 0), singles["b"])
    precision = torch.exp(-singles["a"].log_variance) + torch.exp(-singles["c"].log_variance)
    torch.testing.assert_close(posterior(1, 0, 1).log_variance, -torch.log(precision))
    system.reliability = torch.tensor([1.0, 1.0, 1e-6])
    torch.testing.assert_close(posterior(1, 0, 1), singles["a"], atol=1e-4, rtol=1e-4)


def test_what_is_absent_does_not_reach_the_loss(system: Hmvae) -> None:
    given, presence = batch(), torch.ones(8, 3)
    presence[:5, 1] = 0.0
    presence[7] = torch.tensor([0.0, 0.0, 1.0])
    garbage = {**given.windows, "b": given.windows["b"].clone()}
    garbage["b"][:5] = 50.0
    garbage["b"][7] = -70.0

    def terms(windows: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        labels = torch.where(torch.arange(8) < 4, given.labels, -1)
        return system.loss(
            "joint", Batch(windows, labels, presence), torch.Generator().manual_seed(0), progress=1.0
        )

    one, two = terms(given.windows), terms(garbage)
    assert {k: float(v.detach()) for k, v in one.items()} == {k: float(v.detach()) for k, v in two.items()}


def test_rows_may_lack_labels_modalities_or_all_at_once(system: Hmvae) -> None:
    given = batch()
    generator = torch.Generator().manual_seed(0)
    unlabelled = torch.full((8,), -1)
    alone = torch.eye(3)[torch.arange(8) % 3]
    for labels, presence in (
        (unlabelled, torch.ones(8, 3)),
        (given.labels, alone),
        (unlabelled, alone),
        (given.labels, torch.zeros(8, 3)),
    ):
        system.begin_phase("joint")
        system.zero_grad(set_to_none=True)
        terms = system.loss("joint", Batch(given.windows, labels, presence), generator, progress=1.0)
        terms["total"].backward()
        gradients = [p.grad for p in system.parameters() if p.grad is not None]
        assert all(bool(torch.isfinite(g).all()) for g in gradients)
        assert bool(torch.isfinite(terms["total"]))
        if not bool((labels >= 0).any()) or not bool(presence.any()):
            assert terms["classification"].item() == 0.0
        if not bool(presence.any()):
            assert terms["total"].item() == 0.0


def test_unlabelled_rows_teach_the_classifier_through_the_relaxed_label(system: Hmvae) -> None:
    system.begin_phase("joint")
    system.zero_grad(set_to_none=True)
    given = Batch(batch().windows, torch.full((8,), -1), torch.ones(8, 3))
    system.loss("joint", given, torch.Generator().manual_seed(0), progress=1.0)["total"].backward()
    gradient = system.classifier[-1].weight.grad
    assert gradient is not None
    assert gradient.abs().max() > 1e-6


@pytest.mark.parametrize("moves", [True, False])
def test_the_divergence_to_singles_moves_the_joint_network_unless_told_not_to(
    moves: bool, toy_config: Configure, toy_system: Make
) -> None:
    settings = VARIANTS["kl"] | {"generative_weight": 0.0, "classification": 0.0}
    system = toy_system(toy_config("hmvae", divergence_moves_joint=moves, **settings))
    assert isinstance(system, Hmvae)
    system.begin_phase("joint")
    system.loss("joint", batch(), torch.Generator().manual_seed(0), progress=1.0)["total"].backward()

    def moved(module: torch.nn.Module) -> bool:
        return any(p.grad is not None and bool(p.grad.abs().max() > 0) for p in module.parameters())

    assert moved(system.singles)
    assert moved(system.joint) == moves


def test_refinement_is_the_loop_written_out(toy_config: Configure, toy_system: Make) -> None:
    system = toy_system(toy_config("hmvae", refinement_iterations=3, **SMALL)).eval()
    assert isinstance(system, Hmvae)
    evidence = evidence_of(system, batch())
    mask = torch.tensor([[1.0, 0.0, 1.0]]).expand(8, 3)
    given, a = dict(evidence), system.fuse(evidence, mask).latents["a"]
    for _ in range(3):
        given["b"] = system.feature_decoders["b"](a)
        a = system.fuse(given, torch.ones(8, 3)).latents["a"]
    torch.testing.assert_close(system.infer(evidence, mask).latents["b"], a)
    mixed = torch.tensor([[1.0, 0.0, 1.0], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0], [1.0, 0.0, 1.0]]).repeat(2, 1)
    found, once = system.infer(evidence, mixed), system.fuse(evidence, mixed)
    torch.testing.assert_close(found.logits[[1, 2]], once.logits[[1, 2]])
    torch.testing.assert_close(found.latents["c"][[0, 3]], a[[0, 3]])
    assert not torch.allclose(found.logits[0], once.logits[0])


def test_sampled_refinement_keeps_what_was_measured_and_follows_the_generator(
    toy_config: Configure, toy_system: Make
) -> None:
    system = toy_system(toy_config("hmvae", **SMALL)).eval()
    assert isinstance(system, Hmvae)
    evidence, mask = evidence_of(system, batch()), torch.tensor([[1.0, 0.0, 1.0]]).expand(8, 3)

    def logits(seed: int, presence: torch.Tensor = mask) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return system.sample_absent(evidence, presence, generator, iterations=5).logits

    assert torch.equal(logits(0), logits(0))
    assert not torch.equal(logits(0), logits(1))
    torch.testing.assert_close(logits(0, torch.ones(8, 3)), system.fuse(evidence, torch.ones(8, 3)).logits)
    random = system.sample_absent(evidence, mask, torch.Generator().manual_seed(0), iterations=0)
    a = system.sample_prior(8, torch.Generator().manual_seed(0))["b"]
    noise = torch.Generator().manual_seed(0)
    again = system.sample_prior(8, noise)["b"]
    assert torch.equal(a, again)
    features = torch.cat([system.feature_decoders[n](a) for n in system.names], dim=1)
    features = features + torch.randn(features.shape, generator=noise)
    filled = {**evidence, "b": features[:, 16:32]}
    torch.testing.assert_close(random.logits, system.fuse(filled, torch.ones(8, 3)).logits)
    other = {n: torch.full_like(e, 0.5) for n, e in evidence.items()}
    given = system.sample_absent(evidence, mask, noise, iterations=0, start=other)
    expected = system.fuse({**evidence, "b": other["b"]}, torch.ones(8, 3))
    torch.testing.assert_close(given.logits, expected.logits)
    with pytest.raises(ValueError, match="without kl"):
        toy_system(toy_config("hmvae", **VARIANTS["kl"])).sample_absent(  # type: ignore[operator]
            evidence, mask, torch.Generator()
        )


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_short_training_learns_from_few_labels_and_exports(
    variant: str, toy_config: Configure, toy_system: Make, tmp_path: Path
) -> None:
    config = toy_config("hmvae", steps=60, dropout=0.0, subset_classification=1.0, **VARIANTS[variant])
    system, source = toy_system(config), ToySource()
    sampler = BatchSampler(source, LENGTHS, "train", 24, 0)
    sampler.labels = np.where(np.arange(48) % 4 < 2, sampler.labels, -1)
    validation = [BatchSampler(source, LENGTHS, "validation", 24, 0).next()]
    trainer = Trainer(system, sampler, lambda: validation, config, tmp_path)
    trainer.run()
    losses = [r["total"] for r in trainer.state.history["joint"]]
    assert losses[-1] < losses[0]
    evidence, labels = validation_evidence(system.eval(), lambda: validation)
    temperatures, accuracies = calibrate(system, evidence, labels)
    assert accuracies["a+b+c"] >= 0.9
    assert min(accuracies[k] for k in ("a+b", "a+c", "b+c")) >= 0.7
    folder = export_bundle(
        system,
        config,
        source.rig,
        tmp_path / "bundle",
        data="recorded",
        classes=source.classes,
        temperatures=temperatures,
        health_thresholds={},
        golden_windows={n: w[:4].numpy() for n, w in validation[0].windows.items()},
        metrics={},
    )
    assert load_manifest(folder).refinement == system.refinement()
    assert (system.refinement() is None) == (variant == "kl")
    with open_session(folder) as session:
        mask = np.array([[1, 0, 0], [0, 1, 1], [1, 1, 1], [0, 0, 0]], np.float32)
        given = {n: session.encode(n, w[:4].numpy()) for n, w in validation[0].windows.items()}
        live = session.fuse(given, mask)
        expected = system.infer({n: torch.from_numpy(e) for n, e in given.items()}, torch.from_numpy(mask))
        np.testing.assert_allclose(live.logits, expected.logits.detach(), atol=1e-3, rtol=1e-3)
        scale = np.array([temperatures[k] for k in ("a", "b+c", "a+b+c", "none")])
        softmax = torch.softmax(expected.logits.detach() / torch.tensor(scale).float()[:, None], dim=1)
        np.testing.assert_allclose(live.probabilities, softmax, atol=1e-3)


@pytest.mark.parametrize("name", ["hmvae", "hmvae-kl"])
def test_shipped_configurations_are_valid(name: str) -> None:
    config = load_model_config(name)
    assert config.system.name == "hmvae"
    assert config.name == name
