"""Export: writes a trained system as a bundle and checks it against PyTorch before it takes its place."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from configs.errors import AfterimageError
from engines.bundle import (
    DECISIONS_NAME,
    GOLDEN_NAME,
    TRAINING_WINDOWS_NAME,
    Calibration,
    Manifest,
    ModalitySpec,
    file_sha256,
    graph_names,
    graph_signature,
    presence_patterns,
    save_manifest,
)
from engines.compiling.accuracy_gate import DecisionSet, decision_change
from engines.compiling.parity import check_parity
from engines.opening import open_session
from engines.session import Session
from engines.targets import ALLOWED_DECISION_CHANGE
from runtime.rig import Rig
from trainers.configuration import ModelConfig
from trainers.systems.base import System

OPSET = 18


class ExportError(AfterimageError):
    """A bundle whose graphs do not agree with the trained system; an earlier bundle stays in place."""


class _Encode(nn.Module):
    def __init__(self, system: System, modality: str) -> None:
        super().__init__()
        self.system, self.modality = system, modality

    def forward(self, window: Tensor) -> Tensor:
        return self.system.encode(self.modality, window)


class _Fuse(nn.Module):
    def __init__(self, system: System) -> None:
        super().__init__()
        self.system = system

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        *evidence, presence = tensors
        fused = self.system.fuse(dict(zip(self.system.names, evidence, strict=True)), presence)
        return fused.logits, fused.posterior, *(fused.latents[n] for n in self.system.names)


class _Decode(nn.Module):
    def __init__(self, system: System, modality: str) -> None:
        super().__init__()
        self.system, self.modality = system, modality

    def forward(self, latent: Tensor) -> Tensor:
        return self.system.decode(self.modality, latent)


class _Observe(nn.Module):
    def __init__(self, system: System, modality: str) -> None:
        super().__init__()
        self.system, self.modality = system, modality

    def forward(self, window: Tensor) -> Tensor:
        return self.system.observe(self.modality, window)


def export_bundle(
    system: System,
    config: ModelConfig,
    rig: Rig,
    folder: Path,
    *,
    data: str,
    classes: tuple[str, ...],
    temperatures: Mapping[str, float],
    health_thresholds: Mapping[str, Mapping[str, float]],
    golden_windows: Mapping[str, npt.NDArray[Any]],
    metrics: Mapping[str, float],
    imputation_scale: Mapping[str, Mapping[str, float]] | None = None,
    decision_windows: Mapping[str, npt.NDArray[Any]] | None = None,
    training_windows: Mapping[str, npt.NDArray[Any]] | None = None,
) -> Path:
    """Write the bundle of a trained system; it replaces an earlier one only after it has passed the checks.

    Args:
        system: trained; put into evaluation mode.
        config: windows and hops.
        rig: units and dtypes of the wire.
        folder: of the bundle.
        data: recorded or synthetic.
        classes: in the order of the logits.
        temperatures: pattern key -> temperature.
        health_thresholds: modality -> check -> threshold.
        golden_windows: modality -> (B, *window_shape) raw windows for the golden values.
        metrics: numbers to store in the manifest.
        imputation_scale: pattern key -> absent modality -> half width of the interval around its imputation.
        decision_windows: modality -> (N, *window_shape) raw windows that training has not seen, for the
            accuracy gate; without them the bundle compiles to fp32 only.
        training_windows: modality -> (N, *window_shape) raw windows of the training split, from which int8 takes its
            ranges; without them the bundle does not compile to int8.

    Returns:
        The folder.

    Raises:
        ExportError: a graph or its decisions do not agree with PyTorch.
    """
    system.eval()
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    manifest = make_manifest(
        system,
        config,
        rig,
        data=data,
        classes=classes,
        calibration=Calibration(
            temperature=dict(temperatures),
            imputation_scale={k: dict(of) for k, of in (imputation_scale or {}).items()},
        ),
        health_thresholds=health_thresholds,
        metrics=metrics,
    )
    for graph in graph_names(manifest):
        export_graph(system, manifest, graph, partial / f"{graph}.onnx")
    np.savez_compressed(partial / GOLDEN_NAME, **golden_values(system, golden_windows))
    if decision_windows is not None:
        np.savez_compressed(partial / DECISIONS_NAME, **decision_values(system, decision_windows))
    if training_windows is not None:
        windows = {f"window_{name}": window for name, window in training_windows.items()}
        np.savez_compressed(partial / TRAINING_WINDOWS_NAME, **windows)
    files = {p.name: file_sha256(p) for p in sorted(partial.iterdir())}
    manifest = manifest.model_copy(update={"files": files})
    save_manifest(partial, manifest)
    with open_session(partial) as session:
        parity = check_parity(session, partial)
        changed = "" if decision_windows is None else _changed_decisions(session, partial)
    if not parity.passed:
        worst = parity.failures[0]
        raise ExportError(
            f"{partial}: {len(parity.failures)} of {len(parity.comparisons)} exported values differ from "
            f"PyTorch, worst {worst.graph} {worst.tensor} {worst.pattern}: relative error {worst.error:.1e}, "
            f"at most {parity.threshold:.0e} is allowed"
        )
    if changed:
        raise ExportError(f"{partial}: exported graphs decide otherwise than PyTorch in patterns {changed}")
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    return folder


def make_manifest(
    system: System,
    config: ModelConfig,
    rig: Rig,
    *,
    data: str,
    classes: tuple[str, ...],
    calibration: Calibration,
    health_thresholds: Mapping[str, Mapping[str, float]],
    metrics: Mapping[str, float],
) -> Manifest:
    """The manifest of a system's bundle, without the hashes of its files; arguments as of :func:`export_bundle`."""
    return Manifest(
        name=config.name,
        system=config.system.name,
        rig=rig.name,
        data=data,  # type: ignore[arg-type]
        classes=classes,
        modalities=modality_specs(system, config, rig),
        latents=system.latent_kind,
        posterior_size=system.posterior_size,
        calibration=calibration,
        refinement=system.refinement(),
        health_thresholds={m: dict(t) for m, t in health_thresholds.items()},
        files={},
        producer={p: version(p) for p in ("afterimage", "torch", "torchaudio", "onnx", "numpy")},
        metrics=dict(metrics),
    )


