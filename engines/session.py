"""A session: encode, fuse, decode and observe with one bundle or compiled engine, on whatever backend it needs.

The session is the only place where raw dtypes become float32 and where logits become calibrated probabilities, so
every backend and every caller agrees on both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.backends.interface import Array, GraphRunner
from engines.bundle import (
    Manifest,
    graph_names,
    graph_signature,
    load_manifest,
    pattern_key,
    presence_patterns,
)
from engines.engine import ENGINE_NAME, load_engine
from engines.errors import EngineError, InputError
from engines.refinement import refined_evidence
from engines.targets import BatchProfile

_BACKENDS = ("auto", "onnxruntime", "tensorrt", "tensorrt-rtx")


@dataclass(frozen=True)
class Fused:
    """What a fuse call gives, one row per row of the presence mask.

    Attributes:
        logits: (B, C) float32, uncalibrated.
        probabilities: (B, C) float32, ``softmax(logits / T)`` with T the temperature of that row's missing pattern.
        posterior: (B, posterior_size) float32, laid out as the manifest's system says.
        latents: modality -> (B, latent_size) float32, inferred where present, imputed where absent.
    """

    logits: Array
    probabilities: Array
    posterior: Array
    latents: Mapping[str, Array]


class Session:
    """The graphs of one bundle, ready to run. Make one with :func:`open_session`; not safe to share by threads."""

    def __init__(self, manifest: Manifest, runner: GraphRunner) -> None:
        """Wrap loaded graphs.

        Args:
            manifest: of the bundle that the graphs come from.
            runner: a backend with every graph of :func:`engines.bundle.graph_names` loaded.
        """
        self.manifest = manifest
        self.bundle_hash: str = manifest.hash
        self.backend: str = runner.backend
        self._runner = runner
        names = manifest.modality_names
        self._specs = {m.name: m for m in manifest.modalities}
        self._outputs = {g: graph_signature(manifest, g).outputs for g in graph_names(manifest)}
        # Row i of a mask read as a binary number indexes the temperature table: no dictionary look-ups per tick.
        self._bits = 1 << np.arange(len(names))
        self._temperatures = np.ones(1 << len(names), dtype=np.float32)
        for pattern in presence_patterns(len(names), empty=True):
            temperature = manifest.calibration.temperature.get(pattern_key(names, pattern), 1.0)
            self._temperatures[int(np.dot(pattern, self._bits))] = temperature

    @property
    def maximum_batch(self) -> int | None:
        """Largest batch that the engine was built for, or None if any will do."""
        return self._runner.maximum_batch

    def encode(self, modality: str, windows: npt.NDArray[Any]) -> Array:
        """Evidence of a batch of raw windows.

        Args:
            modality: a modality of the bundle.
            windows: (B, *window_shape) in the modality's raw dtype.

        Returns:
            (B, evidence_size) float32.

        Raises:
            InputError: an unknown modality, another shape or dtype, or a batch the engine was not built for.
            EngineError: the backend failed, or the evidence is not finite (a window with NaN or beyond all measure):
                better that one modality drops out here than that fusion fails for all.
        """
        evidence = self._run(f"encode_{modality}", {"window": self._window(modality, windows)})["evidence"]
        if not np.isfinite(evidence).all():
            raise EngineError(
                f"encode_{modality}: evidence is not finite; check the window for NaN or absurd values"
            )
        return evidence

    def observe(self, modality: str, windows: npt.NDArray[Any]) -> Array:
        """Raw windows brought into the space and unit that :meth:`decode` estimates.

        Args:
            modality: a modality of the bundle.
            windows: (B, *window_shape) in the modality's raw dtype.

        Returns:
            (B, *observation_shape) float32.

        Raises:
            InputError: as for :meth:`encode`.
            EngineError: the backend failed.
        """
        return self._run(f"observe_{modality}", {"window": self._window(modality, windows)})["observation"]

    def decode(self, modality: str, latent: npt.NDArray[Any]) -> Array:
        """The modality's observation, estimated from latents as :meth:`fuse` returns them.

        Args:
            modality: a modality of the bundle.
            latent: (B, latent_size) float32.

        Returns:
            (B, *observation_shape) float32.

        Raises:
            InputError: an unknown modality or another shape.
            EngineError: the backend failed.
        """
        spec = self._spec(modality)
        tensor = self._tensor(f"latent of {modality!r}", latent, (spec.latent_size,))
        return self._run(f"decode_{modality}", {"latent": tensor})["observation"]

    def fuse(self, evidence: Mapping[str, npt.NDArray[Any]], presence: npt.NDArray[Any]) -> Fused:
        """Fuse the evidence of the present modalities into one decision per row, and infer or impute every latent.

        Evidence in rows where its modality is absent is ignored, whatever it holds (NaN included). Where the bundle has
        a refinement, rows that lack some modalities go through it; the temperature is that of what was really there.

        Args:
            evidence: modality -> (B, evidence_size); a modality absent in every row may be left out.
            presence: (B, M) of 0 and 1 (or bool), columns in the order of ``manifest.modality_names``.

        Raises:
            InputError: an unknown modality, another shape, a mask value other than 0 or 1, or evidence that is
                lacking or not finite where the mask says present.
            EngineError: the backend failed.
        """
        mask = self._presence(presence)
        unknown = sorted(evidence.keys() - self._specs.keys())
        if unknown:
            raise InputError(
                f"evidence for unknown modalities {unknown}; this bundle has {list(self._specs)}"
            )
        inputs: dict[str, Array] = {"presence": mask}
        for column, (name, spec) in enumerate(self._specs.items()):
            present = mask[:, column] > 0
            inputs[f"evidence_{name}"] = self._evidence(name, spec.evidence_size, evidence.get(name), present)
        out = self._refined(inputs, self._run("fuse", inputs))
        temperature = self._temperatures[mask.astype(np.int64) @ self._bits]
        return Fused(
            logits=out["logits"],
            probabilities=softmax(out["logits"] / temperature[:, None]),
            posterior=out["posterior"],
            latents={name: out[f"latent_{name}"] for name in self._specs},
        )

    def imputation_scale(self, modality: str, presence: npt.NDArray[Any] | Sequence[int]) -> float | None:
        """How far an imputed observation may be off: half width of the interval around it that holds 90 %.

        Args:
            modality: a modality of the bundle.
            presence: (M,) of 0 and 1, of one row.

        Returns:
            In the modality's observation unit; None where the modality is present, or the bundle was made without.

        Raises:
            InputError: an unknown modality, or another number of modalities in the mask.
        """
        self._spec(modality)
        mask = self._presence(np.asarray(presence)[None])[0]
        key = pattern_key(self.manifest.modality_names, mask)
        return self.manifest.calibration.imputation_scale.get(key, {}).get(modality)

    def _refined(self, inputs: Mapping[str, Array], out: dict[str, Array]) -> dict[str, Array]:
        """The outputs of fuse with rows that lack some modalities, but not all, replaced by refined ones."""
        refinement, presence = self.manifest.refinement, inputs["presence"]
        count = presence.sum(axis=1)
        rows = np.flatnonzero((count > 0) & (count < len(self._specs)))
        if refinement is None or not len(rows):
            return out
        complete = np.ones_like(presence[rows])

        def fuse(evidence: Mapping[str, Array]) -> dict[str, Array]:
            named = {f"evidence_{n}": e for n, e in evidence.items()}
            return self._run("fuse", {"presence": complete, **named})

        filled = refined_evidence(
            lambda evidence: fuse(evidence)["posterior"],
            tuple(self._specs),
            {n: inputs[f"evidence_{n}"][rows] for n in self._specs},
            presence[rows],
            out["posterior"][rows],
            refinement,
        )
        merged = {name: value.copy() for name, value in out.items()}
        for name, value in fuse(filled).items():
            merged[name][rows] = value
        return merged

    def warm_up(self, runs: int = 2) -> None:
        """Run every graph on zeros, so that the first real tick does not pay for lazy allocation and kernels."""
        for graph in self._outputs:
            signature = graph_signature(self.manifest, graph)
            inputs = {name: np.zeros((1, *shape), np.float32) for name, shape in signature.inputs.items()}
            for _ in range(runs):
                self._runner.run(graph, inputs)

    def close(self) -> None:
        """Free the backend's memory; the session cannot be used afterwards."""
        self._runner.close()

    def __enter__(self) -> Session:
        """The session itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the session."""
        self.close()

    def _spec(self, modality: str) -> Any:
        spec = self._specs.get(modality)
        if spec is None:
            raise InputError(f"modality {modality!r} is not in this bundle; it has {list(self._specs)}")
        return spec

    def _window(self, modality: str, windows: npt.NDArray[Any]) -> Array:
        spec = self._spec(modality)
        given = np.asarray(windows)
        if given.dtype != np.dtype(spec.dtype):
            raise InputError(f"window of {modality!r}: expected dtype {spec.dtype}, got {given.dtype}")
        return self._tensor(f"window of {modality!r}", given, spec.window_shape)

    def _tensor(self, what: str, value: npt.NDArray[Any], shape: tuple[int, ...]) -> Array:
        given = np.asarray(value)
        if given.shape[1:] != shape or given.ndim != 1 + len(shape) or len(given) == 0:
            expected = ", ".join(("B >= 1", *map(str, shape)))
            raise InputError(f"{what}: expected shape ({expected}), got {given.shape}")
        limit = self._runner.maximum_batch
        if limit is not None and len(given) > limit:
            raise InputError(
                f"{what}: batch of {len(given)}, this engine was built for 1 to {limit}; compile with a larger batch"
            )
        if given.dtype.kind not in "fiub":
            raise InputError(f"{what}: expected numbers, got dtype {given.dtype}")
        return np.ascontiguousarray(given, dtype=np.float32)

    def _presence(self, presence: npt.NDArray[Any]) -> Array:
        mask = self._tensor("presence", presence, (len(self._specs),))
        if not np.isin(mask, (0.0, 1.0)).all():
            raise InputError(f"presence: expected only 0 and 1, got {np.unique(mask)[:8].tolist()}")
        return mask

    def _evidence(
        self, name: str, size: int, value: npt.NDArray[Any] | None, present: npt.NDArray[np.bool_]
    ) -> Array:
        if value is None:
            if present.any():
                raise InputError(
                    f"evidence of {name!r}: the presence mask says present, but no evidence was given"
                )
            return np.zeros((len(present), size), np.float32)
        tensor = self._tensor(f"evidence of {name!r}", value, (size,))
        if len(tensor) != len(present):
            raise InputError(
                f"evidence of {name!r}: {len(tensor)} rows, the presence mask has {len(present)}"
            )
        if not present.all():
            # Zeros, not the caller's leftovers: 0 * NaN would carry a dead sensor's NaN into the decision.
            tensor = np.where(present[:, None], tensor, np.float32(0))
        if not np.isfinite(tensor).all():
            raise InputError(f"evidence of {name!r}: not finite in a row where the modality is present")
        return tensor

    def _run(self, graph: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        outputs = self._runner.run(graph, inputs)
        batch = len(next(iter(inputs.values())))
        for name, shape in self._outputs[graph].items():
            if outputs[name].shape != (batch, *shape):
                raise EngineError(
                    f"graph {graph!r}: output {name!r}: the manifest says {(batch, *shape)}, got {outputs[name].shape}"
                )
        return outputs


def softmax(logits: Array) -> Array:
    """Softmax over the last axis, shifted by the maximum so that large logits do not overflow."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    result: Array = (shifted / shifted.sum(axis=-1, keepdims=True)).astype(np.float32)
    return result


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
        EngineError: the engine is stale, foreign or broken, or the backend's library or device is not here.
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
) -> Session:
    """Load the graphs of a folder whose files have been checked; :func:`open_session` does both.

    Args:
        folder: where ``<graph>.onnx`` or ``<graph>.engine`` are.
        manifest: of the bundle.
        backend: ``onnxruntime``, ``tensorrt`` or ``tensorrt-rtx``.
        batch: the profile that TensorRT engines were built for.
        threads: CPU threads for the operators of one graph.

    Raises:
        EngineError: a graph does not load, or the backend's library or device is not here.
    """
    signatures = {g: graph_signature(manifest, g) for g in graph_names(manifest)}
    # Imported here: half a second that `import engines` and clients without a model should not pay.
    if backend == "onnxruntime":
        from engines.backends.onnxruntime import OnnxRuntimeRunner

        return Session(manifest, OnnxRuntimeRunner(folder, signatures, threads=threads))
    from engines.backends.tensorrt_runner import TensorRTRunner

    return Session(manifest, TensorRTRunner(folder, signatures, backend, batch or BatchProfile()))


def _open_engine(folder: Path, backend: str, threads: int, verify: bool) -> Session:
    engine, manifest = load_engine(folder, verify=verify)
    if backend not in ("auto", engine.backend):
        raise EngineError(f"{folder} was compiled for {engine.backend}, asked for {backend}")
    return load_session(folder, manifest, engine.backend, batch=engine.batch, threads=threads)
