"""Recipes: a model configuration for somebody's own data, from a shipped one and the size of the data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from configs.reading import config_path, read_yaml, validated
from runtime.rig import Rig
from trainers.configuration import ConfigurationError, ModelConfig, shipped_models

HOPS_PER_S = 10.0
"""A window ends about this often."""
_FEWEST_STEPS, _MOST_STEPS = 1500, 4000
_LARGEST_BATCH = 32


def recipe(system: str, rig: Rig, lengths: Mapping[str, int], examples: int) -> ModelConfig:
    """A configuration that trains a shipped system on a rig of one's own.

    Weights of the loss and learning rates are the shipped model's; windows are the rig's; the number of steps and the
    size of a batch follow from the number of training examples.

    Args:
        system: name of a shipped model.
        rig: the sensors.
        lengths: modality -> window in samples, in the rig's order.
        examples: in the training split.

    Raises:
        ConfigurationError: no such model, or fewer than four examples.
    """
    if examples < 4:
        raise ConfigurationError(f"{examples} training examples: 4 or more are needed; record or label more")
    if system not in shipped_models():
        raise ConfigurationError(f"no model {system!r}; shipped models: {shipped_models()}")
    path = config_path("models", system)
    raw: dict[str, Any] = dict(read_yaml(path, f"{path}: no such file", ConfigurationError))
    raw["name"] = f"{rig.name}-{system}"[:60].lower().replace("_", "-").replace(" ", "-")
    raw["modalities"] = {
        m: {"window": lengths[m], "hop": max(1, round(min(lengths[m], rig.sensor(m).rate_hz / HOPS_PER_S)))}
        for m in rig.modality_names
    }
    # These name the sensors of the shipped rig; their defaults fit any.
    raw["system"] = {k: v for k, v in raw["system"].items() if k not in ("latent_sizes", "pairs")}
    raw["batch_size"] = min(_LARGEST_BATCH, max(2, examples // 2))
    steps = min(max(_FEWEST_STEPS, _FEWEST_STEPS + examples // 2), _MOST_STEPS)
    planned = sum(phase["steps"] for phase in raw["phases"].values())
    raw["phases"] = {
        name: phase | {"steps": max(50, round(phase["steps"] / planned * steps))}
        for name, phase in raw["phases"].items()
    }
    return validated(raw, ModelConfig, path, ConfigurationError)