def modality_specs(system: System, config: ModelConfig, rig: Rig) -> tuple[ModalitySpec, ...]:
    """The manifest's entries for the modalities."""
    specs = []
    for name in system.names:
        sensor, network = rig.sensor(name), system.network(name)
        specs.append(
            ModalitySpec(
                name=name,
                kind=sensor.kind,
                sample_shape=sensor.sample_shape,
                dtype=sensor.dtype,
                unit=sensor.unit,
                rate_hz=sensor.rate_hz,
                window=config.modalities[name].window,
                hop=config.modalities[name].hop,
                observation_shape=network.observation_shape,
                observation_unit=network.observation_unit,
                evidence_size=system.evidence_size(name),
                latent_size=system.latent_size(name),
            )
        )
    return tuple(specs)


@torch.no_grad()
def golden_values(system: System, windows: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    """PyTorch's outputs of every graph for some windows, in every missing pattern; keys as in docs/bundle.md."""
    masks = np.array(list(presence_patterns(len(system.names), empty=True)), np.float32)
    golden: dict[str, npt.NDArray[Any]] = {"presence": masks}
    evidence = {}
    for name in system.names:
        window = torch.from_numpy(windows[name].astype(np.float32))
        evidence[name] = system.encode(name, window)
        golden[f"window_{name}"] = windows[name]
        golden[f"evidence_{name}"] = evidence[name].numpy()
        golden[f"observed_{name}"] = system.observe(name, window).numpy()
    rows = len(next(iter(windows.values())))
    for p, mask in enumerate(torch.from_numpy(masks)):
        fused = system.infer(evidence, mask.expand(rows, -1))
        golden[f"logits_{p}"], golden[f"posterior_{p}"] = fused.logits.numpy(), fused.posterior.numpy()
        for name in system.names:
            golden[f"latent_{name}_{p}"] = fused.latents[name].numpy()
            golden[f"decoded_{name}_{p}"] = system.decode(name, fused.latents[name]).numpy()
    return golden


@torch.no_grad()
def decision_values(
    system: System, windows: Mapping[str, npt.NDArray[Any]], chunk: int = 64
) -> dict[str, npt.NDArray[Any]]:
    """PyTorch's logits for some windows in every missing pattern; keys as in docs/bundle.md.

    Args:
        system: trained, in evaluation mode.
        windows: modality -> (N, *window_shape) raw windows.
        chunk: windows encoded at a time.
    """
    masks = np.array(list(presence_patterns(len(system.names), empty=True)), np.float32)
    values: dict[str, npt.NDArray[Any]] = {"presence": masks}
    evidence = {}
    for name in system.names:
        values[f"window_{name}"] = windows[name]
        parts = torch.from_numpy(windows[name].astype(np.float32)).split(chunk)
        evidence[name] = torch.cat([system.encode(name, part) for part in parts])
    rows = len(next(iter(windows.values())))
    for p, mask in enumerate(torch.from_numpy(masks)):
        values[f"logits_{p}"] = system.infer(evidence, mask.expand(rows, -1)).logits.numpy()
    return values


def _changed_decisions(session: Session, folder: Path) -> str:
    decisions = DecisionSet(folder / DECISIONS_NAME, session.manifest)
    return decision_change(session, decisions).above(ALLOWED_DECISION_CHANGE["fp32"])


def _module(system: System, graph: str) -> nn.Module:
    if graph == "fuse":
        return _Fuse(system)
    role, _, name = graph.partition("_")
    wrapper = {"encode": _Encode, "decode": _Decode, "observe": _Observe}[role]
    return wrapper(system, name)


def export_graph(system: System, manifest: Manifest, graph: str, path: Path) -> None:
    """Write one graph of a system's bundle as ONNX.

    Args:
        system: in evaluation mode.
        manifest: of its bundle.
        graph: of :func:`engines.bundle.graph_names`.
        path: of the file.
    """
    signature = graph_signature(manifest, graph)
    example = tuple(torch.ones(2, *shape) for shape in signature.inputs.values())
    names = [*signature.inputs, *signature.outputs]
    with warnings.catch_warnings():
        # The exporter through TorchScript is deprecated, but takes a tenth of the time of the one through torch.export,
        # and every training ends with the export of thirteen graphs. Parity is checked afterwards.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _module(system, graph).eval(),
            example,
            str(path),
            input_names=list(signature.inputs),
            output_names=list(signature.outputs),
            dynamic_axes={name: {0: "batch"} for name in names},
            opset_version=OPSET,
            dynamo=False,
        )
