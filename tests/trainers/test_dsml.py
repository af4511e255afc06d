"""DSML: games against closed forms, who learns from what, fusion, and what missing rows may not do."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

pytest.importorskip("torch", reason="trainers need torch, which is not installed")
import torch
from torch import Tensor, nn
from torch.distributions import Normal
from toy_sensors import LENGTHS, ToyNetwork, ToySource

from trainers.configuration import ModelConfig
from trainers.data.sampler import Batch, BatchSampler
from trainers.objectives.dsml import code_distance, discriminator_loss, generator_loss, pseudo_label_loss
from trainers.systems.base import System
from trainers.systems.dsml import Dsml, _kept_statistics

Make = Callable[[ModelConfig], System]
Configure = Callable[..., ModelConfig]


def batch(size: int = 12, seed: int = 0) -> Batch:
    return BatchSampler(ToySource(), LENGTHS, "train", size, seed).next()


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def system(toy_config: Configure, toy_system: Make) -> Dsml:
    made = toy_system(toy_config("dsml", reconstruction=0.1, pseudo_labels=1.0, confidence=0.5))
    assert isinstance(made, Dsml)
    return made


def test_telling_loss_is_the_sum_of_the_means_of_each_kind() -> None:
    logits = torch.randn(3, 5, 3, generator=random())
    weight = torch.tensor([[1, 1, 1, 1, 1], [1, 0, 1, 0, 0], [0, 0, 0, 0, 0]], dtype=torch.float32)
    d = logits.softmax(-1)
    by_hand = -d[0, :, 0].log().mean() - (d[1, 0, 1].log() + d[1, 2, 1].log()) / 2
    torch.testing.assert_close(discriminator_loss(logits, weight), by_hand)


def test_passing_loss_raises_the_mean_of_the_other_kinds() -> None:
    logits = torch.randn(3, 2, 3, generator=random())
    d = logits.softmax(-1)
    by_hand = (
        -(d[0, :, 1].log() + d[0, :, 2].log()).mean() / 2 - (d[1, :, 0].log() + d[1, :, 2].log()).mean() / 2
    )
    torch.testing.assert_close(generator_loss(logits, torch.ones(3, 2), (0, 1)), by_hand)


def test_passing_loss_of_two_kinds_is_the_usual_non_saturating_game() -> None:
    logits = torch.randn(2, 6, 2, generator=random())
    ratio = logits[..., 0] - logits[..., 1]
    by_hand = nn.functional.softplus(ratio[0]).mean() + nn.functional.softplus(-ratio[1]).mean()
    torch.testing.assert_close(generator_loss(logits, torch.ones(2, 6), (0, 1)), by_hand)


def test_passing_loss_has_a_slope_where_the_printed_form_has_none() -> None:
    logits = torch.tensor([[[12.0, 0.0]], [[0.0, 12.0]]], requires_grad=True)
    generator_loss(logits, torch.ones(2, 1), (0,)).backward()
    assert logits.grad is not None
    assert float(logits.grad[0, 0, 0]) > 0.99
    printed = torch.tensor([12.0, 0.0], requires_grad=True)
    printed.log_softmax(0)[0].backward()
    assert printed.grad is not None
    assert float(printed.grad[0].abs()) < 1e-4


def test_the_best_discriminator_is_the_softmax_of_the_log_densities() -> None:
    """Proposition 1's D*: no other logits tell three Gaussians apart better, and equal ones give log 3 each."""
    kinds = [Normal(-1.0, 1.0), Normal(0.0, 0.5), Normal(1.5, 1.0)]
    torch.manual_seed(0)
    samples = torch.stack([kind.sample((4000,)) for kind in kinds])
    best = torch.stack([kind.log_prob(samples) for kind in kinds], dim=-1)
    weight = torch.ones(3, 4000)
    least = discriminator_loss(best, weight)
    for change in (
        0.7 * best,
        best + torch.tensor([0.3, 0.0, 0.0]),
        best - 0.2 * samples.unsqueeze(-1) * torch.eye(3)[0],
    ):
        assert float(discriminator_loss(change, weight)) > float(least)
    equal = torch.zeros(3, 10, 3)
    assert float(discriminator_loss(equal, torch.ones(3, 10))) == pytest.approx(3 * math.log(3), rel=1e-5)
    assert float(generator_loss(equal, torch.ones(3, 10), (0, 1))) == pytest.approx(2 * math.log(3), rel=1e-5)


