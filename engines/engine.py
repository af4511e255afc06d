"""The engine folder: a bundle compiled for one target, with everything that the target machine needs to check it.

Layout::

    engine.json        this module's :class:`EngineManifest`
    manifest.json      the bundle's manifest, byte for byte
    golden.npz         the bundle's golden values, so that parity can be checked where the engine will run
    decisions.npz      the bundle's decision set, if it has one, for the accuracy gate on the target machine
    <graph>.onnx       for onnxruntime, or
    <graph>.engine     for tensorrt and tensorrt-rtx

An engine belongs to the library version that built it. The version is checked before anything is loaded, because the
libraries themselves crash or silently fall back when they get an engine of another version.
"""

from __future__ import annotations

import hashlib
import json
import platform
from importlib import metadata
from pathlib import Path
from typing import Literal

from pydantic import Field

from configs.reading import StrictModel
from engines.bundle import (
    GOLDEN_NAME,
    MANIFEST_NAME,
    BundleError,
    Manifest,
    check_files,
    graph_names,
    read_manifest,
    read_versioned,
)
from engines.errors import EngineError
from engines.targets import BatchProfile, EngineBackend, Precision, Target, load_target, shipped_targets

ENGINE_SCHEMA_VERSION = 2
ENGINE_NAME = "engine.json"

# Backend -> distributions that may provide its library; TensorRT's wheels are one package per CUDA version.
_DISTRIBUTIONS: dict[str, tuple[str, ...]] = {
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
    "tensorrt-rtx": ("tensorrt-rtx", "tensorrt-rtx-cu13", "tensorrt-rtx-cu12"),
}


class DecisionRecord(StrictModel):
    """What the accuracy gate of a compile found; see :mod:`engines.compiling.accuracy_gate`."""

    rows: int = Field(description="validation windows that were decided in every missing pattern")
    allowed: float = Field(description="share of any pattern's decisions that may differ from PyTorch's")
    worst_pattern: str
    worst_share: float
    differing: dict[str, int] = Field(description="missing pattern -> decisions that differ, where any do")


class ParityRecord(StrictModel):
    """What the parity check and the accuracy gate of a compile found.

    Where the target cannot run on the machine that builds, the same rewritten graphs were executed by ONNX Runtime on
    the CPU instead: the rounding is checked, the target's own arithmetic is not.
    """

    status: Literal["passed", "built, not run"]
    reason: str = Field(default="", description="why the engine was not run where it was built")
    checked_on: str = Field(description="the target's backend, or `onnxruntime, not on the target`")
    worst_relative_error: float
    threshold: float
    comparisons: int
    decisions: DecisionRecord | None = Field(
        default=None, description="result of the accuracy gate; none: the bundle has no decision set"
    )


class EngineManifest(StrictModel):
    """Everything that decides whether an engine may be used; validated on load, and unknown keys are refused."""

    schema_version: Literal[2] = 2
    bundle: str = Field(description="name of the bundle")
    bundle_hash: str
    target: Target
    backend: EngineBackend
    precision: Precision
    reduced_products: dict[str, str] = Field(
        default_factory=dict,
        description="below fp32: graph -> how many of its convolutions and matrix products are in the precision",
    )
    batch: BatchProfile | None
    compute_capabilities: tuple[str, ...] = Field(
        description="GPUs it was built for (SM89), or none for onnxruntime, which runs on any CPU of `machine`"
    )
    versions: dict[str, str] = Field(description="library -> version; must be the same where the engine runs")
    built_on: dict[str, str] = Field(description="operating system, machine and Python, for the record")
    machine: str = Field(description="processor architecture, must be the same where the engine runs")
    parity: ParityRecord
    files: dict[str, str] = Field(description="file name -> sha256 of its bytes")


def library_version(backend: str) -> str | None:
    """Installed version of a backend's library, or None; read from package metadata, so nothing is imported."""
    for name in _DISTRIBUTIONS[backend]:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def backend_versions(backend: str) -> dict[str, str]:
    """The versions that an engine of this backend depends on."""
    return {backend: library_version(backend) or ""}


