"""Opening a bundle or a compiled engine as a session, on the backend that it needs."""

from __future__ import annotations

from pathlib import Path

from engines.bundle import Manifest, graph_names, graph_signature, load_manifest
from engines.engine import ENGINE_NAME, load_engine
from engines.errors import EngineError, InputError
from engines.session import Session
from engines.targets import BatchProfile, Provider

_BACKENDS = ("auto", "onnxruntime", "tensorrt", "tensorrt-rtx")


def open_session(
    path: Path | str, backend: str = "auto", *, threads: int = 1, verify: bool = True
) -> Session:
    """Open a bundle or a compiled engine folder.

    A bundle runs on ONNX Runtime as it is. An engine folder (made by ``afterimage compile``) runs on the backend it
    was compiled for.

    Args:
        path: a bundle or an engine folder.
        backend: ``auto``, ``onnxruntime``, ``tensorrt`` or ``tensorrt-rtx``; other than ``auto`` it must agree with
            what ``path`` holds.
        threads: CPU threads for the operators of one graph.
        verify: compare every file's sha256 with the manifest's.

    Raises:
        BundleError: the bundle is broken.
        EngineError: the engine is stale, broken or built for another machine, or the backend's library or device is
            missing.
    """
    folder = Path(path)
    if backend not in _BACKENDS:
        raise InputError(f"backend {backend!r} is not one of {list(_BACKENDS)}")
    if threads < 1:
        raise InputError(f"threads: expected at least 1, got {threads}")
    if (folder / ENGINE_NAME).is_file():
        return _open_engine(folder, backend, threads, verify)
    manifest = load_manifest(folder, verify=verify)
    if backend not in ("auto", "onnxruntime"):
        raise EngineError(
            f"{folder} is a bundle, and {backend} needs a compiled engine: run `afterimage compile {folder} "
            f"--target {backend}` and open the folder it prints"
        )
    return load_session(folder, manifest, "onnxruntime", threads=threads)


def load_session(
    folder: Path,
    manifest: Manifest,
    backend: str,
    *,
    batch: BatchProfile | None = None,
    threads: int = 1,
    provider: Provider = "cpu",
    dla_core: int | None = None,
) -> Session:
    """Load the graphs of a folder whose files have been checked; :func:`open_session` does both.

    Args:
        folder: where ``<graph>.onnx`` or ``<graph>.engine`` are.
        manifest: of the bundle.
        backend: ``onnxruntime``, ``tensorrt`` or ``tensorrt-rtx``.
        batch: the profile that TensorRT engines were built for.
        threads: CPU threads for the operators of one graph.
        provider: ONNX Runtime's execution provider.
        dla_core: the deep learning accelerator that TensorRT engines were built for.

    Raises:
        EngineError: a graph does not load, or the backend's library or device is missing.
    """
    signatures = {g: graph_signature(manifest, g) for g in graph_names(manifest)}
    # Imported here because it takes half a second, which clients without a model should not pay.
    if backend == "onnxruntime":
        from engines.backends.onnxruntime_runner import OnnxRuntimeRunner

        return Session(manifest, OnnxRuntimeRunner(folder, signatures, threads=threads, provider=provider))
    from engines.backends.tensorrt_runner import TensorRTRunner

    return Session(
        manifest, TensorRTRunner(folder, signatures, backend, batch or BatchProfile(), dla_core=dla_core)
    )


def _open_engine(folder: Path, backend: str, threads: int, verify: bool) -> Session:
    engine, manifest = load_engine(folder, verify=verify)
    if backend not in ("auto", engine.backend):
        raise EngineError(f"{folder} was compiled for {engine.backend}, asked for {backend}")
    return load_session(
        folder,
        manifest,
        engine.backend,
        batch=engine.batch,
        threads=threads,
        provider=engine.target.provider,
        dla_core=engine.target.dla_core,
    )