def test_code_distance_is_not_squared() -> None:
    one, other = (
        torch.tensor([[3.0, 4.0], [1.0, 1.0], [9.0, 9.0]]),
        torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 0.0]]),
    )
    one.requires_grad_(True)
    found = code_distance(one, other, torch.tensor([1.0, 1.0, 0.0]))
    assert found.item() == pytest.approx(2.5)
    found.backward()
    assert one.grad is not None
    assert torch.isfinite(one.grad).all()


def test_pseudo_labels_count_only_where_the_decision_is_sure() -> None:
    logits = torch.tensor([[1.0, 0.0], [0.0, 2.0], [5.0, 0.0]])
    decided = torch.tensor([[0.97, 0.03], [0.6, 0.4], [0.01, 0.99]])
    found = pseudo_label_loss(logits, decided, 0.95, torch.tensor([1.0, 1.0, 0.0]))
    assert float(found) == pytest.approx(math.log(1 + math.exp(-1.0)) / 2, rel=1e-5)


def test_fusing_adds_logits_and_averages_styles(system: Dsml) -> None:
    evidence = {
        n: torch.randn(1, system.evidence_size(n), generator=random(i)) for i, n in enumerate(system.names)
    }
    fused = system.fuse(evidence, torch.tensor([[1.0, 0.0, 1.0]]))
    a, c = evidence["a"], evidence["c"]
    torch.testing.assert_close(fused.logits, (a + c)[:, :2])
    latent = torch.cat(((a + c)[:, :2].softmax(-1), (a + c)[:, 2:] / 2), dim=1)
    for name in system.names:
        torch.testing.assert_close(fused.latents[name], latent)
    nothing = system.fuse(evidence, torch.zeros(1, 3))
    torch.testing.assert_close(nothing.latents["b"], torch.tensor([[0.5, 0.5, 0.0, 0.0, 0.0, 0.0]]))


def test_a_modality_that_counts_less_says_less(system: Dsml) -> None:
    evidence = {n: torch.ones(1, system.evidence_size(n)) for n in system.names}
    evidence["a"] = torch.tensor([[4.0, 0.0, 0.0, 0.0, 0.0, 0.0]])
    system.reliability.copy_(torch.tensor([0.25, 1.0, 1.0]))
    fused = system.fuse(evidence, torch.tensor([[1.0, 0.0, 0.0]]))
    torch.testing.assert_close(fused.logits, torch.tensor([[1.0, 0.0]]))


def test_only_adversaries_learn_from_their_loss_and_everything_else_from_the_other(system: Dsml) -> None:
    system.begin_phase("adversarial")
    system.adversary_loss("adversarial", batch(), random(), progress=0.5)["total"].backward()
    for name, parameter in system.named_parameters():
        learned = parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
        assert learned == name.startswith("discriminators."), name
    system.zero_grad()
    system.discriminators.requires_grad_(False)
    system.loss("adversarial", batch(), random(), progress=0.5)["total"].backward()
    for name, parameter in system.named_parameters():
        learned = parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
        assert learned != name.startswith("discriminators."), name


def losses(system: Dsml, given: Batch) -> tuple[Tensor, Tensor]:
    system.eval()  # batch norms aside, which see every row
    found = system.loss("adversarial", given, random(), progress=0.5)["total"]
    return found, system.adversary_loss("adversarial", given, random(), progress=0.5)["total"]


def test_what_absent_rows_hold_does_not_matter(system: Dsml) -> None:
    given, presence = batch(), torch.ones(12, 3)
    presence[3:7, 1] = 0.0
    presence[5, 0] = 0.0
    presence[9] = 0.0
    absent = Batch(given.windows, given.labels, presence)
    before = losses(system, absent)
    other = {n: w.clone() for n, w in given.windows.items()}
    for j, name in enumerate(system.names):
        other[name][presence[:, j] == 0] = 7.0
    for one, two in zip(before, losses(system, Batch(other, given.labels, presence)), strict=True):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize("pattern", [(0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.0, 1.0, 1.0)])
