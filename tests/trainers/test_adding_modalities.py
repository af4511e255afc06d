"""A modality added to a trained associator network: it learns by its own pair, and nothing old moves by a bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from toy_sensors import LENGTHS, ToySource, toy_networks

from trainers.build import sensor_windows
from trainers.configuration import ModelConfig
from trainers.data.sampler import Batch, BatchSampler
from trainers.fusion.masks import all_patterns
from trainers.loop import Trainer
from trainers.systems.adding_modalities import add_modality
from trainers.systems.associators import Associators
from trainers.systems.base import FusedTensors
from trainers.training import validation_batches

Configure = Callable[..., ModelConfig]
SIZES = {"a": 4, "b": 5, "c": 3}
STEPS = 40


class Some:
    """The toy sampler without some of its modalities."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names, self.sampler = names, BatchSampler(ToySource(), LENGTHS, "train", 16, 0)

    def next(self) -> Batch:
        return only(self.sampler.next(), self.names)

    def state_dict(self) -> dict[str, object]:
        return self.sampler.state_dict()

    def load_state_dict(self, state: dict[str, object]) -> None:
        self.sampler.load_state_dict(state)


def only(batch: Batch, names: tuple[str, ...]) -> Batch:
    columns = [list(LENGTHS).index(n) for n in names]
    return Batch({n: batch.windows[n] for n in names}, batch.labels, batch.presence[:, columns])


def part(toy_config: Configure, names: tuple[str, ...], pairs: tuple[tuple[str, str], ...]) -> Associators:
    """An untrained network of some modalities of the toy rig."""
    whole = toy_config("associators")
    settings = whole.system.model_copy(update={"pairs": pairs})
    specs = sensor_windows(whole, ToySource().rig)
    networks = toy_networks({n: specs[n] for n in names}, SIZES)
    return Associators(networks, 2, settings)  # type: ignore[arg-type]


def train(system: Associators, toy_config: Configure, folder: Path, steps: int = STEPS) -> Trainer:
    config = toy_config("associators", steps=steps).model_copy(update={"system": system.config})
    held = [only(b, system.names) for b in validation_batches(ToySource(), config)]
    trainer = Trainer(system, Some(system.names), lambda: held, config, folder)
    trainer.run()
    return trainer


@pytest.fixture(scope="module")
def pair(toy_config: Configure, tmp_path_factory: pytest.TempPathFactory) -> Associators:
    """``a`` and ``b``, trained."""
    torch.manual_seed(0)
    system = part(toy_config, ("a", "b"), (("a", "b"),))
    train(system, toy_config, tmp_path_factory.mktemp("pair"))
    system.reliability.copy_(torch.tensor([0.7, 1.0]))
    return system.eval()


def third(toy_config: Configure) -> Associators:
    torch.manual_seed(1)
    return part(toy_config, ("c",), ())


@torch.no_grad()
def fused(system: Associators, masks: torch.Tensor) -> tuple[dict[str, torch.Tensor], FusedTensors]:
    given = BatchSampler(ToySource(), LENGTHS, "train", len(masks), 5).next()
    evidence = {n: system.encode(n, given.windows[n]) for n in system.names}
    return evidence, system.fuse(evidence, masks)


