"""The quality of completed striped digits: an oracle reads the image that is joined from decoded stripes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from engines.bundle import pattern_key, presence_patterns
from trainers.evaluation.coherence import (
    BATCH,
    INTENSITY,
    Decoded,
    Labels,
    class_coherence,
    encode_system,
    infer_latents,
    joint_coherence,
    name_decoded,
    name_with_oracles,
)
from trainers.evaluation.oracle import Oracle
from trainers.papers.protocol import Metrics
from trainers.papers.stripes import Images, Stripes
from trainers.systems.shared_latent import SharedLatent

Pattern = tuple[int, ...]
Latents = dict[str, Tensor]
SYNERGY = "all"
"""Name of the metric of the full set of stripes."""


def pattern_label(stripes: Stripes, pattern: Pattern) -> str:
    """``all``, or the present stripes: ``top``, ``top+middle``."""
    return SYNERGY if all(pattern) else pattern_key(stripes.names, pattern)


def measure_completion(
    system: SharedLatent,
    images: Images,
    labels: Labels,
    stripes: Stripes,
    oracles: Mapping[str, Oracle],
    *,
    generator: torch.Generator,
    draws: int,
) -> Metrics:
    """Accuracies in percent of completions from every set of stripes, and the accuracies to compare them with.

    * a set's name: all stripes decoded from a draw of q(z | stripes of the set), as in the paper's code;
    * the same with ``mean``: from the mean of q, which is what a bundle deploys;
    * ``cross`` and ``cross mean``: the average over single stripes;
    * ``each by itself``: every stripe decoded from the mean that it gives alone: no fusion at all;
    * ``joint``: of draws from the prior, the share in which the whole and every stripe are named the same, each by its
      own oracle; ``joint of real digits``: the same of measured digits;
    * ``oracle``: what it reads in measured digits, the ceiling of all accuracies.

    Args:
        system: trained.
        images: (N, 28, 28) uint8.
        labels: (N,) true classes.
        stripes: how they are split into stripes.
        oracles: ``whole``, and one for every stripe.
        generator: of all draws.
        draws: from the prior.
    """
    system.eval()
    parts = stripes.split(images)
    evidence = encode_system(system, {n: torch.from_numpy(np.ascontiguousarray(a)) for n, a in parts.items()})
    read = _whole_reader(stripes, oracles["whole"])

    def accuracy(latents: Latents) -> float:
        return 100 * class_coherence(name_decoded(system, latents, stripes.names, read), labels)["whole"]

    drawn, mean = {}, {}
    for pattern in presence_patterns(len(stripes.names)):
        name = pattern_label(stripes, pattern)
        drawn[name] = accuracy(draw_latents(system, evidence, pattern, generator))
        mean[f"{name} mean"] = accuracy(infer_latents(system, evidence, pattern))
    singles = np.eye(len(stripes.names), dtype=int)
    own = {
        n: infer_latents(system, evidence, tuple(p))[n] for n, p in zip(stripes.names, singles, strict=True)
    }
    everything = _joint_reader(stripes, oracles)
    prior = system.sample_prior(draws, generator)
    measured = {n: o.predict(parts[n]) for n, o in oracles.items() if n != "whole"}
    measured["whole"] = oracles["whole"].predict(images)
    return {
        **drawn,
        "cross": float(np.mean([drawn[n] for n in stripes.names])),
        **mean,
        "cross mean": float(np.mean([mean[f"{n} mean"] for n in stripes.names])),
        "each by itself": accuracy(own),
        "joint": 100 * joint_coherence(name_decoded(system, prior, stripes.names, everything)),
        "joint of real digits": 100 * joint_coherence(measured),
        "oracle": 100 * class_coherence(measured, labels)["whole"],
    }


@torch.no_grad()
def draw_latents(
    system: SharedLatent, evidence: Mapping[str, Tensor], pattern: Pattern, generator: torch.Generator
) -> Latents:
    """One draw of q(z | x_S) per row, (N, L), the same for every modality, under one presence mask for all rows."""
    parts = []
    for begin in range(0, len(next(iter(evidence.values()))), BATCH):
        rows = {n: e[begin : begin + BATCH] for n, e in evidence.items()}
        count = len(next(iter(rows.values())))
        mask = torch.tensor(pattern, dtype=torch.float32).expand(count, -1)
        parts.append(system.sample_posterior(system.experts(rows), mask, generator))
    return dict.fromkeys(system.names, torch.cat(parts))


@torch.no_grad()
def completed_examples(
    system: SharedLatent, images: Images, labels: Labels, stripes: Stripes, *, generator: torch.Generator
) -> dict[str, npt.NDArray[Any]]:
    """The first digit of each class and its completions (C, 28, 28) uint8: ``measured``, then by set of stripes."""
    first = images[[int(np.argmax(labels == c)) for c in np.unique(labels)]]
    windows = {n: torch.from_numpy(np.ascontiguousarray(a)) for n, a in stripes.split(first).items()}
    evidence = encode_system(system, windows)
    found = {"measured": first}
    for pattern in presence_patterns(len(stripes.names)):
        latents = draw_latents(system, evidence, pattern, generator)
        whole = stripes.join({n: system.decode(n, latents[n]) for n in stripes.names})
        found[pattern_label(stripes, pattern)] = whole.round().to(torch.uint8).numpy()
    return found


def _whole_reader(stripes: Stripes, oracle: Oracle) -> Callable[[Decoded], dict[str, Labels]]:
    return lambda decoded: {"whole": oracle.predict(stripes.join(decoded) / INTENSITY)}


def _joint_reader(stripes: Stripes, oracles: Mapping[str, Oracle]) -> Callable[[Decoded], dict[str, Labels]]:
    whole, each = _whole_reader(stripes, oracles["whole"]), name_with_oracles(oracles)
    return lambda decoded: {**whole(decoded), **each(decoded)}