def test_batches_that_lack_nearly_everything_are_finite(system: Dsml, pattern: tuple[float, ...]) -> None:
    given = batch()
    lacking = Batch(given.windows, torch.full_like(given.labels, -1), torch.tensor(pattern).repeat(12, 1))
    system.begin_phase("adversarial")
    for found in losses(system, lacking):
        assert torch.isfinite(found)
        found.backward()
    assert all(torch.isfinite(p.grad).all() for p in system.parameters() if p.grad is not None)


def test_labels_reach_only_rows_that_have_one_and_the_modality(system: Dsml) -> None:
    given, presence = batch(), torch.ones(12, 3)
    labels = given.labels.clone()
    labels[:6] = -1
    presence[8, 0] = 0.0
    system.eval()
    found = system.loss("adversarial", Batch(given.windows, labels, presence), random(), progress=0.0)
    by_hand = torch.tensor(0.0)
    for j, name in enumerate(system.names):
        rows = [r for r in range(6, 12) if presence[r, j]]
        logits = system.encode(name, given.windows[name])[rows, :2]
        by_hand = by_hand + nn.functional.cross_entropy(logits, labels[rows])
    torch.testing.assert_close(found["classification"], by_hand)
    none = Batch(given.windows, torch.full_like(labels, -1), presence)
    assert system.loss("adversarial", none, random(), progress=0.0)["classification"].item() == 0


def test_generated_pairs_come_to_count_over_the_warm_up(system: Dsml) -> None:
    found = [
        system.eval().loss("adversarial", batch(), random(), progress=p)["generated_classification"].item()
        for p in (0.0, 0.15, 0.3, 0.9)
    ]
    assert found[0] == 0.0
    assert found[1] == pytest.approx(found[2] / 2, rel=1e-5)
    assert found[3] == pytest.approx(found[2], rel=1e-5)


def test_the_joint_game_has_the_rows_that_each_kind_needs(system: Dsml) -> None:
    given, presence = batch(4), torch.ones(4, 3)
    presence[1, 2] = 0.0
    presence[2, :2] = 0.0
    lacking = Batch(given.windows, given.labels, presence)
    with torch.no_grad():
        drawn = system._draw(lacking, random())
        tuples = system._tuples(system._infer(lacking), drawn, lacking, random())
        game = system.discriminators.games(tuples)["joint"]
    assert game.logits.shape == (5, 4, 5)
    wanted = [[1, 0, 0, 1], [1, 1, 1, 1], [1, 0, 0, 1], [1, 0, 0, 1], [1, 1, 0, 1]]
    assert game.weight.tolist() == wanted
    assert game.generated_kinds == (1, 2, 3, 4)


def test_reading_generated_data_leaves_batch_statistics_alone(system: Dsml) -> None:
    network = system.network("a").train()
    assert isinstance(network, ToyNetwork)
    norm = network.encoder[1]
    assert isinstance(norm, nn.BatchNorm1d)
    norm(torch.randn(8, 16, generator=random()))
    mean = norm.running_mean
    assert mean is not None
    before = mean.clone()
    with _kept_statistics(network):
        norm(100.0 + torch.randn(8, 16, generator=random()))
        torch.testing.assert_close(mean, before)
    assert norm.training
    norm(100.0 + torch.randn(8, 16, generator=random()))
    assert not torch.allclose(mean, before)


def test_a_windowed_network_that_cannot_read_targets_says_so(system: Dsml) -> None:
    network = system.network("a")
    with pytest.raises(NotImplementedError, match=r"'a'.*trunk_of_target"):
        super(ToyNetwork, network).trunk_of_target(torch.zeros(2, 3))


def test_decoder_sizes_must_fit(system: Dsml) -> None:
    assert system.config.decoder_size("a", 7) == 11
    networks = {n: system.network(n) for n in system.names}
    with pytest.raises(ValueError, match=r"'a': latent_size 6, class and style have 3 \+ 4"):
        Dsml(networks, 3, system.config)
