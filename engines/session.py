"""A session: encode, fuse, decode and observe with one bundle or compiled engine, on any backend.

Raw dtypes become float32 and logits become calibrated probabilities here and nowhere else, so that all backends and
callers agree on both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.arguments import Arguments
from engines.backends.interface import GRAPH_BY_GRAPH, Array, GraphRunner
from engines.bundle import (
    Manifest,
    graph_names,
    graph_signature,
    pattern_key,
    presence_patterns,
)
from engines.errors import EngineError, InputError
from engines.refinement import refine_incomplete_rows


@dataclass(frozen=True)
class Fused:
    """Result of fusion, one row per row of the presence mask.

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


@dataclass(frozen=True)
class TickResult:
    """Result of a whole tick.

    Attributes:
        evidence: modality -> (B, evidence_size) of the windows that were encoded, without the refused ones.
        fused: the decision, one row per row of the presence mask.
        refused: modalities whose evidence was not finite; the decision was made without them.
    """

    evidence: Mapping[str, Array]
    fused: Fused
    refused: tuple[str, ...]


class Session:
    """The graphs of one bundle, ready to run; :func:`engines.opening.open_session` makes one. Not thread-safe."""

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
        self._arguments = Arguments(self._specs, runner.maximum_batch)
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
            EngineError: the backend failed, or the evidence is not finite because the window holds NaN or absurd
                values. One modality then drops out here, instead of fusion failing for all.
        """
        evidence = self._run(f"encode_{modality}", {"window": self._arguments.window(modality, windows)})[
            "evidence"
        ]
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
        return self._run(f"observe_{modality}", {"window": self._arguments.window(modality, windows)})[
            "observation"
        ]

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
        spec = self._arguments.spec(modality)
        tensor = self._arguments.tensor(f"latent of {modality!r}", latent, (spec.latent_size,))
        return self._run(f"decode_{modality}", {"latent": tensor})["observation"]

    def fuse(self, evidence: Mapping[str, npt.NDArray[Any]], presence: npt.NDArray[Any]) -> Fused:
        """Fuse the evidence of the present modalities into one decision per row, and infer or impute every latent.

        Evidence is ignored in rows where its modality is absent, whatever it holds (NaN included). If the bundle has
        a refinement, rows that lack some modalities go through it; their temperature is still that of the modalities
        that are really present.

        Args:
            evidence: modality -> (B, evidence_size); a modality absent in every row may be left out.
            presence: (B, M) of 0 and 1 (or bool), columns in the order of ``manifest.modality_names``.

        Raises:
            InputError: an unknown modality, another shape, a mask value other than 0 or 1, or evidence that is
                lacking or not finite where the mask says present.
            EngineError: the backend failed.
        """
        mask = self._arguments.presence(presence)
        inputs = self._arguments.fuse_inputs(evidence, mask)
        return self._fused(mask, self._refined(inputs, self._run("fuse", inputs)))

    def tick(
        self,
        windows: Mapping[str, npt.NDArray[Any]],
        evidence: Mapping[str, npt.NDArray[Any]],
        presence: npt.NDArray[Any],
    ) -> TickResult:
        """Encode the windows that are due and fuse, as one unit of work if the backend can do that (a CUDA graph).

        The decision is the same as from :meth:`encode` of every window and :meth:`fuse` of all evidence. A modality
        whose evidence is not finite is left out of this decision; the others are not affected.

        Args:
            windows: modality -> (B, *window_shape) in its raw dtype; present in every row of the mask.
            evidence: modality -> (B, evidence_size), as for :meth:`fuse`, for modalities without a window.
            presence: (B, M) of 0 and 1 (or bool).

        Raises:
            InputError: as for :meth:`encode` and :meth:`fuse`; or a modality has both a window and evidence, or a
                window and a row in which it is absent.
            EngineError: the backend failed.
        """
        mask = self._arguments.presence(presence)
        raw = {name: self._arguments.window(name, w) for name, w in windows.items()}
        columns = {name: mask[:, column] for column, name in enumerate(self._specs)}
        for name, window in raw.items():
            if name in evidence:
                raise InputError(f"{name!r}: expected a window or evidence, got both")
            if len(window) != len(mask) or not columns[name].all():
                raise InputError(
                    f"window of {name!r}: expected one for every row of the presence mask, present in each, got "
                    f"{len(window)} for {len(mask)} rows of which {int(columns[name].sum())} say present"
                )
        if self.manifest.refinement is not None and not mask.all():
            return self._tick_in_steps(raw, evidence, mask)
        unencoded = np.array([name not in raw for name in self._specs], np.float32)
        inputs = self._arguments.fuse_inputs(evidence, mask * unencoded)
        given = {name: inputs[f"evidence_{name}"] for name in self._specs if name not in raw}
        out = self._runner.run_tick(raw, given, mask)
        self._check_outputs("fuse", out, len(mask))
        encoded = {name: out[f"evidence_{name}"] for name in raw}
        if all(np.isfinite(e).all() for e in encoded.values()):
            return TickResult(encoded, self._fused(mask, out), ())
        return self._tick_without_refused(encoded, evidence, mask)

    def imputation_scale(self, modality: str, presence: npt.NDArray[Any] | Sequence[int]) -> float | None:
        """Half width of the interval around an imputed observation that holds 90 % of measured values.

        Args:
            modality: a modality of the bundle.
            presence: (M,) of 0 and 1, of one row.

        Returns:
            The half width in the modality's observation unit; None if the modality is present, or if the bundle has no
            such calibration.

        Raises:
            InputError: an unknown modality, or another number of modalities in the mask.
        """
        self._arguments.spec(modality)
        mask = self._arguments.presence(np.asarray(presence)[None])[0]
        key = pattern_key(self.manifest.modality_names, mask)
        return self.manifest.calibration.imputation_scale.get(key, {}).get(modality)

    def _tick_in_steps(
        self, windows: Mapping[str, Array], evidence: Mapping[str, npt.NDArray[Any]], mask: Array
    ) -> TickResult:
        """A tick with refinement, graph by graph: the loop around fuse needs the evidence on the host."""
        encoded = {n: self._run(f"encode_{n}", {"window": w})["evidence"] for n, w in windows.items()}
        return self._tick_without_refused(encoded, evidence, mask)

    def _tick_without_refused(
        self, encoded: Mapping[str, Array], evidence: Mapping[str, npt.NDArray[Any]], mask: Array
    ) -> TickResult:
        """Fuse encoded windows, leaving out those whose evidence is not finite."""
        refused = tuple(n for n, e in encoded.items() if not np.isfinite(e).all())
        kept = {n: e for n, e in encoded.items() if n not in refused}
        trusted = mask * np.array([n not in refused for n in self._specs], np.float32)
        return TickResult(kept, self.fuse({**evidence, **kept}, trusted), refused)

    def _fused(self, mask: Array, out: Mapping[str, Array]) -> Fused:
        """Outputs of the fuse graph as a decision, calibrated for each row's missing pattern."""
        temperature = self._temperatures[mask.astype(np.int64) @ self._bits]
        return Fused(
            logits=out["logits"],
            probabilities=softmax(out["logits"] / temperature[:, None]),
            posterior=out["posterior"],
            latents={name: out[f"latent_{name}"] for name in self._specs},
        )

    def _refined(self, inputs: Mapping[str, Array], out: dict[str, Array]) -> dict[str, Array]:
        """The outputs of fuse; rows that lack some modalities, but not all, are replaced by refined ones."""
        if self.manifest.refinement is None:
            return out

        def fuse(evidence: Mapping[str, Array], presence: Array) -> dict[str, Array]:
            return self._run(
                "fuse", {"presence": presence, **{f"evidence_{n}": e for n, e in evidence.items()}}
            )

        refined = refine_incomplete_rows(
            fuse,
            lambda fused: fused["posterior"],
            tuple(self._specs),
            {n: inputs[f"evidence_{n}"] for n in self._specs},
            inputs["presence"],
            out["posterior"],
            self.manifest.refinement,
        )
        if refined is None:
            return out
        rows, better = refined
        merged = {name: value.copy() for name, value in out.items()}
        for name, value in better.items():
            merged[name][rows] = value
        return merged

    def warm_up(self, runs: int = 2) -> None:
        """Run every graph on zeros, so that the first real tick does not wait for lazy allocation and kernels.

        If the backend runs a tick as one unit of work, every set of due modalities is run as well, so that it is
        recorded now and not during a real tick.
        """
        for graph in self._outputs:
            signature = graph_signature(self.manifest, graph)
            inputs = {name: np.zeros((1, *shape), np.float32) for name, shape in signature.inputs.items()}
            for _ in range(runs):
                self._runner.run(graph, inputs)
        if self._runner.tick_submission != GRAPH_BY_GRAPH:
            for due in presence_patterns(len(self._specs), empty=True):
                for _ in range(runs):
                    self._run_tick_on_zeros(due)

    def _run_tick_on_zeros(self, due: Sequence[int]) -> None:
        windows, evidence = {}, {}
        for (name, spec), is_due in zip(self._specs.items(), due, strict=True):
            if is_due:
                windows[name] = np.zeros((1, *spec.window_shape), np.float32)
            else:
                evidence[name] = np.zeros((1, spec.evidence_size), np.float32)
        self._runner.run_tick(windows, evidence, np.ones((1, len(self._specs)), np.float32))

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

    def _run(self, graph: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        outputs = self._runner.run(graph, inputs)
        self._check_outputs(graph, outputs, len(next(iter(inputs.values()))))
        return outputs

    def _check_outputs(self, graph: str, outputs: Mapping[str, Array], batch: int) -> None:
        for name, shape in self._outputs[graph].items():
            came = outputs[name].shape
            if came[:1] != (batch,) or came[1:] != shape:
                raise EngineError(
                    f"graph {graph!r}: output {name!r}: the manifest says {(batch, *shape)}, got {came}"
                )


def softmax(logits: Array) -> Array:
    """Softmax over the last axis, shifted by the maximum so that large logits do not overflow."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    result: Array = (shifted / shifted.sum(axis=-1, keepdims=True)).astype(np.float32)
    return result
