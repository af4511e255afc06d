"""Parts of the associator paper's protocols: autoencoders, pairs from a share of the recordings, routes and judges."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainers.configuration import ModelConfig
from trainers.data.array_sampler import ArraySampler
from trainers.data.sampler import Batch
from trainers.evaluation.judge import train_judge
from trainers.evaluation.oracle import load_or_train_oracle
from trainers.modalities.network import ModalityNetwork
from trainers.papers.packs import Recordings
from trainers.papers.paired_set import PairedSet
from trainers.papers.protocol import Report
from trainers.papers.training import train_arm
from trainers.systems.adding_modalities import add_modality
from trainers.systems.associators import Associators
from trainers.systems.associators_config import AssociatorsConfig

Rows = npt.NDArray[np.int64]
Labels = npt.NDArray[np.int64]
CLASSES = 10
LATENT_SIZE = 64
"""Latent size of every modality, as in the paper."""
VALIDATION_ROWS = 500
SETTINGS = AssociatorsConfig(
    latent_size=LATENT_SIZE,
    pairs=(),
    classify="never",
    hidden_size=256,
    cross_objective="latent",
    prototypes=64,
    round_trip=0.2,
    associate_from="mean",
)
"""Settings of every network before additions; those that the paper does not give were chosen on validation data."""


@dataclass(frozen=True)
class Domain:
    """One modality of a protocol: its recordings and the network that learns them.

    Attributes:
        name: of the modality.
        recordings: with its train, validation and test rows.
        network: makes its network with fresh weights.
        steps: of its autoencoder.
        judged_as: ``image`` or ``audio``: the kind of classifier that names what its samples show.
    """

    name: str
    recordings: Recordings
    network: Callable[[], ModalityNetwork]
    steps: int
    judged_as: str = "image"

    @property
    def windows(self) -> npt.NDArray[np.generic]:
        """(N, *window_shape) raw values."""
        return self.recordings.images

    def subsample(self, train: int, held_out: int) -> Domain:
        """The same domain with a random sample of at most this many rows of each split; for the smallest budget."""
        rng = np.random.default_rng(0)
        r = self.recordings
        counts = ((r.train, train), (r.validation, held_out), (r.test, held_out))
        chosen = [np.sort(rng.permutation(rows)[:count]) for rows, count in counts]
        return replace(self, recordings=Recordings(r.arrays, r.labels, *chosen))


class MatchedRows:
    """Moments of several modalities joined by class, gathered only when a batch asks for them.

    Args:
        domains: in the order of the presence mask.
        rows: (R, M) row of each modality's recordings in each moment.
    """

    def __init__(self, domains: Sequence[Domain], rows: Rows) -> None:
        self._domains, self._rows = tuple(domains), rows

    def __len__(self) -> int:
        """Number of moments."""
        return len(self._rows)

    def batch(self, index: Rows) -> Batch:
        """Some moments, without labels: associators learn from pairs alone."""
        rows = self._rows[index]
        windows = {
            d.name: torch.from_numpy(d.windows[rows[:, m]].astype(np.float32))
            for m, d in enumerate(self._domains)
        }
        return Batch(windows, torch.full((len(rows),), -1), torch.ones(rows.shape))


def match_by_class(labels: Sequence[Labels], rows: Sequence[Rows], rng: np.random.Generator) -> Rows:
    """Join rows of M sets at random within their class.

    Args:
        labels: of each set, all of its recordings.
        rows: of each set, those to be joined.
        rng: of the order.

    Returns:
        (R, M). Of each class there are as many moments as the largest set has rows, each of which occurs once; rows
        of smaller sets occur equally often, up to one.

    Raises:
        ValueError: a class that only some of the sets have.
    """
    classes = [set(np.unique(own[chosen]).tolist()) for own, chosen in zip(labels, rows, strict=True)]
    if any(c != classes[0] for c in classes):
        raise ValueError(
            f"every set must have rows of every class, these have {[sorted(c) for c in classes]}"
        )
    joined = []
    for c in sorted(classes[0]):
        mine = [chosen[own[chosen] == c] for own, chosen in zip(labels, rows, strict=True)]
        count = max(len(m) for m in mine)
        columns = [
            np.concatenate([rng.permutation(m) for _ in range(-(-count // len(m)))])[:count] for m in mine
        ]
        joined.append(np.stack(columns, axis=1))
    return np.concatenate(joined).astype(np.int64)


@dataclass(frozen=True)
class Pairing:
    """The moments from which associators learn.

    With every partner there is, each row of the largest set has one partner in every other set, drawn evenly from the
    rows of its class.

    Attributes:
        share: of what is there, the same of every class, drawn at random.
        of: ``pairs``: that share of the moments, whose partners may be any row; ``rows``: all moments that can be
            made of that share of every set's rows.
    """

    share: float
    of: Literal["pairs", "rows"] = "pairs"

    def moments(self, domains: Sequence[Domain], seed: int) -> Rows:
        """(R, M) training rows of every modality; the same ones in every addition with the same seed."""
        labels = [d.recordings.labels for d in domains]
        train = [d.recordings.train for d in domains]
        if self.of == "rows":
            train = [
                share_of(own, rows, self.share, np.random.default_rng([seed, *d.name.encode()]))
                for d, own, rows in zip(domains, labels, train, strict=True)
            ]
        found = match_by_class(labels, train, np.random.default_rng([seed, 1]))
        if self.of == "pairs":
            kept = np.arange(len(found), dtype=np.int64)
            rng = np.random.default_rng([seed, 2])
            found = found[share_of(labels[0][found[:, 0]], kept, self.share, rng)]
        return found


def share_of(labels: Labels, rows: Rows, share: float, rng: np.random.Generator) -> Rows:
    """A random share of some rows, the same share of every class and at least one row of each."""
    found = []
    for c in np.unique(labels[rows]):
        mine = rng.permutation(rows[labels[rows] == c])
        found.append(mine[: max(1, round(share * len(mine)))])
    return np.sort(np.concatenate(found))


def model_config(system: AssociatorsConfig, names: Sequence[str], steps: int, seed: int) -> ModelConfig:
    """Training settings of an autoencoder, or of the associators of one addition."""
    return ModelConfig.model_validate(
        {
            "version": 1,
            "name": "associators",
            "modalities": {name: {"window": 1, "hop": 1} for name in names},
            "system": system,
            "phases": {
                "intra": {"steps": steps, "learning_rate": 1e-3},
                "cross": {"steps": steps, "learning_rate": 5e-3},
                "classify": {"steps": 1},
            },
            "batch_size": 100,
            "optimizer": {"name": "adamw", "weight_decay": 0.01, "average": 0.99},
            "seed": seed,
        }
    )


def autoencoder(domain: Domain, seed: int, folder: Path, shared: Path, report: Report) -> Associators:
    """The autoencoder of one modality, trained on all its training rows without labels.

    Arms of a table share it: who finishes first leaves it in ``shared``. It is a function of the seed alone, so that
    arms which train it at the same time get the same.

    Args:
        domain: to learn.
        seed: of weights and batches.
        folder: of this cell, for checkpoints.
        shared: of all cells with this seed.
        report: progress.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = domain.network()
        system = Associators({domain.name: network}, CLASSES, SETTINGS)
    train = domain.recordings.train
    some = domain.windows[np.random.default_rng(seed).permutation(train)[:1000]]
    network.start_from(torch.from_numpy(some.astype(np.float32)))
    rows = PairedSet.complete({domain.name: domain.windows[train]}, np.full(len(train), -1))
    settings = model_config(SETTINGS, (domain.name,), domain.steps, seed)
    mine, theirs = folder / domain.name, shared / domain.name
    if theirs.exists() and not mine.exists():
        shutil.copytree(theirs, mine)
    train_arm(system, ArraySampler(rows, settings.batch_size, seed), [], settings, mine, report)
    _leave(mine, theirs)
    return system


