"""Compile a bundle for one target into an engine folder: checked, recorded, cached, and put in place at once."""

from __future__ import annotations

import platform
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from engines.backends.availability import available_backends
from engines.bundle import (
    GOLDEN_NAME,
    MANIFEST_NAME,
    Manifest,
    file_sha256,
    graph_names,
    graph_signature,
    load_manifest,
)
from engines.engine import (
    ENGINE_NAME,
    EngineManifest,
    ParityRecord,
    backend_versions,
    build_machine,
    engine_key,
    graph_suffix,
    load_engine,
    save_engine,
)
from engines.errors import CompileError, EngineError
from engines.parity import HALF_THRESHOLD, THRESHOLD, Golden, check_parity
from engines.session import load_session
from engines.targets import Target

Progress = Callable[[int, int, str], None]


def engine_folder(bundle: Path, target: Target, key: str) -> Path:
    """Where an engine goes without an output folder: beside the bundle, ``engines/<target>-<key>``."""
    return bundle.resolve().parent / "engines" / f"{target.name}-{key}"


def compile_bundle(
    bundle: Path, target: Target, out: Path | None = None, progress: Progress | None = None
) -> Path:
    """Compile every graph of a bundle and check the result against PyTorch's golden values where it can run.

    An engine is addressed by what it depends on (bundle, target, library versions, architecture): one that is there and
    intact is reused. A new one is built beside its place and renamed into it, so nobody sees half an engine.

    Args:
        bundle: the bundle folder; every hash is verified.
        target: what to compile for.
        out: the engine folder; None puts it beside the bundle (:func:`engine_folder`). An engine that is there is
            replaced unless it is the same; a folder that holds anything else is refused.
        progress: called as ``progress(done, total, graph)`` before each graph, and once more at the end.

    Returns:
        the engine folder.

    Raises:
        BundleError: the bundle is broken.
        BackendUnavailableError: the target's library, or the GPU it builds on, is not here.
        CompileError: a graph cannot be compiled, the result does not agree with PyTorch, or ``out`` is taken.
    """
    manifest = load_manifest(bundle)
    key = engine_key(manifest.hash, target)
    folder = engine_folder(bundle, target, key) if out is None else out
    if _reusable(folder, key):
        return folder
    if (
        folder.exists()
        and not (folder / ENGINE_NAME).is_file()
        and (not folder.is_dir() or any(folder.iterdir()))
    ):
        raise CompileError(
            f"{folder}: expected an engine folder or nothing, found something else; choose another --out"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.partial-"))
    try:
        _build(bundle, manifest, target, partial, progress)
        _put_in_place(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _reusable(folder: Path, key: str) -> bool:
    """Whether the folder holds an intact engine with exactly these dependencies."""
    if not (folder / ENGINE_NAME).is_file():
        return False
    try:
        engine, _ = load_engine(folder)
    except EngineError:
        return False
    return engine_key(engine.bundle_hash, engine.target) == key


def _build(bundle: Path, manifest: Manifest, target: Target, folder: Path, progress: Progress | None) -> None:
    graphs = graph_names(manifest)
    golden = Golden(bundle / GOLDEN_NAME, manifest) if target.precision == "fp16" else None
    half_precision: dict[str, str] = {}
    for done, graph in enumerate(graphs):
        if progress is not None:
            progress(done, len(graphs), graph)
        note = _compile_graph(bundle / f"{graph}.onnx", manifest, target, folder, golden)
        if note is not None:
            half_precision[graph] = note
    if progress is not None:
        progress(len(graphs), len(graphs), "parity")
    for name in (MANIFEST_NAME, GOLDEN_NAME):
        shutil.copyfile(bundle / name, folder / name)
    parity = _parity(manifest, target, folder)
    engine = EngineManifest(
        bundle=manifest.name,
        bundle_hash=manifest.hash,
        target=target,
        backend=target.backend,
        precision=target.precision,
        half_precision=half_precision,
        batch=target.batch,
        compute_capabilities=_compute_capabilities(target),
        versions=backend_versions(target.backend),
        built_on=build_machine(),
        machine=platform.machine(),
        parity=parity,
        files={p.name: file_sha256(p) for p in sorted(folder.iterdir())},
    )
    save_engine(folder, engine)
    # mkdtemp makes folders that only their owner may enter; an engine is as readable as any file.
    folder.chmod(0o755)


def _compile_graph(
    source: Path, manifest: Manifest, target: Target, folder: Path, golden: Golden | None
) -> str | None:
    """Compile one graph; for fp16, says how many of its products were put into half precision."""
    graph = source.stem
    path = folder / f"{graph}{graph_suffix(target.backend)}"
    if target.backend == "onnxruntime":
        from engines.backends.onnxruntime import optimise

        optimise(source, path)
        return None
    from engines.backends.tensorrt import build_engine

    model, note = source.read_bytes(), None
    case = None if golden is None else golden.case(graph)
    if case is not None:
        from engines.precision import halve

        # Half of what parity will allow: the device rounds its sums in another order than the CPU.
        halved = halve(graph, model, *case, tolerance=HALF_THRESHOLD / 2)
        model, note = halved.model, f"{halved.halved} of {halved.products} products"
    path.write_bytes(build_engine(graph, model, graph_signature(manifest, graph), target))
    return note


def _compute_capabilities(target: Target) -> tuple[str, ...]:
    if target.backend == "onnxruntime":
        return ()
    from engines.backends.tensorrt import compute_capabilities

    return compute_capabilities(target)


def _parity(manifest: Manifest, target: Target, folder: Path) -> ParityRecord:
    status = next(s for s in available_backends() if s.name == target.backend)
    threshold = HALF_THRESHOLD if target.precision == "fp16" else THRESHOLD
    if not status.can_run:
        return ParityRecord(status="built, not run", reason=status.reason, threshold=threshold)
    with load_session(folder, manifest, target.backend, batch=target.batch) as session:
        report = check_parity(session, folder, threshold=threshold)
    if not report.passed:
        worst = report.failures[0]
        raise CompileError(
            f"the engine for {target.name} disagrees with PyTorch in {len(report.failures)} of "
            f"{len(report.comparisons)} comparisons, worst: {worst.graph} {worst.tensor} {worst.pattern}: relative "
            f"error {worst.error:.2e}, allowed {report.threshold:.0e}; export the bundle again or report this"
        )
    return ParityRecord(
        status="passed",
        worst_relative_error=report.worst,
        threshold=report.threshold,
        comparisons=len(report.comparisons),
    )


def _put_in_place(partial: Path, folder: Path) -> None:
    """Rename the finished folder to its place, moving an older engine out of the way first."""
    if not folder.exists() or not any(folder.iterdir()):
        partial.replace(folder)
        return
    old = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.old-"))
    try:
        folder.replace(old)
        partial.replace(folder)
    finally:
        shutil.rmtree(old, ignore_errors=True)
