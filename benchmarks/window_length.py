"""What the window length costs: a plain supervised network per sensor and window length, on the test split.

The same numbers are the reference that a multimodal system has to match when that sensor is the only one left.
Usage: python benchmarks/window_length.py [--data DIR] [--synthetic] [--seeds 3] [--steps 800] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from runtime.signals.moments import MomentSource
from runtime.signals.opening import open_source
from trainers.data.sampler import BatchSampler
from trainers.data.windows import evaluation_windows
from trainers.evaluation.supervised import ReferenceClassifier, accuracy, train_classifier
from trainers.modalities.build import build_modality

LENGTHS = {"rgb": (1,), "depth": (1,), "audio": (8000, 16000), "eeg": (256, 512, 768)}
"""Modality -> window lengths in samples."""


@dataclass(frozen=True)
class Sensing:
    """What a modality network has to know of its sensor."""

    name: str
    kind: str
    sample_shape: tuple[int, ...]
    rate_hz: float
    window: int


def reference_accuracy(source: MomentSource, modality: str, window: int, seed: int, steps: int) -> float:
    """Test accuracy of a plain supervised network, last weights, never chosen by validation."""
    sensor = source.rig.sensor(modality)
    sensing = Sensing(modality, sensor.kind, sensor.sample_shape, sensor.rate_hz, window)
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    network = build_modality(sensing, 8)
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


def main() -> None:
    """Run every modality and window length and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path)
    parser.add_argument("--synthetic", action="store_true")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    source = open_source("synthetic" if options.synthetic else "auto", options.data)
    cases = [(m, n, s) for m, lengths in LENGTHS.items() for n in lengths for s in range(options.seeds)]
    found: dict[tuple[str, int], list[float]] = {}
    begin = time.monotonic()
    for modality, window, seed in track(
        cases, description=f"{source.name} sensors", console=Console(stderr=True)
    ):
        value = reference_accuracy(source, modality, window, seed, options.steps)
        found.setdefault((modality, window), []).append(value)
    table = Table(
        "sensor",
        "window",
        "accuracy (mean ± sd)",
        title=f"plain supervised networks, {source.name} test split",
    )
    report: dict[str, Any] = {
        "data": source.name,
        "steps": options.steps,
        "seeds": options.seeds,
        "accuracy": {},
    }
    for (modality, window), values in found.items():
        seconds = window / source.rig.sensor(modality).rate_hz
        words = "1 frame" if window == 1 else f"{seconds:g} s"
        table.add_row(modality, words, f"{np.mean(values):.3f} ± {np.std(values):.3f}")
        report["accuracy"].setdefault(modality, {})[words] = {
            "mean": float(np.mean(values)),
            "sd": float(np.std(values)),
        }
    report["seconds"] = round(time.monotonic() - begin, 1)
    Console().print(table)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
