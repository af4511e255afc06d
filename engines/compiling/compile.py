"""Compile a bundle for one target into an engine folder, check it, and put it in its place."""

from __future__ import annotations

import errno
import platform
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from engines.backends.availability import backend_status
from engines.bundle import (
    DECISIONS_NAME,
    GOLDEN_NAME,
    MANIFEST_NAME,
    Manifest,
    file_sha256,
    graph_names,
    graph_signature,
    load_manifest,
)
from engines.compiling.accuracy_gate import DecisionSet, decision_change, has_decisions
from engines.compiling.parity import THRESHOLDS, check_parity
from engines.compiling.product_choice import ReducedGraph
from engines.compiling.reduced_precision import reduce_graphs, reduced_graph_names
from engines.compiling.weight_products import UnoptimisedRunner
from engines.engine import (
    ENGINE_NAME,
    DecisionRecord,
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
from engines.opening import load_session
from engines.session import Session
from engines.targets import Target

Progress = Callable[[int, int, str], None]


def engine_folder(bundle: Path, target: Target, key: str) -> Path:
    """Where an engine goes without an output folder: beside the bundle, ``engines/<target>-<key>``."""
    return bundle.resolve().parent / "engines" / f"{target.name}-{key}"


def compile_bundle(
    bundle: Path, target: Target, out: Path | None = None, progress: Progress | None = None
) -> Path:
    """Compile every graph of a bundle and check the result against PyTorch: tensors, and decisions.

    An engine is addressed by what it depends on (bundle, target, library versions, architecture); if an intact one is
    there already, it is reused. A new engine is built beside its place and then renamed, so that nobody sees half of
    one.

    Args:
        bundle: the bundle folder; every hash is verified.
        target: what to compile for.
        out: the engine folder; None puts it beside the bundle (:func:`engine_folder`). Another engine in it is
            replaced; a folder that holds anything else is refused.
        progress: called as ``progress(done, total, what)`` before each step: choosing a graph's products, building a
            graph, checking.

    Returns:
        the engine folder.

    Raises:
        BundleError: the bundle is broken.
        BackendUnavailableError: the target's library, or the GPU that it builds on, is missing.
        CompileError: a graph cannot be compiled, the result or its decisions differ from PyTorch's, ``out`` holds
            something else, or there is no space.
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
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.partial-"))
        try:
            _build(bundle, manifest, target, partial, progress)
            _put_in_place(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as e:
        raise _cannot_write(folder, e) from e
    return folder


def _cannot_write(folder: Path, error: OSError) -> CompileError:
    """The error for an engine that could not be written."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    advice = "free space there" if full else "make that folder writable"
    return CompileError(
        f"{folder}: the engine cannot be written ({error.strerror or error}); {advice} or choose another --out; "
        "nothing half-written was kept"
    )


def _reusable(folder: Path, key: str) -> bool:
    """Whether the folder holds an intact engine with exactly these dependencies."""
    if not (folder / ENGINE_NAME).is_file():
        return False
    try:
        engine, _ = load_engine(folder)
    except EngineError:
        return False
    return engine_key(engine.bundle_hash, engine.target) == key


class _Steps:
    """Counts the steps of a compile and reports them."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def __call__(self, what: str) -> None:
        """Report the next step."""
        if self._progress is not None:
            self._progress(self._done, self._total, what)
        self._done += 1


def _build(bundle: Path, manifest: Manifest, target: Target, folder: Path, progress: Progress | None) -> None:
    graphs = graph_names(manifest)
    lower = target.precision != "fp32"
    steps = _Steps(progress, len(graphs) + 1 + (len(reduced_graph_names(manifest)) + 1 if lower else 0))
    reduced = reduce_graphs(bundle, manifest, target, steps) if lower else {}
    for graph in graphs:
        steps(f"{graph}: building")
        source = bundle / f"{graph}.onnx"
        model = reduced[graph].model if graph in reduced else source.read_bytes()
        _compile_graph(graph, model, manifest, target, folder)
    steps("parity")
    for name in (MANIFEST_NAME, GOLDEN_NAME, *((DECISIONS_NAME,) if has_decisions(manifest) else ())):
        shutil.copyfile(bundle / name, folder / name)
    parity = _checked(bundle, manifest, target, folder, reduced)
    engine = EngineManifest(
        bundle=manifest.name,
        bundle_hash=manifest.hash,
        target=target,
        backend=target.backend,
        precision=target.precision,
        reduced_products={g: f"{r.reduced} of {r.products}" for g, r in reduced.items()},
        batch=target.batch,
        compute_capabilities=_compute_capabilities(target),
        versions=backend_versions(target.backend),
        built_on=build_machine(),
        machine=platform.machine(),
        parity=parity,
        files={p.name: file_sha256(p) for p in sorted(folder.iterdir())},
    )
    save_engine(folder, engine)
    # mkdtemp makes folders that only their owner may enter; an engine should be as readable as any other file.
    folder.chmod(0o755)


def _compile_graph(graph: str, model: bytes, manifest: Manifest, target: Target, folder: Path) -> None:
    path = folder / f"{graph}{graph_suffix(target.backend)}"
    if target.backend == "onnxruntime":
        from engines.backends.onnxruntime import optimise

        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            source = Path(scratch) / f"{graph}.onnx"
            source.write_bytes(model)
            try:
                optimise(source, path, target.provider)
            except CompileError:
                # ONNX Runtime reports a full disk as a failed serialisation; writing the file raises the real error.
                path.write_bytes(model)
                raise
        return
    from engines.backends.tensorrt import build_engine

    path.write_bytes(build_engine(graph, model, graph_signature(manifest, graph), target))


def _compute_capabilities(target: Target) -> tuple[str, ...]:
    if target.backend == "onnxruntime":
        return ()
    from engines.backends.tensorrt import compute_capabilities

    return compute_capabilities(target)


def _checked(
    bundle: Path, manifest: Manifest, target: Target, folder: Path, reduced: Mapping[str, ReducedGraph]
) -> ParityRecord:
    """Compare the engine with PyTorch: its tensors on the golden values, its decisions on the decision set.

    Raises:
        CompileError: a tensor differs, or more decisions than the target allows.
    """
    status = backend_status(target.backend, target.provider)
    with _session(bundle, manifest, target, folder, reduced, on_target=status.can_run) as session:
        report = check_parity(session, folder, threshold=THRESHOLDS[target.precision])
        if not report.passed:
            worst = report.failures[0]
            raise CompileError(
                f"the engine for {target.name} disagrees with PyTorch in {len(report.failures)} of "
                f"{len(report.comparisons)} comparisons, worst: {worst.graph} {worst.tensor} {worst.pattern}: relative "
                f"error {worst.error:.2e}, allowed {report.threshold:.0e}; export the bundle again or report this"
            )
        decisions = _gated(session, manifest, target, folder) if has_decisions(manifest) else None
    return ParityRecord(
        status="passed" if status.can_run else "built, not run",
        reason="" if status.can_run else status.reason,
        checked_on=status.name if status.can_run else "onnxruntime, not on the target",
        worst_relative_error=report.worst,
        threshold=report.threshold,
        comparisons=len(report.comparisons),
        decisions=decisions,
    )


def _session(
    bundle: Path,
    manifest: Manifest,
    target: Target,
    folder: Path,
    reduced: Mapping[str, ReducedGraph],
    *,
    on_target: bool,
) -> Session:
    """The engine or, where it cannot run, its graphs on ONNX Runtime with the rounding of its precision."""
    if on_target:
        return load_session(
            folder,
            manifest,
            target.backend,
            batch=target.batch,
            provider=target.provider,
            dla_core=target.dla_core,
        )
    models = {g: (bundle / f"{g}.onnx").read_bytes() for g in graph_names(manifest)}
    return Session(manifest, UnoptimisedRunner(models | {g: r.emulation for g, r in reduced.items()}))


def _gated(session: Session, manifest: Manifest, target: Target, folder: Path) -> DecisionRecord:
    change = decision_change(session, DecisionSet(folder / DECISIONS_NAME, manifest))
    if above := change.above(target.decision_change):
        raise CompileError(
            f"the engine for {target.name} decides otherwise than PyTorch in patterns {above}, where "
            f"{target.decision_change:.1%} is allowed; compile to a higher precision, export the bundle again, or "
            "allow more with allowed_decision_change in a target file"
        )
    return DecisionRecord(
        rows=change.rows,
        allowed=target.decision_change,
        worst_pattern=change.worst,
        worst_share=change.worst_share,
        differing={p: n for p, n in change.differing.items() if n},
    )


def _put_in_place(partial: Path, folder: Path) -> None:
    """Rename the finished folder to its place, after moving an older engine out of the way."""
    if not folder.exists() or not any(folder.iterdir()):
        partial.replace(folder)
        return
    old = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.old-"))
    try:
        folder.replace(old)
        partial.replace(folder)
    finally:
        shutil.rmtree(old, ignore_errors=True)
