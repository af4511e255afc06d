"""Training from end to end: from a configuration and a source of signals to a calibrated, exported bundle."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from runtime.core.quality import measure, thresholds_from
from trainers.build import build_system
from trainers.calibration import calibrate, fit_imputation_scale, fit_reliability, validation_evidence
from trainers.configuration import ConfigurationError, ModelConfig, load_model_config
from trainers.data.pairing_record import save_pairing_record
from trainers.data.sampler import Batch, BatchSampler
from trainers.data.windows import ExampleSource, Source, Windows, evaluation_windows, examples_of
from trainers.export import export_bundle
from trainers.loop import Trainer, TrainingError

GOLDEN_ROWS = 4
DECISION_ROWS = 200
"""Validation windows of the accuracy gate: enough to detect a change of half a percent."""
RANGE_ROWS = 100
"""Training windows that int8 takes its ranges from."""
SAMPLE_WINDOWS = 300


def train(
    system: str | Path | ModelConfig,
    source: Source,
    out: Path,
    *,
    seed: int | None = None,
    minutes: float | None = None,
    resume: bool = False,
    changes: dict[str, object] | None = None,
    console: Console | None = None,
) -> Path:
    """Train a system, calibrate it on validation data, and export its bundle.

    Writes ``out/bundle``, ``out/checkpoint``, ``out/config.json``, ``out/pairing.json`` and ``out/metrics.json``.

    Args:
        system: a model configuration, the name of a shipped one, or the path of one.
        source: signals to learn from.
        out: folder of the run.
        seed: in place of the configuration's.
        minutes: time budget of the optimisation; see :meth:`trainers.loop.Trainer.run`.
        resume: continue from ``out/checkpoint``.
        changes: dotted configuration key -> value.
        console: where the progress bar goes; stderr by default.

    Returns:
        The bundle's folder.

    Raises:
        ConfigurationError: the configuration cannot be used, or does not fit the source.
        TrainingError: a loss is not finite, or the folder cannot be written.
        CheckpointError: there is no checkpoint to resume from.
        ExportError: the exported graphs do not agree with the trained system.
    """
    changes = dict(changes or {}) | ({} if seed is None else {"seed": seed})
    config = system if isinstance(system, ModelConfig) else load_model_config(system, changes)
    torch.set_num_threads(config.torch_threads)
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "config.json").write_text(json.dumps(config.model_dump(mode="json"), indent=1))
        if not isinstance(source, ExampleSource):
            save_pairing_record(source, out / "pairing.json")
    except OSError as e:
        raise TrainingError(
            f"{out}: the run cannot be written ({e.strerror}); make that folder writable or choose another --out"
        ) from e
    try:
        model = build_system(config, source.rig, len(source.classes))
        sampler = BatchSampler(
            source, config.window_lengths, "train", config.batch_size, config.seed, config.missingness
        )
    except (KeyError, ValueError) as e:
        # Only the rig shows whether windows, networks and pairs of modalities fit.
        raise ConfigurationError(f"model {config.name!r}: {e.args[0]}") from e
    batches = validation_batches(source, config)
    sample = _training_windows(source, config)
    for name, windows in sample.items():
        model.network(name).start_from(torch.from_numpy(windows.astype(np.float32)))
    trainer = Trainer(model, sampler, lambda: batches, config, out)
    if resume:
        trainer.resume()
    begin = time.monotonic()
    _run_with_bar(trainer, minutes, console or Console(stderr=True))
    model.to("cpu")
    evidence, labels = validation_evidence(model.eval(), lambda: batches)
    reliability = fit_reliability(model, evidence, labels)
    temperatures, accuracies = calibrate(model, evidence, labels)
    imputation_scale = fit_imputation_scale(model, evidence, lambda: batches)
    metrics: dict[str, Any] = {"validation": accuracies, "reliability": reliability}
    metrics |= {"phases": trainer.state.decided, "history": trainer.state.history}
    metrics |= {"seed": config.seed, "training_seconds": round(time.monotonic() - begin, 1)}
    (out / "metrics.json").write_text(json.dumps(metrics, indent=1))
    return export_bundle(
        model,
        config,
        source.rig,
        out / "bundle",
        data=source.name,
        classes=source.classes,
        temperatures=temperatures,
        imputation_scale=imputation_scale,
        health_thresholds=health_thresholds(source, config),
        golden_windows=_validation_windows(source, config, GOLDEN_ROWS),
        decision_windows=_validation_windows(source, config, DECISION_ROWS),
        training_windows={m: w[:RANGE_ROWS] for m, w in sample.items()},
        metrics={f"validation accuracy {k}": round(v, 4) for k, v in accuracies.items()},
    )


def validation_batches(source: Source, config: ModelConfig) -> list[Batch]:
    """Fixed, unaugmented windows of the validation split, all modalities present."""
    chunks = evaluation_windows(
        source,
        "validation",
        config.window_lengths,
        views=config.validation_views,
        limit=config.validation_moments,
        seed=config.seed,
    )
    batches = []
    for chunk in chunks:
        complete = chunk.presence.all(axis=1)
        if complete.any():
            windows = {m: torch.from_numpy(w[complete].astype(np.float32)) for m, w in chunk.windows.items()}
            labels = torch.from_numpy(chunk.labels[complete])
            batches.append(Batch(windows, labels, torch.from_numpy(chunk.presence[complete])))
    return batches


def health_thresholds(source: Source, config: ModelConfig) -> dict[str, dict[str, float]]:
    """Limits of the runtime's content checks, from windows of the training split; see ``runtime.core.quality``."""
    limits = {}
    for modality, windows in _training_windows(source, config).items():
        kind = source.rig.sensor(modality).kind
        limits[modality] = thresholds_from(kind, [measure(kind, window) for window in windows])
    return limits


def _training_windows(source: Source, config: ModelConfig) -> Windows:
    """A seeded sample of raw windows of the training split."""
    windows = examples_of(source, "train", config.window_lengths)
    rng = np.random.default_rng([0x4845414C, config.seed])
    count = min(SAMPLE_WINDOWS, len(windows))
    moments = rng.choice(len(windows), count, replace=False)
    earliest, latest = windows.ends_s(moments)
    return windows.cut(moments, rng.uniform(earliest, latest, count))


def _validation_windows(source: Source, config: ModelConfig, rows: int) -> Windows:
    """Raw windows of the first moments of the validation split, one of each; fewer where it has fewer."""
    chunks = list(
        evaluation_windows(source, "validation", config.window_lengths, limit=rows, seed=config.seed)
    )
    return {m: np.concatenate([chunk.windows[m] for chunk in chunks]) for m in config.window_lengths}


def _run_with_bar(trainer: Trainer, minutes: float | None, console: Console) -> None:
    columns = (
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total} steps"),
        TextColumn("loss {task.fields[loss]:.3f}"), TimeElapsedColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True) as bar:
        tasks: dict[str, Any] = {}

        def report(phase: str, step: int, steps: int, loss: float) -> None:
            if phase not in tasks:
                tasks[phase] = bar.add_task(phase, total=steps, loss=loss)
            bar.update(tasks[phase], completed=step, loss=loss)

        trainer.run(minutes=minutes, report=report)
