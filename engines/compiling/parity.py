"""Parity: does an engine compute what PyTorch computes? Every graph and missing pattern, against ``golden.npz``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.backends.interface import Array
from engines.bundle import GOLDEN_NAME, Manifest
from engines.compiling.bundle_arrays import BundleArrays
from engines.session import Session
from engines.targets import Precision

THRESHOLD = 1e-3
THRESHOLDS: dict[Precision, float] = {"fp32": THRESHOLD, "fp16": 1e-2, "bf16": 4e-2, "int8": 1e-1}
"""Precision -> largest relative error of any tensor. The choice of products keeps a graph's own rounding to half of it.
Decisions are checked more strictly, by :mod:`engines.compiling.accuracy_gate`."""
# Below this a tensor counts as zero, and its absolute error is taken: the posterior of the empty pattern is N(0, I).
_ZERO = 1e-6


@dataclass(frozen=True)
class Comparison:
    """One tensor of one graph, for one missing pattern where that matters.

    Attributes:
        graph: ``encode_rgb``, ``fuse``, ...; ``end to end`` is raw windows to logits.
        tensor: the graph's output.
        pattern: the missing pattern, or empty.
        error: max|engine - golden| / max|golden|; infinite if either is not finite.
        decisions: rows whose decision differs and is not tied; None if the tensor holds no decision.
    """

    graph: str
    tensor: str
    pattern: str
    error: float
    decisions: int | None = None


@dataclass(frozen=True)
class ParityReport:
    """All comparisons of one session with one golden file."""

    threshold: float
    comparisons: tuple[Comparison, ...]

    @property
    def failures(self) -> tuple[Comparison, ...]:
        """Comparisons above the threshold or with a differing decision, worst first."""
        failed = [c for c in self.comparisons if not c.error <= self.threshold or c.decisions]
        return tuple(sorted(failed, key=lambda c: -c.error))

    @property
    def passed(self) -> bool:
        """Every tensor within the threshold, every decision equal."""
        return not self.failures

    @property
    def worst(self) -> float:
        """The largest relative error."""
        return max(c.error for c in self.comparisons)


def check_parity(session: Session, folder: Path, *, threshold: float = THRESHOLD) -> ParityReport:
    """Compare every graph of a session with the golden values, for every missing pattern.

    Each graph gets golden inputs, so that an error shows in the graph that makes it; ``end to end`` then runs raw
    windows through encoders and fusion together.

    Args:
        session: of any backend.
        folder: the bundle, or the engine folder, which holds the same golden file.
        threshold: largest relative error, max|a - b| / max|b|.

    Raises:
        BundleError: the golden file is missing, broken, lacks an array, or has one of another shape.
    """
    golden = Golden(folder / GOLDEN_NAME, session.manifest)
    limit = session.maximum_batch
    comparisons = [
        *_windows(session, golden, limit),
        *_fusion(session, golden, limit, threshold),
        *_decoders(session, golden, limit),
        *_end_to_end(session, golden, limit, threshold),
    ]
    return ParityReport(threshold, tuple(comparisons))


def relative_error(value: Array, golden: Array) -> float:
    """max|value - golden| / max|golden|, or max|value - golden| if golden is zero; infinite if any is not finite."""
    if not (np.isfinite(value).all() and np.isfinite(golden).all()):
        return float("inf")
    scale = float(np.abs(golden).max())
    difference = float(np.abs(value.astype(np.float64) - golden).max())
    return difference / scale if scale > _ZERO else difference


def differing_decisions(logits: Array, golden: Array, threshold: float) -> int:
    """Rows whose best class differs from the golden one, unless the golden logits of the two are tied."""
    chosen = logits.argmax(axis=1)
    lost = golden.max(axis=1) - np.take_along_axis(golden, chosen[:, None], axis=1)[:, 0]
    return int((lost > threshold * max(float(np.abs(golden).max()), _ZERO)).sum())


class Golden(BundleArrays):
    """The golden file of a bundle.

    Attributes:
        presence: (2^M, M) float32, every pattern once.
        patterns: the name of each row of ``presence``.
        batch: golden rows of each modality.
        evidence: modality -> (batch, evidence_size).
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        """Read the file.

        Raises:
            BundleError: it is missing or broken, or lacks an array.
        """
        super().__init__(path, manifest)
        self.presence, self.patterns = self.read_presence()
        self.batch = len(self.array(f"window_{self.names[0]}", self.specs[0].window_shape))
        self.evidence = {m.name: self.array(f"evidence_{m.name}", (m.evidence_size,)) for m in self.specs}

    def case(self, graph: str) -> tuple[dict[str, Array], dict[str, Array]] | None:
        """Golden inputs and outputs of an encoder or decoder, all patterns in one batch; None for other graphs."""
        role, _, name = graph.partition("_")
        if role not in ("encode", "decode"):
            return None
        spec = next(s for s in self.specs if s.name == name)
        if role == "encode":
            window = self.array(f"window_{name}", spec.window_shape).astype(np.float32)
            return {"window": window}, {"evidence": self.evidence[name]}
        rows = range(len(self.patterns))
        latents = [self.array(f"latent_{name}_{p}", (spec.latent_size,)) for p in rows]
        decoded = [self.array(f"decoded_{name}_{p}", spec.observation_shape) for p in rows]
        return {"latent": np.concatenate(latents)}, {"observation": np.concatenate(decoded)}

    def mask(self, pattern: int) -> Array:
        """The presence mask of a pattern, one row per golden row."""
        mask: Array = np.tile(self.presence[pattern], (self.batch, 1))
        return mask


