"""The bundle: a trained model as a folder of graphs, one manifest and golden values.

A bundle is data, never code. ``trainers`` writes it, ``engines`` compiles and runs it, and ``runtime`` reads in its
manifest what windows to cut. Layout::

    manifest.json      this module's :class:`Manifest`
    encode_<m>.onnx    window  (B, *window_shape) float32      -> evidence (B, evidence_size) float32
    fuse.onnx          evidence_<m> (B, evidence_size) for every modality, presence (B, M) float32 0/1
                       -> logits (B, C), posterior (B, posterior_size), latent_<m> (B, latent_size)
    decode_<m>.onnx    latent  (B, latent_size)                -> observation (B, *observation_shape)
    observe_<m>.onnx   window  (B, *window_shape) float32      -> observation (B, *observation_shape)
    golden.npz         inputs and outputs of every graph, for every missing pattern
    decisions.npz      validation windows and PyTorch's logits for every missing pattern: the accuracy gate
    training_windows.npz   raw windows of the training split, from which int8 takes its ranges

Older bundles lack the last two files and compile to fp32 only.

Graph inputs are float32 whatever the dtype on the wire, because TensorRT has no uint16 or int16 tensors; the
session casts a raw window once, when it comes in. ``observe`` is the measured counterpart of ``decode``: it brings
a raw window into the space that ``decode`` estimates (RGB 0..255, hole-filled millimetres, MFCC, microvolts), so
that measured and imputed streams can be compared and published in one shape and unit.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationError, model_validator

from configs.errors import AfterimageError
from configs.reading import StrictModel
from engines.refinement import Refinement

SCHEMA_VERSION = 1
MANIFEST_NAME = "manifest.json"
GOLDEN_NAME = "golden.npz"
DECISIONS_NAME = "decisions.npz"
TRAINING_WINDOWS_NAME = "training_windows.npz"

ModalityKind = Literal["rgb", "depth", "audio", "eeg", "signal"]
WireDtype = Literal["uint8", "uint16", "int16", "float32"]

Model = TypeVar("Model", bound=StrictModel)


class BundleError(AfterimageError):
    """A bundle that cannot be used; the message names the file, what was expected and what came."""


class ModalitySpec(StrictModel):
    """What one modality's sensor delivers, and the sizes of what the model computes from it.

    A sensor publishes *samples* of ``sample_shape``; a window is ``window`` consecutive samples. For images a
    sample is one frame, ``window`` is 1 and the window drops its leading axis; for audio a sample is a scalar;
    for EEG it is one value per channel. Time is always the first axis.
    """

    name: str = Field(min_length=1, description="unique in the rig, usually the kind itself")
    kind: ModalityKind
    sample_shape: tuple[int, ...] = Field(description="shape of one sample: (64, 64, 3), (64, 64), (), (8,)")
    dtype: WireDtype = Field(description="dtype of raw samples on the wire")
    unit: str = Field(description="unit of raw samples: intensity, mm, pcm16, uV")
    rate_hz: float = Field(gt=0, description="samples per second")
    window: int = Field(ge=1, description="samples in one window")
    hop: int = Field(ge=1, description="samples between successive windows")
    observation_shape: tuple[int, ...] = Field(description="shape of what decode and observe return")
    observation_unit: str
    evidence_size: int = Field(ge=1)
    latent_size: int = Field(ge=1)

    @property
    def window_shape(self) -> tuple[int, ...]:
        """Shape of one raw window, without the batch axis."""
        return self.sample_shape if self.kind in ("rgb", "depth") else (self.window, *self.sample_shape)


class Calibration(StrictModel):
    """Corrections, fitted on validation data, that make a bundle's uncertainties honest in every missing pattern.

    Probabilities are ``softmax(logits / temperature)``; the interval around an imputation is imputation ± scale.
    """

    temperature: dict[str, float] = Field(description="pattern key (see pattern_key) -> temperature > 0")
    imputation_scale: dict[str, dict[str, float]] = Field(
        default_factory=dict,
        description="pattern key -> absent modality -> half width, in its observation_unit, of the interval around "
        "its imputation that held 90 % of what its sensor measured on validation data; empty: not measured",
    )


class Manifest(StrictModel):
    """Everything that a user of the bundle must know; validated on load, and unknown keys are refused."""

    schema_version: Literal[1] = 1
    name: str
    system: str = Field(description="svae, associators, ...")
    rig: str
    data: Literal["recorded", "synthetic", "sessions"]
    classes: tuple[str, ...] = Field(min_length=2)
    modalities: tuple[ModalitySpec, ...] = Field(min_length=1)
    latents: Literal["shared", "associated"]
    posterior_size: int = Field(ge=1)
    calibration: Calibration
    health_thresholds: dict[str, dict[str, float]] = Field(
        description="modality -> check -> threshold, measured on the training split by runtime.core.quality"
    )
    files: dict[str, str] = Field(description="file name -> sha256 of its bytes")
    producer: dict[str, str] = Field(description="versions of what made the bundle")
    metrics: dict[str, float] = Field(default_factory=dict)
    refinement: Refinement | None = Field(
        default=None, description="loop around fuse for rows that lack a modality; none: fuse once"
    )

    @model_validator(mode="after")
    def _complete(self) -> Manifest:
        names = self.modality_names
        if len(set(names)) != len(names):
            raise ValueError(f"modality names must be unique, got {list(names)}")
        wanted = {pattern_key(names, p) for p in presence_patterns(len(names))}
        missing = sorted(wanted - self.calibration.temperature.keys())
        if missing:
            raise ValueError(f"calibration.temperature lacks patterns {missing}")
        bad = {k: t for k, t in self.calibration.temperature.items() if not (t > 0 and math.isfinite(t))}
        if bad:
            raise ValueError(f"calibration.temperature must be finite and > 0, got {bad}")
        for key, scales in self.calibration.imputation_scale.items():
            if unknown := sorted(scales.keys() - (set(names) - set(key.split("+")))):
                raise ValueError(
                    f"calibration.imputation_scale of {key!r} names {unknown}, which it does not lack"
                )
            if wrong := {n: s for n, s in scales.items() if not (s >= 0 and math.isfinite(s))}:
                raise ValueError(
                    f"calibration.imputation_scale of {key!r} must be finite and >= 0, got {wrong}"
                )
        if self.refinement is not None:
            for spec in self.modalities:
                begin = self.refinement.offsets.get(spec.name, -1)
                if begin < 0 or begin + spec.evidence_size > self.posterior_size:
                    raise ValueError(
                        f"refinement.offsets of {spec.name!r}: {spec.evidence_size} numbers from {begin} are not in "
                        f"a posterior of {self.posterior_size}"
                    )
        return self

    @property
    def modality_names(self) -> tuple[str, ...]:
        """Names of the modalities, in the order of the presence mask."""
        return tuple(m.name for m in self.modalities)

    def modality(self, name: str) -> ModalitySpec:
        """The spec of one modality; raises KeyError that lists the known names."""
        for spec in self.modalities:
            if spec.name == name:
                return spec
        raise KeyError(f"modality {name!r} is not in this bundle; it has {list(self.modality_names)}")

    @property
    def hash(self) -> str:
        """First 16 hex digits of the sha256 of the canonical manifest; file hashes are inside it."""
        canonical = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        """The manifest as JSON types.

        Fields that were added later are left out where they are empty, so that older bundles keep their hash.
        """
        raw = self.model_dump(mode="json")
        if self.refinement is None:
            del raw["refinement"]
        if not self.calibration.imputation_scale:
            del raw["calibration"]["imputation_scale"]
        return raw


def presence_patterns(modalities: int, *, empty: bool = False) -> Iterator[tuple[int, ...]]:
    """All 2^M - 1 presence masks as 0/1 tuples, complete first; ``empty`` adds the all-absent one at the end."""
    for pattern in product((1, 0), repeat=modalities):
        if empty or any(pattern):
            yield pattern


def pattern_key(names: tuple[str, ...], presence: tuple[int, ...] | npt.NDArray[np.generic]) -> str:
    """The name of a presence pattern: present modalities joined by ``+`` in order, or ``none``."""
    return "+".join(n for n, p in zip(names, presence, strict=True) if p) or "none"


def graph_names(manifest: Manifest) -> tuple[str, ...]:
    """File stems of the graphs a bundle must hold: encode_*, fuse, decode_*, observe_*."""
    names = manifest.modality_names
    return (
        *(f"encode_{n}" for n in names),
        "fuse",
        *(f"decode_{n}" for n in names),
        *(f"observe_{n}" for n in names),
    )


@dataclass(frozen=True)
class GraphSignature:
    """Inputs and outputs of one graph: tensor name -> shape without the batch axis; every tensor is float32."""

    inputs: Mapping[str, tuple[int, ...]]
    outputs: Mapping[str, tuple[int, ...]]


def graph_signature(manifest: Manifest, graph: str) -> GraphSignature:
    """The inputs and outputs that the manifest promises for one graph of the bundle.

    Args:
        manifest: the bundle's manifest.
        graph: a file stem of :func:`graph_names`.

    Raises:
        KeyError: the bundle has no such graph.
    """
    specs = manifest.modalities
    if graph == "fuse":
        evidence = {f"evidence_{m.name}": (m.evidence_size,) for m in specs}
        latents = {f"latent_{m.name}": (m.latent_size,) for m in specs}
        return GraphSignature(
            inputs={**evidence, "presence": (len(specs),)},
            outputs={"logits": (len(manifest.classes),), "posterior": (manifest.posterior_size,), **latents},
        )
    role, _, name = graph.partition("_")
    spec = manifest.modality(name)
    if role == "encode":
        return GraphSignature({"window": spec.window_shape}, {"evidence": (spec.evidence_size,)})
    if role == "decode":
        return GraphSignature({"latent": (spec.latent_size,)}, {"observation": spec.observation_shape})
    if role == "observe":
        return GraphSignature({"window": spec.window_shape}, {"observation": spec.observation_shape})
    raise KeyError(f"graph {graph!r} is not one of {list(graph_names(manifest))}")


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes, as hex."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def save_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``manifest.json`` atomically into ``folder``."""
    partial = folder / (MANIFEST_NAME + ".partial")
    partial.write_text(json.dumps(manifest.to_json(), indent=1) + "\n")
    partial.replace(folder / MANIFEST_NAME)


