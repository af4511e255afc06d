"""The calls of a session that are timed: each graph by itself and the whole tick, on the bundle's golden windows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from engines.backends.interface import GRAPH_BY_GRAPH, Array
from engines.bundle import GOLDEN_NAME
from engines.measuring.interleaving import Call
from engines.session import Session

TICK = "tick"


def golden_windows(bundle: Path, names: Sequence[str], rows: int) -> dict[str, Any]:
    """Raw windows of the bundle's golden values, repeated to this number of rows."""
    with np.load(bundle / GOLDEN_NAME) as golden:
        found = {n: golden[f"window_{n}"] for n in names}
    return {n: np.ascontiguousarray(w[np.arange(rows) % len(w)]) for n, w in found.items()}


def session_calls(bundle: Path, session: Session, batch: int, *, tick_only: bool = False) -> dict[str, Call]:
    """Graph -> a session's call for it; and the whole tick, with every modality present and its window due.

    Args:
        bundle: for its golden windows.
        session: of that bundle.
        batch: rows in each call.
        tick_only: leave out the single graphs.
    """
    names = session.manifest.modality_names
    windows = golden_windows(bundle, names, batch)
    everything = np.ones((batch, len(names)), np.float32)
    calls: dict[str, Call] = {TICK: lambda: session.tick(windows, {}, everything)}
    if tick_only:
        return calls
    evidence = {n: session.encode(n, windows[n]) for n in names}
    latents = session.fuse(evidence, everything).latents
    calls["fuse"] = lambda: session.fuse(evidence, everything)
    for n in names:
        calls[f"encode_{n}"] = partial(session.encode, n, windows[n])
        calls[f"observe_{n}"] = partial(session.observe, n, windows[n])
        calls[f"decode_{n}"] = partial(session.decode, n, latents[n])
    return calls


class KnownOutputs:
    """A :class:`~engines.backends.interface.GraphRunner` that returns a tick's outputs without computing them.

    The time of a tick on it is what the session itself costs.
    """

    backend = "none"
    maximum_batch: int | None = None
    tick_submission = GRAPH_BY_GRAPH

    def __init__(self, bundle: Path, session: Session, batch: int) -> None:
        """Compute the outputs once.

        Args:
            bundle: for its golden windows.
            session: that computes them.
            batch: rows of the tick.
        """
        names = session.manifest.modality_names
        tick = session.tick(
            golden_windows(bundle, names, batch), {}, np.ones((batch, len(names)), np.float32)
        )
        fused = tick.fused
        self._outputs = {
            "logits": fused.logits,
            "posterior": fused.posterior,
            **{f"latent_{n}": z for n, z in fused.latents.items()},
            **{f"evidence_{n}": e for n, e in tick.evidence.items()},
        }

    def run(self, graph: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The known outputs of every graph."""
        return dict(self._outputs)

    def run_tick(
        self, windows: Mapping[str, Array], evidence: Mapping[str, Array], presence: Array
    ) -> dict[str, Array]:
        """The known outputs of the tick."""
        return dict(self._outputs)

    def close(self) -> None:
        """Forget the outputs."""
        self._outputs.clear()
