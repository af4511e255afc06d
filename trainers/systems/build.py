"""From a configuration and a rig to a system with fresh, seeded weights."""

from __future__ import annotations

import torch

from runtime.rig import Rig
from trainers.configuration import ModelConfig, sensor_windows
from trainers.modalities.build import build_modality
from trainers.systems.base import System
from trainers.systems.registry import make_system


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