def read_manifest(folder: Path) -> Manifest:
    """Read and validate ``manifest.json`` of a bundle or an engine folder, without looking at the other files.

    Raises:
        BundleError: no manifest, not JSON, another schema version, or a field that is not valid.
    """
    path = folder / MANIFEST_NAME
    if not path.is_file():
        raise BundleError(f"{folder}: not a bundle: no {MANIFEST_NAME}; make one with `afterimage train`")
    return read_versioned(
        path, Manifest, SCHEMA_VERSION, BundleError, schema="schema version", advice="export the bundle again"
    )


def read_versioned(
    path: Path, model: type[Model], version: int, error: type[AfterimageError], *, schema: str, advice: str
) -> Model:
    """Read a JSON file that names its ``schema_version``.

    Args:
        path: a file that is there.
        model: what it holds.
        version: the schema version that this build reads.
        error: the class of what is raised.
        schema: what the version is called in a message.
        advice: what to do about another version.

    Raises:
        error: it cannot be read, is not JSON, has another version, or a field is not valid.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise error(f"{path}: cannot be read: {e.strerror or e}") from e
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as e:
        raise error(f"{path}: expected JSON, got something else: {e}") from e
    found = raw.get("schema_version") if isinstance(raw, dict) else None
    if found != version:
        raise error(f"{path}: {schema} {found!r}, this build reads {version}; {advice}")
    try:
        return model.model_validate(raw)
    except ValidationError as e:
        first = e.errors()[0]
        where = ".".join(str(p) for p in first["loc"]) or path.stem
        raise error(f"{path}: {where}: {first['msg']} (got {str(first['input'])[:80]!r})") from e


def load_manifest(folder: Path, *, verify: bool = True) -> Manifest:
    """Read and check the manifest of a bundle, and that its files are there.

    Args:
        folder: the bundle.
        verify: also compare every file's sha256 with the manifest's.

    Raises:
        BundleError: no manifest, not valid, another schema version, a graph missing, or a hash that differs.
    """
    manifest = read_manifest(folder)
    for name in (*(f"{g}.onnx" for g in graph_names(manifest)), GOLDEN_NAME):
        if name not in manifest.files:
            raise BundleError(f"{folder / MANIFEST_NAME}: files lacks {name}; export the bundle again")
    check_files(folder, manifest.files, verify=verify)
    return manifest


def check_files(folder: Path, files: Mapping[str, str], *, verify: bool = True) -> None:
    """Check that files named in a manifest are in the folder and, with ``verify``, that their sha256 agree.

    Raises:
        BundleError: names the first file that is missing, lies outside the folder, or differs.
    """
    for name, digest in files.items():
        file = folder / name
        if Path(name).name != name or not file.is_file():
            raise BundleError(
                f"{folder}: {name} is named in the manifest but is not there; copy the folder again"
            )
        if verify and (got := file_sha256(file)) != digest:
            raise BundleError(
                f"{file}: sha256 {got[:16]}… differs from the manifest's {digest[:16]}…; copy the folder again"
            )
