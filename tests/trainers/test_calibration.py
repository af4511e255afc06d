"""Temperatures against a known answer."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from toy_sensors import LENGTHS, ToySource

from trainers.calibration import (
    DOUBT,
    LIMITS,
    calibrate,
    fit_reliability,
    fit_temperature,
    negative_log_likelihood,
    validation_evidence,
)
from trainers.configuration import ModelConfig
from trainers.data.sampler import BatchSampler
from trainers.loop import Trainer
from trainers.systems.base import System


@pytest.mark.parametrize("truth", [0.7, 1.0, 3.0])
def test_the_temperature_that_made_the_labels_is_found(truth: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(20_000, 4, generator=generator)
    labels = torch.multinomial(torch.softmax(logits / truth, 1), 1, generator=generator).squeeze(1)
    fitted = fit_temperature(logits, labels)
    assert fitted == pytest.approx(truth, rel=0.1)
    around = [negative_log_likelihood(logits, labels, fitted * f) for f in (0.9, 1.0, 1.1)]
    assert around[1] == min(around)


@pytest.mark.parametrize("scale", [2.0, 20.0])
def test_perfect_rows_are_not_made_certain(scale: float) -> None:
    logits = scale * torch.eye(4)
    temperature = fit_temperature(logits, torch.arange(4))
    confidence = torch.softmax(logits / temperature, 1).diagonal()
    assert confidence.tolist() == pytest.approx([1 - 0.75 * DOUBT] * 4, abs=1e-3)


def test_hopeless_rows_stay_within_limits() -> None:
    logits = 5.0 * torch.eye(4)
    assert fit_temperature(logits, torch.arange(4).roll(1)) == pytest.approx(LIMITS[1], rel=0.01)


@pytest.mark.parametrize("name", ["svae", "associators"])
def test_every_pattern_gets_a_temperature(
    name: str, toy_config: Callable[..., ModelConfig], toy_system: Callable[[ModelConfig], System]
) -> None:
    system = toy_system(toy_config(name)).eval()
    batch = BatchSampler(ToySource(), LENGTHS, "validation", 24, 0).next()
    evidence, labels = validation_evidence(system, lambda: [batch])
    temperatures, accuracies = calibrate(system, evidence, labels)
    assert list(temperatures) == list(accuracies) == ["a+b+c", "a+b", "a+c", "a", "b+c", "b", "c", "none"]
    assert all(t > 0 and math.isfinite(t) for t in temperatures.values())
    assert accuracies["none"] == 0.5


@pytest.mark.parametrize("name", ["svae", "associators"])
def test_a_modality_that_says_wrong_things_with_confidence_counts_less(
    name: str,
    toy_config: Callable[..., ModelConfig],
    toy_system: Callable[[ModelConfig], System],
    tmp_path: Path,
) -> None:
    settings = {"classification": 5.0} if name == "svae" else {"intra_classification": 5.0}
    config = toy_config(name, steps=100, **settings)
    system = toy_system(config)
    sampler = BatchSampler(ToySource(), LENGTHS, "train", 8, 0)
    batch = BatchSampler(ToySource(), LENGTHS, "validation", 24, 0).next()
    Trainer(system, sampler, lambda: [batch], config, tmp_path).run()
    before = {k: v.clone() for k, v in system.state_dict().items() if k != "reliability"}
    evidence, labels = validation_evidence(system.eval(), lambda: [batch])
    evidence["b"] = evidence["b"].roll(
        7, dims=0
    )  # what b says belongs to other rows, half of them of the other class
    mask = torch.tensor([1.0, 1.0, 0.0]).expand(len(labels), 3)

    def likelihood() -> float:
        logits = system.fuse(evidence, mask).logits
        return negative_log_likelihood(logits, labels, fit_temperature(logits, labels))

    with torch.no_grad():
        without = likelihood()
    fitted = fit_reliability(system, evidence, labels)
    assert fitted["b"] < 0.7 * min(fitted["a"], fitted["c"])
    with torch.no_grad():
        assert likelihood() < without
    assert all(torch.equal(v, system.state_dict()[k]) for k, v in before.items())
    assert system.state_dict()["reliability"].tolist() == pytest.approx(list(fitted.values()), abs=1e-4)
