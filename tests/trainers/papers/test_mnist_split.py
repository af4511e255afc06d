"""MNIST-Split: stripes are cut and joined without loss, supervision is what it says, completions are read rightly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="trainers need torch, which is not installed")
import torch
from torch import Tensor

from trainers.evaluation.oracle import Oracle, OracleNetwork
from trainers.papers.completion import completed_examples, draw_latents, measure_completion
from trainers.papers.completion_figures import draw_completions, draw_supervision
from trainers.papers.mnist_split import LEVELS, MnistSplit, arm_name, split_arm
from trainers.papers.networks import GreyImageNetwork
from trainers.papers.protocol import Cell
from trainers.papers.stripes import StripedDigits, StripeNetwork, Stripes
from trainers.systems.registry import make_system
from trainers.systems.shared_latent import SharedLatent
from trainers.systems.svae import SvaeConfig

both_cuts = pytest.mark.parametrize("count", [2, 3])


def digits(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 28, 28)).astype(np.uint8)


@both_cuts
def test_stripes_join_to_the_digit_that_was_cut(count: int) -> None:
    stripes, images = Stripes.of(count), digits(3)
    joined = stripes.join({n: torch.from_numpy(a) for n, a in stripes.split(images).items()}).numpy()
    kept = stripes.height * count
    assert kept in (27, 28)
    assert (joined[:, :kept] == images[:, :kept]).all()
    assert (joined[:, kept:] == 0).all()


def test_a_digit_in_four_stripes_is_refused() -> None:
    with pytest.raises(ValueError, match="2 or 3 stripes, got 4"):
        Stripes.of(4)


@both_cuts
def test_only_pairs_of_the_share_come_together_and_every_stripe_comes_alone(count: int) -> None:
    images, stripes = digits(40), Stripes.of(count)
    for row, image in enumerate(images):
        image[:] = row + 1
    sampler = StripedDigits(images, stripes).sampler(0.1, paired=6, alone=5, seed=1)
    together, alone = set(), {name: set() for name in stripes.names}
    for _ in range(16):
        batch = sampler.next()
        assert (batch.labels == -1).all()
        assert batch.presence.shape == (6 + 5 * count, count)
        seen = torch.stack([batch.windows[n].flatten(1).amax(1) for n in stripes.names], dim=1)
        assert ((seen > 0) == (batch.presence > 0)).all(), "absent stripes must be zeros"
        assert (seen[:6] == seen[:6, :1]).all(), "stripes of a pair must be of one digit"
        together |= {int(v) for v in seen[:6, 0]}
        for i, name in enumerate(stripes.names):
            rows = batch.presence[:, i] * (batch.presence.sum(1) == 1)
            alone[name] |= {int(v) for v in seen[rows > 0, i]}
    assert len(together) == 4
    assert all(len(of) == 40 for of in alone.values())


def test_a_share_that_leaves_no_pair_is_refused() -> None:
    with pytest.raises(ValueError, match=r"share of 0.001 of 40 digits leaves no pair"):
        StripedDigits(digits(40), Stripes.of(2)).sampler(0.001, 2, 2, 0)


@both_cuts
def test_the_papers_network_gives_back_what_it_takes(count: int) -> None:
    spec = Stripes.of(count).specs()[0]
    network = StripeNetwork(spec, 64)
    window = torch.rand(2, *network.window_shape) * 255
    assert network.trunk(window).shape == (2, 512)
    decoded = network.decode(torch.randn(2, 64))
    assert decoded.shape == network.target(window).shape == (2, 1, 28 // count, 28)
    assert ((decoded > 0) & (decoded < 1)).all()


def test_the_laplace_likelihood_is_the_absolute_difference() -> None:
    network = GreyImageNetwork(Stripes.of(2).specs()[0], 4, 8, likelihood="laplace")
    target = torch.zeros(1, 1, 14, 28)
    nll = network.reconstruction_nll(target + 0.3, target, torch.ones_like(target))
    assert nll.item() == pytest.approx(14 * 28 * (0.3 / 0.75 + np.log(1.5)), rel=1e-5)


def test_arm_names_carry_the_share() -> None:
    for level in LEVELS:
        assert split_arm(arm_name("vaevae-star", level)) == ("vaevae-star", pytest.approx(level))
    assert arm_name("svae", 0.005) == "svae-0.5%"


@both_cuts
@pytest.mark.parametrize("budget", ["smoke", "small", "full"])
def test_every_arm_has_settings_that_its_system_takes(count: int, budget: str) -> None:
    protocol = MnistSplit(count)
    for arm in protocol.arms(budget):
        config = protocol.model_config(arm, 0, budget)
        assert config.system.latent_size == (20 if arm == "mmvae-public" else 64)
        assert config.system.classification == 0.0, "labels must not be learned from"
        if budget == "full":
            assert config.phases["joint"].steps == (120_000 if count == 2 else 30_000)
            assert config.phases["joint"].learning_rate == 2e-4


class LevelOracle(OracleNetwork):
    """Names a digit by its mean intensity in tenths, so that tests know what an oracle should say."""

    def forward(self, images: Tensor) -> Tensor:
        level = (images.flatten(1).mean(1) * 10).floor().clamp(0, 9).long()
        return torch.nn.functional.one_hot(level, 10).float()


def level_oracles(stripes: Stripes) -> dict[str, Oracle]:
    shapes = {"whole": (28, 28)} | dict.fromkeys(stripes.names, (stripes.height, 28))
    return {name: Oracle(LevelOracle(*shape, 10).eval(), shape, 10) for name, shape in shapes.items()}


class LevelNetwork(GreyImageNetwork):
    """Encodes the mean intensity and decodes it again to an even grey: completion that is right by construction."""

    def __init__(self, spec: object) -> None:
        super().__init__(spec, latent_size=1, hidden_size=1)  # type: ignore[arg-type]

    def trunk(self, window: Tensor) -> Tensor:
        return self.features(window).flatten(1).mean(1, keepdim=True)

    def decode(self, latent: Tensor) -> Tensor:
        return latent.clamp(0, 1)[:, :, None, None].expand(-1, *self.target_shape)


def level_system(stripes: Stripes) -> SharedLatent:
    """An SVAE whose experts all say the mean intensity, hardly in doubt; so every set of stripes gives it."""
    system = make_system(
        {s.name: LevelNetwork(s) for s in stripes.specs()}, 10, SvaeConfig(latent_size=1, prior_expert=False)
    )
    assert isinstance(system, SharedLatent)
    for head in system.heads.values():
        head.weight.data[0::2], head.weight.data[1::2] = 1.0, 0.0
        head.bias.data[0::2], head.bias.data[1::2] = 0.0, -14.0
    return system.eval()


def test_a_completion_that_is_right_counts_fully_and_a_wrong_one_does_not() -> None:
    stripes = Stripes.of(2)
    labels = np.arange(10).repeat(2)
    images = np.broadcast_to((25.5 * labels + 12.75)[:, None, None], (20, 28, 28)).astype(np.uint8).copy()
    # Two digits whose halves are of different classes: each half completes to its own class, both to the mean.
    labels[0], images[0, :14], images[0, 14:] = 1, 38, 89  # halves 1 and 3, whole 2
    labels[19], images[19, :14], images[19, 14:] = 9, 191, 242  # halves 7 and 9, whole 8
    found = measure_completion(
        level_system(stripes), images, labels, stripes, level_oracles(stripes),
        generator=torch.Generator().manual_seed(0), draws=200,
    )  # fmt: skip
    expected = {"all": 90.0, "top": 95.0, "bottom": 95.0, "cross": 95.0, "oracle": 90.0}
    for name, value in expected.items():
        assert found[name] == pytest.approx(value), name
        if name != "oracle":
            assert found[f"{name} mean"] == pytest.approx(value), name
    assert found["each by itself"] == pytest.approx(90.0)
    # Draws of the prior decode to the same grey in both halves; measured halves differ in two of twenty.
    assert found["joint"] == pytest.approx(100.0)
    assert found["joint of real digits"] == pytest.approx(90.0)


def test_draws_differ_from_the_mean_by_the_posterior_and_follow_the_generator() -> None:
    stripes = Stripes.of(2)
    system = level_system(stripes)
    for head in system.heads.values():
        head.bias.data[1::2] = -2.0
    evidence = {n: system.encode(n, torch.full((4000, 14, 28), 102.0)) for n in stripes.names}
    first, again = (
        draw_latents(system, evidence, (1, 0), torch.Generator().manual_seed(3))["bottom"] for _ in range(2)
    )
    assert torch.equal(first, again)
    # Own expert and replacement both say 0.4 with variance e^-2, so their product has half of it.
    assert float(first.mean()) == pytest.approx(0.4, abs=0.02)
    assert float(first.var()) == pytest.approx(float(np.exp(-2)) / 2, rel=0.1)


@both_cuts
def test_figures_show_every_arm(count: int, tmp_path: Path) -> None:
    stripes = Stripes.of(count)
    metrics = {"all": 90.0, "oracle": 99.0, **dict.fromkeys(stripes.names, 50.0)}
    cells = [Cell(arm, seed, metrics, 1.0) for arm in ("svae", "svae-1%", "mmvae") for seed in (0, 1)]
    supervision = draw_supervision(cells, stripes, split_arm, tmp_path / "supervision.png")
    labels = np.array([0, 1, 1, 0])
    examples = completed_examples(
        level_system(stripes), digits(4), labels, stripes, generator=torch.Generator().manual_seed(0)
    )
    assert examples["measured"].shape == (2, 28, 28)
    assert len(examples) == 2**count
    grid = draw_completions({"svae": examples, "mmvae": examples}, tmp_path / "completions.png")
    for picture in (supervision, grid):
        assert picture.read_bytes().startswith(b"\x89PNG")
