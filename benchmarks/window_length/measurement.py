"""What the window length costs: a plain supervised network for each sensor and window length, on the test split.

The accuracy is also what a multimodal system has to reach when that sensor is the only one left.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.table import Table

from engines.measuring.interleaving import Say
from runtime.signals.moments import MomentSource
from trainers.data.sampler import BatchSampler
from trainers.data.windows import evaluation_windows
from trainers.evaluation.supervised import ReferenceClassifier, accuracy, train_classifier
from trainers.modalities.build import build_modality

LENGTHS = {"rgb": (1,), "depth": (1,), "audio": (8000, 16000), "eeg": (256, 512, 768)}
"""Modality -> window lengths in samples."""


@dataclass(frozen=True)
class SensorShape:
    """What a modality network has to know of its sensor."""

    name: str
    kind: str
    sample_shape: tuple[int, ...]
    rate_hz: float
    window: int


def reference_accuracy(source: MomentSource, modality: str, window: int, seed: int, steps: int) -> float:
    """Test accuracy of a plain supervised network, with its last weights: no validation chooses them."""
    sensor = source.rig.sensor(modality)
    shape = SensorShape(modality, sensor.kind, sensor.sample_shape, sensor.rate_hz, window)
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    network = build_modality(shape, 8)
    sampler = BatchSampler(source, {modality: window}, "train", 64, seed)

    def draw() -> tuple[torch.Tensor, torch.Tensor]:
        batch = sampler.next()
        return network.augment(batch.windows[modality], generator), batch.labels

    model = train_classifier(ReferenceClassifier(network, len(source.classes)), draw, steps=steps)
    chunks = evaluation_windows(source, "test", {modality: window}, views=2)
    batches = (
        (torch.from_numpy(c.windows[modality].astype(np.float32)), torch.from_numpy(c.labels)) for c in chunks
    )
    return accuracy(model, batches)


def measure_window_lengths(source: MomentSource, seeds: int, steps: int, say: Say) -> dict[str, Any]:
    """Train and test a network for every modality, window length and seed.

    Args:
        source: of the moments.
        seeds: how many trainings of each.
        steps: of each training.
        say: told what is being done, and which share of all of it is done.

    Returns:
        ``data``, ``steps``, ``seeds``, ``seconds``, and ``accuracy``: modality -> window in words -> ``mean``, ``sd``.
    """
    torch.set_num_threads(1)
    cases = [(m, n, s) for m, lengths in LENGTHS.items() for n in lengths for s in range(seeds)]
    found: dict[tuple[str, int], list[float]] = {}
    begin = time.monotonic()
    for number, (modality, window, seed) in enumerate(cases):
        say(f"{modality}, {window} samples, seed {seed}", number / len(cases))
        value = reference_accuracy(source, modality, window, seed, steps)
        found.setdefault((modality, window), []).append(value)
    scores: dict[str, dict[str, dict[str, float]]] = {}
    for (modality, window), values in found.items():
        words = "1 frame" if window == 1 else f"{window / source.rig.sensor(modality).rate_hz:g} s"
        mean_and_sd = {"mean": float(np.mean(values)), "sd": float(np.std(values))}
        scores.setdefault(modality, {})[words] = mean_and_sd
    return {
        "data": source.name,
        "steps": steps,
        "seeds": seeds,
        "accuracy": scores,
        "seconds": round(time.monotonic() - begin, 1),
    }


def window_length_table(report: Mapping[str, Any]) -> Table:
    """For people: the accuracy of each sensor at each window length."""
    title = f"plain supervised networks, {report['data']} test split"
    table = Table("sensor", "window", "accuracy (mean ± sd)", title=title)
    for modality, scores in report["accuracy"].items():
        for words, of in scores.items():
            table.add_row(modality, words, f"{of['mean']:.3f} ± {of['sd']:.3f}")
    return table