def test_what_was_trained_stays_equal_to_the_bit(
    pair: Associators, toy_config: Configure, tmp_path: Path
) -> None:
    network = third(toy_config).network("c")
    larger = add_modality(pair, "c", network, [("c", "b")])
    assert [p.name for p in larger.phases()] == ["intra", "cross", "classify"]
    fresh = {k: v.clone() for k, v in larger.state_dict().items()}
    train(larger, toy_config, tmp_path)

    masks = all_patterns(2, empty=True).repeat(6, 1)
    before, small = fused(pair, masks)
    after, large = fused(larger, torch.cat([masks, torch.zeros(len(masks), 1)], dim=1))
    for n in pair.names:
        assert torch.equal(before[n], after[n])
        assert torch.equal(small.latents[n], large.latents[n])
        assert torch.equal(pair.decode(n, small.latents[n]), larger.decode(n, large.latents[n]))
    assert torch.equal(small.logits, large.logits)
    assert {k: larger.paths[k] for k in pair.paths} == pair.paths
    assert all(larger.edge_cost[k] == cost for k, cost in pair.edge_cost.items())

    moved = {k for k, v in larger.state_dict().items() if not torch.equal(v, fresh[k])}
    new = ("networks.c.", "heads.c.", "associators.b_to_c.", "associators.c_to_b.", "classifiers.c.")
    assert all(k.startswith(new) for k in moved)
    assert all(any(k.startswith(prefix) for k in moved) for prefix in new)


def test_the_new_modality_is_reached_by_cascade_and_decides_where_present(
    pair: Associators, toy_config: Configure, tmp_path: Path
) -> None:
    larger = add_modality(pair, "c", third(toy_config).network("c"), [("b", "c")])
    train(larger, toy_config, tmp_path, steps=120)
    assert larger.paths["a", "c"] == ("a", "b", "c")
    given = BatchSampler(ToySource(), LENGTHS, "train", 48, 3).next()
    with torch.no_grad():
        evidence = {n: larger.encode(n, given.windows[n]) for n in larger.names}
        alone = larger.fuse(evidence, torch.tensor([[0.0, 0.0, 1.0]]).expand(48, 3))
    assert (alone.logits.argmax(1) == given.labels).float().mean() > 0.8


def test_a_trained_autoencoder_is_kept_and_only_associators_learn(
    pair: Associators, toy_config: Configure, tmp_path: Path
) -> None:
    single = third(toy_config)
    assert [p.name for p in single.phases()] == ["intra", "classify"]
    train(single, toy_config, tmp_path / "single")
    larger = add_modality(pair, "c", single, [("a", "c")])
    assert [p.name for p in larger.phases()] == ["cross"]
    train(larger, toy_config, tmp_path / "larger")
    given = BatchSampler(ToySource(), LENGTHS, "train", 8, 1).next()
    assert torch.equal(single.encode("c", given.windows["c"]), larger.encode("c", given.windows["c"]))
    latent = torch.randn(8, 3)
    assert torch.equal(single.decode("c", latent), larger.decode("c", latent))


def test_an_addition_resumes_exactly_with_the_kept_paths(
    pair: Associators, toy_config: Configure, tmp_path: Path
) -> None:
    def larger() -> Associators:
        torch.manual_seed(2)
        return add_modality(pair, "c", third(toy_config).network("c"), [("c", "a"), ("c", "b")])

    whole = larger()
    train(whole, toy_config, tmp_path / "whole")
    config = toy_config("associators", steps=STEPS).model_copy(update={"system": whole.config})
    held = [only(b, whole.names) for b in validation_batches(ToySource(), config)]
    first = Trainer(larger(), Some(whole.names), lambda: held, config, tmp_path / "parts")
    first.run(until=STEPS + 7)
    again = larger()
    second = Trainer(again, Some(whole.names), lambda: held, config, tmp_path / "parts")
    second.resume()
    second.run()
    assert again.kept_paths == pair.paths
    assert again.paths == whole.paths
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in whole.state_dict().items())


def test_additions_that_cannot_be_are_refused(pair: Associators, toy_config: Configure) -> None:
    network = third(toy_config).network("c")
    with pytest.raises(ValueError, match="already"):
        add_modality(pair, "a", network, [("a", "b")])
    with pytest.raises(ValueError, match="none at all"):
        add_modality(pair, "c", network, [])
    with pytest.raises(ValueError, match="lidar"):
        add_modality(pair, "c", network, [("c", "lidar")])
    with pytest.raises(ValueError, match="alone"):
        add_modality(pair, "c", pair, [("c", "a")])
