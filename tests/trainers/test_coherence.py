from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from toy_sensors import ToySource

from trainers.configuration import ModelConfig
from trainers.data.windows import evaluation_windows
from trainers.evaluation.coherence import (
    class_coherence,
    encode_system,
    infer_latents,
    joint_coherence,
    name_decoded,
    name_with_oracles,
)
from trainers.evaluation.oracle import train_oracle
from trainers.systems.base import System
from trainers.systems.registry import SYSTEMS

NAMES = ("a", "b", "c")
Config = Callable[..., ModelConfig]
Make = Callable[[ModelConfig], System]


def by_sign(decoded: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """The toy's class is the sign of a channel's mean."""
    return {m: (x[:, NAMES.index(m)] > 0).long().numpy() for m, x in decoded.items()}


@pytest.fixture
def windows() -> tuple[dict[str, Tensor], np.ndarray]:
    (chunk,) = evaluation_windows(ToySource(), "test", dict.fromkeys(NAMES, 8))
    return {m: torch.from_numpy(w) for m, w in chunk.windows.items()}, chunk.labels


def test_shares_by_hand() -> None:
    named = {
        "a": np.array([0, 1, 2, 2]),
        "b": np.array([0, 1, 1, 2]),
        "c": np.array([0, 0, 2, 2]),
    }
    assert joint_coherence(named) == 0.5
    assert joint_coherence({m: named[m] for m in "ab"}) == 0.75
    assert class_coherence(named, np.array([0, 1, 2, 0])) == {"a": 0.75, "b": 0.5, "c": 0.5}
    with pytest.raises(ValueError, match="two modalities"):
        joint_coherence({"a": named["a"]})
    with pytest.raises(ValueError, match="same number of rows"):
        joint_coherence({"a": named["a"], "b": named["b"][:2]})
    with pytest.raises(ValueError, match="labels of 4 rows"):
        class_coherence(named, np.zeros(1, np.int64))


def test_what_decodings_show_agrees_with_direct_inference(
    toy_config: Config, toy_system: Make, windows: tuple[dict[str, Tensor], np.ndarray]
) -> None:
    system, (given, labels) = toy_system(toy_config("svae")).eval(), windows
    shown: list[tuple[str, ...]] = []

    def name_all(decoded: dict[str, Tensor]) -> dict[str, np.ndarray]:
        shown.append(tuple(decoded))
        return by_sign(decoded)

    evidence = encode_system(system, given)
    latents = infer_latents(system, evidence, (1, 0, 1))
    found = class_coherence(name_decoded(system, latents, ("b",), name_all), labels)
    assert set(shown) == {("b",)}
    with torch.no_grad():
        direct = {m: system.encode(m, w) for m, w in given.items()}
        mask = torch.tensor([1.0, 0, 1]).expand(len(labels), -1)
        decoded = system.decode("b", system.infer(direct, mask).latents["b"])
    assert found == {"b": pytest.approx((by_sign({"b": decoded})["b"] == labels).mean())}
    # What an absent modality's window holds does not reach what is decoded from the others.
    changed = encode_system(system, given | {"b": given["b"] + 3})
    assert torch.equal(infer_latents(system, changed, (1, 0, 1))["b"], latents["b"])


@pytest.mark.parametrize("name", [config.model_fields["name"].default for config, _ in SYSTEMS])
def test_every_system_draws_from_its_prior(name: str, toy_config: Config, toy_system: Make) -> None:
    system = toy_system(toy_config(name)).eval()

    def draw(seed: int) -> dict[str, Tensor]:
        with torch.no_grad():
            return system.sample_prior(7, torch.Generator().manual_seed(seed))

    first, again, other = draw(0), draw(0), draw(1)
    for m in NAMES:
        assert first[m].shape == (7, system.latent_size(m))
        assert torch.equal(first[m], again[m])
        assert not torch.equal(first[m], other[m])
        assert torch.isfinite(system.decode(m, first[m])).all()
    assert 0 <= joint_coherence(name_decoded(system, first, NAMES, by_sign)) <= 1


def test_oracles_take_intensities_as_decoders_give_them() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 2
    images = np.zeros((60, 8, 8), np.uint8)
    images[labels == 1, :, 4:] = 200
    images += rng.integers(0, 20, images.shape).astype(np.uint8)
    oracle = train_oracle(images, labels, 2, seed=0, steps=20)
    named = name_with_oracles({"m": oracle})({"m": torch.from_numpy(images).float()})
    assert np.array_equal(named["m"], labels)
    with pytest.raises(ValueError, match=r"of 0..1, got 0..2"):
        oracle.predict(images.astype(np.float32))