def in_batches(call: Callable[[Array], Array], rows: npt.NDArray[Any], limit: int | None) -> Array:
    """The result of a call on many rows, called in batches of at most ``limit`` rows."""
    step = limit or len(rows)
    parts: list[Array] = [call(rows[i : i + step]) for i in range(0, len(rows), step)]
    return np.concatenate(parts)


def _windows(session: Session, golden: Golden, limit: int | None) -> Iterator[Comparison]:
    for spec in golden.specs:
        window = golden.array(f"window_{spec.name}", spec.window_shape)
        evidence = in_batches(partial(session.encode, spec.name), window, limit)
        yield Comparison(
            f"encode_{spec.name}", "evidence", "", relative_error(evidence, golden.evidence[spec.name])
        )
        observed = in_batches(partial(session.observe, spec.name), window, limit)
        expected = golden.array(f"observed_{spec.name}", spec.observation_shape)
        yield Comparison(f"observe_{spec.name}", "observation", "", relative_error(observed, expected))


def fuse_in_batches(
    session: Session, evidence: Mapping[str, Array], mask: Array, limit: int | None
) -> tuple[Array, Array, dict[str, Array]]:
    """Logits, posterior and latents of many rows, fused in batches of at most ``limit`` rows."""
    step = limit or len(mask)
    parts = []
    for i in range(0, len(mask), step):
        rows = slice(i, i + step)
        parts.append(session.fuse({n: e[rows] for n, e in evidence.items()}, mask[rows]))
    latents = {n: np.concatenate([p.latents[n] for p in parts]) for n in evidence}
    return np.concatenate([p.logits for p in parts]), np.concatenate([p.posterior for p in parts]), latents


def _fusion(session: Session, golden: Golden, limit: int | None, threshold: float) -> Iterator[Comparison]:
    manifest = session.manifest
    for p, pattern in enumerate(golden.patterns):
        logits, posterior, latents = fuse_in_batches(session, golden.evidence, golden.mask(p), limit)
        expected = golden.array(f"logits_{p}", (len(manifest.classes),))
        differ = differing_decisions(logits, expected, threshold)
        yield Comparison("fuse", "logits", pattern, relative_error(logits, expected), differ)
        expected = golden.array(f"posterior_{p}", (manifest.posterior_size,))
        yield Comparison("fuse", "posterior", pattern, relative_error(posterior, expected))
        for spec in golden.specs:
            expected = golden.array(f"latent_{spec.name}_{p}", (spec.latent_size,))
            error = relative_error(latents[spec.name], expected)
            yield Comparison("fuse", f"latent_{spec.name}", pattern, error)


def _decoders(session: Session, golden: Golden, limit: int | None) -> Iterator[Comparison]:
    for spec in golden.specs:
        for p, pattern in enumerate(golden.patterns):
            latent = golden.array(f"latent_{spec.name}_{p}", (spec.latent_size,))
            expected = golden.array(f"decoded_{spec.name}_{p}", spec.observation_shape)
            value = in_batches(partial(session.decode, spec.name), latent, limit)
            yield Comparison(f"decode_{spec.name}", "observation", pattern, relative_error(value, expected))


def _end_to_end(
    session: Session, golden: Golden, limit: int | None, threshold: float
) -> Iterator[Comparison]:
    evidence = {}
    for spec in golden.specs:
        window = golden.array(f"window_{spec.name}", spec.window_shape)
        evidence[spec.name] = in_batches(partial(session.encode, spec.name), window, limit)
    for p, pattern in enumerate(golden.patterns):
        logits, _, _ = fuse_in_batches(session, evidence, golden.mask(p), limit)
        expected = golden.array(f"logits_{p}", (len(session.manifest.classes),))
        differ = differing_decisions(logits, expected, threshold)
        yield Comparison("end to end", "logits", pattern, relative_error(logits, expected), differ)