def _leave(mine: Path, theirs: Path) -> None:
    """Copy a finished training, as a whole, to the place where other arms look for it."""
    if theirs.exists():
        return
    partial = theirs.with_name(f"{theirs.name}.{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(mine, partial)
    try:
        partial.rename(theirs)
    except OSError:  # another arm was first
        shutil.rmtree(partial)


def join(
    system: Associators,
    new: Associators,
    pairs: Sequence[tuple[str, str]],
    domains: Mapping[str, Domain],
    pairing: Pairing,
    *,
    steps: int,
    seed: int,
    folder: Path,
    report: Report,
    objective: Literal["reconstruction", "latent"] = "latent",
) -> Associators:
    """Add a trained autoencoder to a network, and train the associators between the two on pairs alone.

    Args:
        system: the network so far.
        new: of one modality.
        pairs: of the new modality and an old one each.
        domains: by modality.
        pairing: which moments the associators learn from.
        steps: of training.
        seed: of pairs, weights and batches.
        folder: for checkpoints.
        report: progress.
        objective: of the associators: equation 7 (``reconstruction``) or ours.
    """
    (name,) = new.names
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        larger = add_modality(system, name, new, pairs)
    if objective == "reconstruction":
        larger.config = larger.config.model_copy(update={"cross_objective": objective, "round_trip": 0.0})
    joined = [domains[n] for n in larger.names]
    train = MatchedRows(joined, pairing.moments(joined, seed))
    labels, validation_rows = zip(
        *((d.recordings.labels, d.recordings.validation) for d in joined), strict=True
    )
    rng = np.random.default_rng([seed, 3])
    held = rng.permutation(match_by_class(labels, validation_rows, rng))[:VALIDATION_ROWS]
    settings = model_config(larger.config, larger.names, steps, seed)
    validation = [MatchedRows(joined, held).batch(np.arange(len(held)))]
    sampler = ArraySampler(train, settings.batch_size, seed)
    train_arm(larger, sampler, validation, settings, folder / "+".join(larger.names), report)
    return larger


Judgement = Callable[[Tensor], Labels]
"""Observations of one modality -> the classes that its judge names."""


def judgement(domain: Domain, shared: Path, steps: int) -> Judgement:
    """A classifier trained on measured observations of the training split; shares nothing with the judged network.

    Args:
        domain: to be judged.
        shared: folder of all cells, where judges of images are kept.
        steps: of its training.
    """
    recordings, train = domain.recordings, domain.recordings.train
    truth = recordings.labels[train]
    if domain.judged_as == "audio":
        observed = observations(domain.network(), domain.windows[train]).numpy()
        judge = train_judge("audio", observed, truth, CLASSES, seed=0, steps=steps, minutes=60.0)
        return lambda given: judge.probabilities(given.numpy()).argmax(1).astype(np.int64)
    oracle = load_or_train_oracle(
        shared / f"oracle-{domain.name}", domain.windows[train], truth, CLASSES, seed=0, steps=steps
    )
    return lambda given: oracle.predict((given / 255.0).clamp(0.0, 1.0))


@torch.no_grad()
def observations(network: ModalityNetwork, windows: npt.NDArray[np.generic]) -> Tensor:
    """Raw windows (N, *window_shape) as measured observations."""
    parts = [
        network.observe(torch.from_numpy(windows[begin : begin + 500].astype(np.float32)))
        for begin in range(0, len(windows), 500)
    ]
    return torch.cat(parts)


@torch.no_grad()
def generate(
    system: Associators,
    path: Sequence[str],
    windows: npt.NDArray[np.generic],
    generator: torch.Generator | None = None,
) -> Tensor:
    """Generate the last modality of a path from windows of the first; a path of one modality gives reconstructions.

    Args:
        system: trained.
        path: modalities that the latent passes through.
        windows: (N, *window_shape) of the first one.
        generator: to draw from the last distribution instead of taking its mean.
    """
    parts = []
    for begin in range(0, len(windows), 500):
        given = torch.from_numpy(windows[begin : begin + 500].astype(np.float32))
        found = system.own(path[0], given)
        if len(path) > 1:
            found = system.associate(tuple(path), found.mean)
        latent = found.mean if generator is None else found.sample(generator)
        parts.append(system.decode(path[-1], latent))
    return torch.cat(parts)
