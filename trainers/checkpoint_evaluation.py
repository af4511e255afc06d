"""Evaluation of a checkpoint: rebuilds the system, calibrates it as after training, and makes the same report.

The report is made through a session. Here the graphs of the session are the system's own methods in PyTorch, so the
results are those of the exported bundle, without exporting one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from engines.backends.interface import GRAPH_BY_GRAPH, Array, encode_then_fuse
from engines.bundle import MANIFEST_NAME, Calibration, Manifest
from engines.errors import EngineError
from engines.session import Session
from runtime.signals.moments import MomentSource
from trainers.build import build_system
from trainers.calibration import calibrate, fit_imputation_scale, fit_reliability, validation_evidence
from trainers.checkpoint import CheckpointError, load_checkpoint
from trainers.configuration import ModelConfig
from trainers.evaluation.judge import one_thread
from trainers.evaluation.report import evaluate_bundle
from trainers.export import make_manifest
from trainers.systems.base import System
from trainers.training import validation_batches

CHECKPOINT = "checkpoint"
BUNDLE = "bundle"
STATE = "state.json"


class SystemRunner:
    """A system's methods as the graphs of its bundle; an :class:`engines.backends.interface.GraphRunner`."""

    def __init__(self, system: System) -> None:
        """Take a system in evaluation mode."""
        self.system = system

    @property
    def backend(self) -> str:
        """``pytorch``."""
        return "pytorch"

    @property
    def maximum_batch(self) -> int | None:
        """None: any batch will do."""
        return None

    @property
    def tick_submission(self) -> str:
        """Graph by graph."""
        return GRAPH_BY_GRAPH

    @torch.no_grad()
    def run(self, graph: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run one graph by its name in the bundle.

        Raises:
            EngineError: PyTorch failed.
        """
        tensors = {name: torch.from_numpy(value) for name, value in inputs.items()}
        try:
            with one_thread():
                return {name: value.numpy() for name, value in self._run(graph, tensors).items()}
        except RuntimeError as e:
            raise EngineError(f"graph {graph!r} failed in PyTorch: {e}") from e

    def _run(self, graph: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        system = self.system
        if graph == "fuse":
            evidence = {n: tensors[f"evidence_{n}"] for n in system.names}
            fused = system.fuse(evidence, tensors["presence"])
            latents = {f"latent_{n}": fused.latents[n] for n in system.names}
            return {"logits": fused.logits, "posterior": fused.posterior, **latents}
        role, _, name = graph.partition("_")
        if role == "encode":
            return {"evidence": system.encode(name, tensors["window"])}
        if role == "observe":
            return {"observation": system.observe(name, tensors["window"])}
        return {"observation": system.decode(name, tensors["latent"])}

    def run_tick(
        self, windows: Mapping[str, Array], evidence: Mapping[str, Array], presence: Array
    ) -> dict[str, Array]:
        """A tick, graph after graph; see :class:`engines.backends.interface.GraphRunner`."""
        return encode_then_fuse(self, windows, evidence, presence)

    def close(self) -> None:
        """Nothing to free."""


def find_model(folder: Path) -> Path:
    """The bundle, engine or checkpoint at a path: the folder itself, or one that a training run left in it.

    Raises:
        CheckpointError: the folder holds none of these.
    """
    if (folder / MANIFEST_NAME).is_file() or (folder / STATE).is_file():
        return folder
    for inside in (folder / BUNDLE, folder / CHECKPOINT):
        if (inside / MANIFEST_NAME).is_file() or (inside / STATE).is_file():
            return inside
    raise CheckpointError(
        f"{folder}: expected a bundle, an engine, a checkpoint or the folder of a training run, found none of "
        f"{MANIFEST_NAME}, {STATE}, {BUNDLE}/, {CHECKPOINT}/; make one with `afterimage train`"
    )


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder that :func:`find_model` gave is a checkpoint."""
    return not (folder / MANIFEST_NAME).is_file()


def load_system(folder: Path, source: MomentSource) -> tuple[System, ModelConfig]:
    """Rebuild the system of a checkpoint, in evaluation mode on the CPU.

    If the checkpoint is from the middle of a phase, averaged weights are used where there are any, as at its end.

    Args:
        folder: the checkpoint.
        source: its rig and classes.

    Raises:
        CheckpointError: not a checkpoint, or its system has changed since.
        ConfigurationError: the source has other sensors.
    """
    tensors, state = load_checkpoint(folder)
    try:
        # Validated as JSON, where a list is valid for a tuple.
        config = ModelConfig.model_validate_json(json.dumps(state["config"]))
        system = build_system(config, source.rig, len(source.classes))
        if state["structure"]:
            system.load_structure(state["structure"])
        weights = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
        weights |= {k.removeprefix("average."): v for k, v in tensors.items() if k.startswith("average.")}
        lacking, unknown = system.load_state_dict(weights, strict=False)
        if lacking or unknown:
            raise ValueError(
                f"{len(lacking)} weights are lacking and {len(unknown)} unknown, the first is {[*lacking, *unknown][0]}"
            )
    except (KeyError, ValueError, RuntimeError) as e:
        raise CheckpointError(f"{folder}: does not fit this build's systems: {e}; train again") from e
    return system.eval().requires_grad_(False), config


def open_checkpoint(folder: Path, source: MomentSource) -> tuple[Session, System]:
    """A session over a checkpoint's system, calibrated on the source's validation split as after training."""
    system, config = load_system(folder, source)
    batches = validation_batches(source, config)
    with one_thread():
        evidence, labels = validation_evidence(system, lambda: batches)
        fit_reliability(system, evidence, labels)
        temperatures, _ = calibrate(system, evidence, labels)
        scale = fit_imputation_scale(system, evidence, lambda: batches)
    manifest: Manifest = make_manifest(
        system,
        config,
        source.rig,
        data=source.name,
        classes=source.classes,
        calibration=Calibration(temperature=temperatures, imputation_scale=scale),
        health_thresholds={},
        metrics={},
    )
    return Session(manifest, SystemRunner(system)), system


def evaluate_checkpoint(folder: Path, source: MomentSource, **options: Any) -> dict[str, Any]:
    """Evaluate a checkpoint, with joint coherence, which needs the system's prior.

    Args:
        folder: the checkpoint.
        source: with its classes and sensors.
        **options: of :func:`trainers.evaluation.report.evaluate_bundle`.

    Returns:
        The report of :func:`trainers.evaluation.report.evaluate_bundle`.

    Raises:
        CheckpointError, ConfigurationError: see :func:`load_system`.
    """
    session, system = open_checkpoint(folder, source)

    @torch.no_grad()
    def draw_prior(count: int) -> dict[str, npt.NDArray[np.float32]]:
        generator = torch.Generator().manual_seed(options.get("seed", 0))
        return {n: z.numpy() for n, z in system.sample_prior(count, generator).items()}

    return evaluate_bundle(session, source, draw_prior=draw_prior, **options)