def build_machine() -> dict[str, str]:
    """Operating system, C library and Python of this machine, for the record."""
    library = " ".join(platform.libc_ver()).strip()
    return {"system": platform.system(), "libc": library, "python": platform.python_version()}


def graph_suffix(backend: str) -> str:
    """Suffix of a backend's compiled graphs."""
    return ".onnx" if backend == "onnxruntime" else ".engine"


def engine_key(bundle_hash: str, target: Target) -> str:
    """What an engine depends on, as 16 hex digits: bundle, target, library versions, architecture, schema."""
    parts = {
        "bundle": bundle_hash,
        "target": target.model_dump(mode="json"),
        "versions": backend_versions(target.backend),
        "machine": platform.machine(),
        "schema": ENGINE_SCHEMA_VERSION,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def rebuild_command(target: Target) -> str:
    """The command that compiles for a target, with what differs from the shipped target of that name."""
    command = f"afterimage compile BUNDLE --target {target.name}"
    if target.name not in shipped_targets():
        return f"{command}.yaml --precision {target.precision}"
    shipped = load_target(target.name)
    if target.precision != shipped.precision:
        command += f" --precision {target.precision}"
    if target.batch is not None and target.batch != shipped.batch:
        command += f" --batch {target.batch.maximum}"
    return command


def save_engine(folder: Path, engine: EngineManifest) -> None:
    """Write ``engine.json``. It is the last file of a compile, so a folder that has it is complete."""
    (folder / ENGINE_NAME).write_text(
        json.dumps(engine.model_dump(mode="json"), indent=1) + "\n", encoding="utf-8"
    )


def load_engine(folder: Path, *, verify: bool = True) -> tuple[EngineManifest, Manifest]:
    """Read and check an engine folder: schema, versions, architecture, files, and the bundle it came from.

    Args:
        folder: the engine folder.
        verify: also compare every file's sha256.

    Returns:
        the engine's manifest and the manifest of its bundle.

    Raises:
        EngineError: not an engine, stale, damaged or built for another machine; names what was expected, what was
            found, and the command that rebuilds it.
    """
    engine = _read_engine(folder)
    again = f"rebuild it: `{rebuild_command(engine.target)}` with bundle {engine.bundle!r}"
    here = backend_versions(engine.backend)
    for library, built in engine.versions.items():
        found = here.get(library, "")
        if not found:
            extra = "" if library == "onnxruntime" else f": pip install 'afterimage[{library}]'"
            raise EngineError(f"{folder}: needs {library} {built}, which is not installed{extra}")
        if found != built:
            raise EngineError(f"{folder}: built for {library} {built}, found {library} {found}; {again}")
    if engine.machine != platform.machine():
        raise EngineError(
            f"{folder}: built for {engine.machine}, this machine is {platform.machine()}; {again}"
        )
    try:
        manifest = read_manifest(folder)
        suffix = graph_suffix(engine.backend)
        for name in (*(f"{g}{suffix}" for g in graph_names(manifest)), MANIFEST_NAME, GOLDEN_NAME):
            if name not in engine.files:
                raise EngineError(f"{folder / ENGINE_NAME}: files lacks {name}; {again}")
        check_files(folder, engine.files, verify=verify)
    except BundleError as e:
        raise EngineError(f"{e}; or {again}") from e
    if manifest.hash != engine.bundle_hash:
        raise EngineError(
            f"{folder}: engine is of bundle {engine.bundle_hash}, its {MANIFEST_NAME} is of {manifest.hash}; {again}"
        )
    return engine, manifest


def _read_engine(folder: Path) -> EngineManifest:
    path = folder / ENGINE_NAME
    if not path.is_file():
        raise EngineError(f"{folder}: not an engine: no {ENGINE_NAME}; make one with `afterimage compile`")
    return read_versioned(
        path,
        EngineManifest,
        ENGINE_SCHEMA_VERSION,
        EngineError,
        schema="engine schema",
        advice="rebuild it with `afterimage compile BUNDLE --target TARGET`",
    )
