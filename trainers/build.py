"""From a configuration and a rig to a system: the windows that it reads, and networks with fresh, seeded weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from runtime.rig import Rig
from trainers.configuration import ConfigurationError, ModelConfig
from trainers.modalities.build import build_modality
from trainers.systems.base import System
from trainers.systems.registry import make_system


@dataclass(frozen=True)
class SensorWindow:
    """One sensor of a rig with the window that a model takes; a ``trainers.modalities`` WindowSpec."""

    name: str
    kind: str
    sample_shape: tuple[int, ...]
    rate_hz: float
    window: int


def sensor_windows(config: ModelConfig, rig: Rig) -> dict[str, SensorWindow]:
    """Join the configuration's windows with the rig's sensors.

    Raises:
        ConfigurationError: the modalities differ from the rig's, or come in another order.
    """
    if tuple(config.modalities) != rig.modality_names:
        raise ConfigurationError(
            f"model {config.name!r} reads modalities {list(config.modalities)}, rig {rig.name!r} has "
            f"{list(rig.modality_names)}; they must be the same, in the same order"
        )
    found = {}
    for name, modality in config.modalities.items():
        sensor = rig.sensor(name)
        found[name] = SensorWindow(name, sensor.kind, sensor.sample_shape, sensor.rate_hz, modality.window)
    return found


def build_system(config: ModelConfig, rig: Rig, classes: int) -> System:
    """Build the configured system for a rig; the same seed gives the same weights.

    Args:
        config: what to build.
        rig: the sensors.
        classes: number of classes.

    Raises:
        ConfigurationError: rig and configuration name different modalities.
        ValueError: a window or size that a network cannot take.
    """
    windows = sensor_windows(config, rig)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        networks = {
            name: build_modality(
                window, config.system.decoder_size(name, classes), config.modalities[name].hidden_size
            )
            for name, window in windows.items()
        }
        return make_system(networks, classes, config.system)
