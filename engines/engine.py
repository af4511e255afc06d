"""The engine folder: a bundle compiled for one target, with everything a target machine needs to trust it.

Layout::

    engine.json        this module's :class:`EngineManifest`
    manifest.json      the bundle's manifest, byte for byte
    golden.npz         the bundle's golden values, so that parity can be checked where the engine will run
    <graph>.onnx       for onnxruntime, or
    <graph>.engine     for tensorrt and tensorrt-rtx

An engine belongs to the library version that built it. It is checked before anything is loaded, because the libraries
themselves either crash or fall back silently on a plan from another version.
"""

from __future__ import annotations

import hashlib
import json
import platform
from importlib import metadata
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from engines.bundle import (
    GOLDEN_NAME,
    MANIFEST_NAME,
    BundleError,
    Manifest,
    check_files,
    graph_names,
    read_manifest,
)
from engines.errors import EngineError
from engines.targets import BatchProfile, EngineBackend, Precision, Target

ENGINE_SCHEMA_VERSION = 1
ENGINE_NAME = "engine.json"

# Distribution -> what it is called in `versions`; the wheel of TensorRT-RTX is a package per CUDA version behind one.
_DISTRIBUTIONS: dict[str, tuple[str, ...]] = {
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
    "tensorrt-rtx": ("tensorrt-rtx", "tensorrt-rtx-cu13", "tensorrt-rtx-cu12"),
}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ParityRecord(_Strict):
    """What the parity check of a compile found, or why it was not run."""

    status: Literal["passed", "built, not run"]
    reason: str = Field(default="", description="why the engine was not run where it was built")
    worst_relative_error: float | None = None
    threshold: float
    comparisons: int = 0


class EngineManifest(_Strict):
    """Everything that decides whether an engine may be used; validated on load, unknown keys refused."""

    schema_version: Literal[1] = 1
    bundle: str = Field(description="name of the bundle")
    bundle_hash: str
    target: Target
    backend: EngineBackend
    precision: Precision
    half_precision: dict[str, str] = Field(
        default_factory=dict, description="fp16: graph -> how many of its products run in half precision"
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


def save_engine(folder: Path, engine: EngineManifest) -> None:
    """Write ``engine.json``; the last file of a compile, so a folder that has it is complete."""
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
        EngineError: not an engine, stale, foreign or damaged; names what was expected, what was found, and the
            command that rebuilds it.
    """
    engine = _read_engine(folder)
    again = (
        f"rebuild it: `afterimage compile BUNDLE --target {engine.target.name}` with bundle {engine.bundle!r}"
    )
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
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise EngineError(
            f"{folder}: not an engine: no {ENGINE_NAME}; make one with `afterimage compile`"
        ) from e
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as e:
        raise EngineError(f"{path}: expected JSON, got something else: {e}") from e
    version = raw.get("schema_version") if isinstance(raw, dict) else None
    if version != ENGINE_SCHEMA_VERSION:
        raise EngineError(
            f"{path}: engine schema {version!r}, this build reads {ENGINE_SCHEMA_VERSION}; "
            "rebuild it with `afterimage compile BUNDLE --target TARGET`"
        )
    try:
        return EngineManifest.model_validate(raw)
    except ValidationError as e:
        first = e.errors()[0]
        where = ".".join(str(p) for p in first["loc"]) or "engine"
        raise EngineError(f"{path}: {where}: {first['msg']} (got {str(first['input'])[:80]!r})") from e
