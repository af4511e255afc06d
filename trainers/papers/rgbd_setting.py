"""What one draw of ``rgbd-5pct`` learns from, and what needs no generative model: features, and classifiers on them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from trainers.papers.oriented_gradients import oriented_gradients
from trainers.papers.packs import Recordings
from trainers.papers.protocol import Report
from trainers.papers.rgbd_features import FrameFeatures, fine_tune

Rows = npt.NDArray[np.int64]
MODALITIES = ("rgb", "depth")
LABELLED_SHARE = 0.05
HAND_MM = 250.0
"""Depth relief: so far behind the nearest surface still counts."""


@dataclass(frozen=True)
class Setting:
    """One draw: who is labelled, whose depth is missing, who is held out.

    Attributes:
        recordings: all frames.
        train: rows to learn from.
        labelled: rows of ``train`` whose label is known, equally many of every class.
        without_depth: rows of ``train`` whose depth is missing.
        held_out: rows to report on; nothing about them is ever trained on.
    """

    recordings: Recordings
    train: Rows
    labelled: Rows
    without_depth: Rows
    held_out: Rows

    @property
    def classes(self) -> int:
        """Number of classes."""
        return int(self.recordings.labels.max()) + 1


def draw_setting(
    recordings: Recordings,
    seed: int,
    missing: float,
    *,
    held_out: Literal["test", "validation"] = "test",
) -> Setting:
    """Draw labels and missing depth; with ``test`` held out, validation rows are training rows like any other.

    Args:
        recordings: of RGB and depth.
        seed: of the draw.
        missing: share of the training rows, labelled or not, whose depth is missing.
        held_out: what to report on.
    """
    labels = recordings.labels
    train, rest = recordings.train, recordings.validation
    if held_out == "test":
        train, rest = np.sort(np.concatenate([train, rest])), recordings.test
    count = max(1, round(LABELLED_SHARE * len(train) / len(np.unique(labels))))
    labelled = np.sort(_per_class(labels, train, count, seed))
    order = np.random.default_rng([0x44455054, seed]).permutation(train)
    without_depth = np.sort(order[: round(missing * len(train))])
    return Setting(recordings, train, labelled, without_depth, rest)


def thinned(recordings: Recordings, rows_per_class: int) -> Recordings:
    """So many rows of each class and each part, and nothing else."""
    parts = (recordings.train, recordings.validation, recordings.test)
    chosen = [np.sort(_per_class(recordings.labels, rows, rows_per_class, 0)) for rows in parts]
    kept = np.concatenate(chosen)
    ends = np.cumsum([0, *map(len, chosen)])
    places = [np.arange(ends[i], ends[i + 1], dtype=np.int64) for i in range(len(chosen))]
    arrays = {name: array[kept] for name, array in recordings.arrays.items()}
    return Recordings(arrays, recordings.labels[kept], *places)


def _per_class(labels: npt.NDArray[np.int64], rows: Rows, count: int, seed: int) -> Rows:
    rng = np.random.default_rng([0x4C41424C, seed])
    return np.concatenate(
        [rng.permutation(rows[labels[rows] == label])[:count] for label in np.unique(labels)]
    )


@dataclass(frozen=True)
class Decided:
    """Labels that a trained system gave to rows that had none.

    Attributes:
        rows: that it was sure of.
        labels: (N,) known and decided labels, -1 elsewhere.
    """

    rows: Rows
    labels: Rows


def shared_features(
    setting: Setting, steps: int, seed: int, path: Path, report: Report, decided: Decided | None = None
) -> dict[str, FrameFeatures]:
    """Fine-tuned features of both modalities, from ``path`` where another arm of the same draw left them there.

    Args:
        setting: the draw.
        steps: of fine-tuning.
        seed: of it.
        path: an .npz file that belongs to this draw and these settings alone.
        report: progress.
        decided: rows that are half of every batch, beside the labelled ones; none by default.
    """
    if not path.exists():
        arrays: dict[str, Any] = {}
        for name in MODALITIES:
            groups = [setting.labelled] if decided is None else [setting.labelled, decided.rows]
            if name == "depth":
                groups = [np.setdiff1d(rows, setting.without_depth) for rows in groups]
            made = fine_tune(
                name,
                setting.recordings.arrays[name],
                setting.recordings.labels if decided is None else decided.labels,
                groups,
                classes=setting.classes,
                steps=steps,
                seed=seed,
                report=report,
            )
            arrays |= {f"features_{name}": made.features, f"logits_{name}": made.logits}
        path.parent.mkdir(parents=True, exist_ok=True)
        # Two arms may get here at once; both make the same file, and a reader never sees half of one.
        with NamedTemporaryFile(dir=path.parent, delete=False) as file:
            np.savez(file, **arrays)
        Path(file.name).replace(path)
    with np.load(path, allow_pickle=False) as file:
        return {n: FrameFeatures(file[f"features_{n}"], file[f"logits_{n}"]) for n in MODALITIES}


def grey_frames(name: str, frames: npt.NDArray[Any]) -> Tensor:
    """One channel per frame, 0..255: luma, or relief in front of HAND_MM behind the nearest surface."""
    values = torch.from_numpy(frames.astype(np.float32))
    if name == "rgb":
        return values @ torch.tensor([0.299, 0.587, 0.114])
    nearest = values.masked_fill(values == 0, 65535.0).flatten(1).quantile(0.03, dim=1)[:, None, None]
    relief = 1.0 - (values - nearest) / HAND_MM
    return 255.0 * relief.clamp(0.0, 1.0) * (values > 0)


def hog_logits(setting: Setting) -> dict[str, Tensor]:
    """Logistic regression on histograms of oriented gradients: column -> (held-out rows, classes)."""
    arrays, labels = setting.recordings.arrays, setting.recordings.labels
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for name in MODALITIES:
        grey = (grey_frames(name, arrays[name][rows]) for rows in (setting.labelled, setting.held_out))
        known, rest = (oriented_gradients(g) for g in grey)
        found[name] = known, rest
    known, rest = (torch.cat([found[n][i] for n in MODALITIES], dim=1) for i in (0, 1))
    targets = torch.from_numpy(labels[setting.labelled])
    columns = {"RGB": found["rgb"], "depth": found["depth"], "both": (known, rest)}
    return {
        column: logistic_regression(x, targets, rest, setting.classes)
        for column, (x, rest) in columns.items()
    }


def logistic_regression(
    known: Tensor, labels: Tensor, rest: Tensor, classes: int, *, penalty: float = 0.5
) -> Tensor:
    """Fit by L-BFGS on ``known`` (N, D) and give logits (R, classes) of ``rest`` (R, D).

    Minimises the summed cross entropy plus ``penalty`` times the squared weights; the bias is free.
    """
    weight = torch.zeros(known.shape[1], classes, requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = (
            F.cross_entropy(known @ weight + bias, labels, reduction="sum") + penalty * weight.square().sum()
        )
        value.backward()
        return value

    optimizer.step(loss)
    with torch.no_grad():
        return rest @ weight + bias
