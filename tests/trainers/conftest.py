from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("torch", reason="trainers need torch, which is not installed")
import torch
from toy_sensors import LENGTHS, ToySource, toy_networks

from trainers.build import sensor_windows
from trainers.configuration import ModelConfig
from trainers.systems.base import System
from trainers.systems.registry import SYSTEMS, make_system

SIZES = {"a": 4, "b": 5, "c": 3}


@pytest.fixture(scope="session")
def toy_config() -> Callable[..., ModelConfig]:
    """A configuration of the toy rig: ``toy_config("svae", steps=20, donor="drawn")``."""

    def make(
        system: str, steps: int = 20, optimizer: dict[str, Any] | None = None, **settings: Any
    ) -> ModelConfig:
        phases = {c.model_fields["name"].default: c.PHASES for c, _ in SYSTEMS}[system]
        chosen: dict[str, Any] = {"name": system, "latent_size": 4} | settings
        if system == "associators":
            chosen = {"latent_sizes": SIZES, "pairs": (("a", "b"), ("b", "c"))} | chosen
        return ModelConfig(
            version=1,
            name="toy",
            modalities={m: {"window": n, "hop": 1} for m, n in LENGTHS.items()},
            system=chosen,
            phases={p: {"steps": steps, "learning_rate": 0.01} for p in phases},
            batch_size=8,
            optimizer=optimizer or {},
        )

    return make


@pytest.fixture(scope="session")
def toy_system() -> Callable[[ModelConfig], System]:
    """A system of toy networks with the configuration's seed."""

    def make(config: ModelConfig) -> System:
        specs = sensor_windows(config, ToySource().rig)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            networks = toy_networks(specs, {m: config.system.decoder_size(m, 2) for m in specs})
            return make_system(networks, 2, config.system)

    return make
