"""Coherence: whether what a system generates is of one class, and of the right one.

The definitions are MMALI's (section 4.2), for any number of modalities, over the labels that frozen oracles give:

* *joint*: latents drawn from the prior, all modalities decoded; share of draws in which all are named the same.
* *cross*: inferred from a proper subset of the modalities, the absent ones decoded; share named with the true class.
* *synergy*: inferred from all modalities, each decoded; share named with the true class.

SVAE's tables join the decoded parts of an image and let one oracle name the whole; a :data:`Namer` of the caller does
that. Latents are the means that a deployed system uses, not draws from its posterior (models.md); styles of absent
modalities are the prior's mean. Only joint coherence draws.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainers.evaluation.oracle import Oracle
from trainers.systems.base import System

Labels = npt.NDArray[np.int64]
Decoded = Mapping[str, Tensor]
"""Modality -> (B, *observation_shape) in physical units, as :meth:`System.decode` gives them."""
Namer = Callable[[Decoded], Mapping[str, Labels]]
"""Says what decoded observations show: name of the thing shown (a modality, or a whole put together) -> (B,) labels."""

BATCH = 250
INTENSITY = 255.0


# Pure functions over labels -------------------------------------------------------------------------------------


def joint_coherence(named: Mapping[str, Labels]) -> float:
    """Share of rows in which everything shown is named the same.

    Raises:
        ValueError: fewer than two things, no rows, or another number of rows in some.
    """
    stacked = _stacked(named)
    if len(stacked) < 2:
        raise ValueError(f"joint coherence compares two modalities or more, got {sorted(named)}")
    return float((stacked == stacked[0]).all(axis=0).mean())


def class_coherence(named: Mapping[str, Labels], labels: Labels) -> dict[str, float]:
    """Share of rows in which each thing shown is named with its true class; cross or synergy, by what was observed.

    Raises:
        ValueError: no rows, or another number of labels.
    """
    stacked = _stacked(named)
    if stacked.shape[1:] != labels.shape:
        raise ValueError(f"expected labels of {stacked.shape[1]} rows, got {labels.shape}")
    return {name: float((of == labels).mean()) for name, of in zip(named, stacked, strict=True)}


def _stacked(named: Mapping[str, Labels]) -> Labels:
    if not named or len({len(of) for of in named.values()}) != 1 or not len(next(iter(named.values()))):
        raise ValueError(
            f"expected the same number of rows, at least 1, of each, got { ({n: len(o) for n, o in named.items()}) }"
        )
    return np.stack(list(named.values()))


# Drivers over a system ------------------------------------------------------------------------------------------


def name_with_oracles(oracles: Mapping[str, Oracle]) -> Namer:
    """A namer for grey images: each modality by its own oracle, intensities 0..255 as the networks' decoders give."""

    def name_all(decoded: Decoded) -> dict[str, Labels]:
        return {m: oracles[m].predict(images / INTENSITY) for m, images in decoded.items()}

    return name_all


@torch.no_grad()
def encode_system(system: System, windows: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Evidence (N, E) of every modality's raw windows (N, *window_shape), in batches."""
    return {
        n: torch.cat([system.encode(n, w.float()) for w in windows[n].split(BATCH)]) for n in system.names
    }


@torch.no_grad()
def infer_latents(
    system: System, evidence: Mapping[str, Tensor], pattern: tuple[int, ...]
) -> dict[str, Tensor]:
    """Every modality's latent (N, latent_size), inferred or imputed, under one presence mask for all rows."""
    parts = []
    for begin in range(0, len(next(iter(evidence.values()))), BATCH):
        rows = {n: e[begin : begin + BATCH] for n, e in evidence.items()}
        some = next(iter(rows.values()))
        mask = torch.tensor(pattern, dtype=torch.float32, device=some.device).expand(len(some), -1)
        parts.append(system.infer(rows, mask).latents)
    return {n: torch.cat([p[n] for p in parts]) for n in system.names}


@torch.no_grad()
def name_decoded(
    system: System, latents: Mapping[str, Tensor], shown: tuple[str, ...] | list[str], name_all: Namer
) -> dict[str, Labels]:
    """What the decodings of some modalities' latents show, decoded and named in batches."""
    parts = []
    for begin in range(0, len(latents[shown[0]]), BATCH):
        decoded = {n: system.decode(n, latents[n][begin : begin + BATCH]) for n in shown}
        parts.append(name_all(decoded))
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
