"""DSML's table 2: digits and their transposes, imputed from each other with 100, 1000 or all pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from trainers.configuration import ModelConfig
from trainers.data.array_sampler import ArraySampler, Group
from trainers.evaluation.imputation import normalized_error
from trainers.evaluation.oracle import Oracle, load_or_train_oracle
from trainers.modalities.images import apply_geometry, random_geometry
from trainers.papers.networks import GreyImageNetwork, ImageSpec
from trainers.papers.packs import Recordings, Rows, mnist
from trainers.papers.paired_set import PairedSet
from trainers.papers.protocol import Budget, Cell, Metrics, Protocol, Report
from trainers.papers.training import train_arm
from trainers.systems.dsml import Dsml, DsmlConfig

IMAGE, TRANSPOSE = "image", "transpose"
NAMES = (IMAGE, TRANSPOSE)
CLASSES = 10
PAIRS: Mapping[str, int | None] = {"100 pairs": 100, "1000 pairs": 1000, "all pairs": None}
MEASURED_BATCH = 1000
SHOWN = "imputed.npz"

NOTES = (
    "`imputed transpose`, `imputed image`: percent of test images that a classifier of measured images gives their "
    "label, imputed in that modality from the other alone; the paper prints one number per column and does not say "
    "which way. `oracle`: that classifier on measured test images.",
    "Pairs are labelled, class-balanced draws of their own in every seed; as in the paper, nothing else has a label. "
    "Half of the other training images is shown as images, the other half as transposes, so that no image of theirs is "
    "in both; with all pairs there are none. 5000 training images are kept for validation and never learned from.",
    "`decided`: percent of test digits that the fused classifiers name, from both, or from one modality. NMSE is the "
    "paper's root ratio. `follows another class`: percent of transposes drawn in a test digit's style, but as the next "
    "class, that the oracle gives that class.",
    "Beyond the paper's objective (their networks, steps and batches are in a supplement that is not available): "
    "classifiers also see distorted views, and on unlabelled rows take sure decisions as labels; imputation is also "
    "trained as a reconstruction.",
)


class DigitNetwork(GreyImageNetwork):
    """Convolutions to read a digit, two linear layers to draw it; distorted views are moved, turned and stretched.

    :meth:`augment` draws shear and scale apart for the two axes, by up to a fifth, shifts by up to two pixels and turns
    by up to 15 degrees.
    """

    def __init__(self, spec: ImageSpec, latent_size: int, hidden_size: int, channels: int) -> None:
        """Build the network.

        Args:
            spec: of (H, W) images, H and W multiples of 4.
            latent_size: size of the latent that the decoder takes.
            hidden_size: size of what the trunk returns.
            channels: of the first convolution; the second has twice as many.
        """
        super().__init__(spec, latent_size, hidden_size, body="mlp")
        height, width = spec.sample_shape
        reduced = 2 * channels * (height // 4) * (width // 4)
        self.encoder = nn.Sequential(
            nn.Conv2d(1, channels, 4, stride=2, padding=1), nn.LeakyReLU(0.1),
            nn.Conv2d(channels, 2 * channels, 4, stride=2, padding=1), nn.LeakyReLU(0.1),
            nn.Flatten(), nn.Linear(reduced, hidden_size), nn.ReLU(),
        )  # fmt: skip
        drawn = 400
        self.decoder = nn.Sequential(
            nn.Linear(latent_size, drawn), nn.ReLU(), nn.Linear(drawn, drawn), nn.ReLU(),
            nn.Linear(drawn, height * width),
        )  # fmt: skip

    def augment(self, window: Tensor, generator: torch.Generator) -> Tensor:
        """(B, H, W) 0..255, each row distorted in its own way."""
        geometry = random_geometry(window, generator, shift=0.15, scale=0.15, turn=0.26)
        drawn = torch.rand((len(window), 2, 2), generator=generator, device=generator.device).to(
            window.device
        )
        stretch = torch.eye(2, device=window.device) + 0.4 * (drawn - 0.5)
        geometry = torch.cat((geometry[:, :, :2] @ stretch, geometry[:, :, 2:]), dim=2)
        return apply_geometry(window.unsqueeze(1), geometry, "bilinear").squeeze(1).clamp(0.0, 255.0)


@dataclass(frozen=True)
class Setting:
    """Training settings of an arm at a budget.

    Attributes:
        steps: of the discriminators and of the rest, each.
        images: training images that are used; None: all.
        tested: test images that are measured; None: all.
        oracle_steps: of the judging classifier.
        batch: rows of a batch with all pairs; else (pairs, images alone, transposes alone).
        schedule: of learning rates.
        learning_rate: of generators, encoders and classifiers.
        adversary_learning_rate: of discriminators.
        average: decay of the averaged weights.
        hidden_size: of trunks.
        channels: of the first convolution.
    """

    steps: int
    images: int | None
    tested: int | None
    oracle_steps: int
    batch: tuple[int, int, int]
    schedule: Literal["cosine", "constant"]
    learning_rate: float
    adversary_learning_rate: float
    average: float
    hidden_size: int
    channels: int


SETTINGS: Mapping[Budget, Setting] = {
    "smoke": Setting(6, 2000, 200, 20, (8, 8, 8), "constant", 1e-3, 1e-3, 0.9, 32, 4),
    "small": Setting(1800, None, None, 1200, (24, 24, 24), "cosine", 2e-3, 1e-3, 0.99, 128, 16),
    "full": Setting(100_000, None, None, 6000, (64, 64, 64), "cosine", 5e-4, 2e-4, 0.999, 256, 32),
}

SYSTEM: Mapping[str, Any] = {
    "latent_size": 32,
    "discriminator_size": 128,
    "style_game": 0.1,
    "class_game": 0.1,
    "joint_game": 0.1,
    "classification": 1.0,
    "generated_classification": 1.0,
    "style_matching": 0.1,
    "reconstruction": 0.01,
    "pseudo_labels": 1.0,
}


class MnistTranspose(Protocol):
    """Three numbers of pairs."""

    name = "mnist-transpose"
    title = "digits and their transposes, imputed from each other"
    reference = "DSML, table 2"
    published = {  # noqa: RUF012
        "DSML, 100 pairs": {"imputed transpose": 98.67},
        "DSML, 1000 pairs": {"imputed transpose": 99.02},
        "DSML, all pairs": {"imputed transpose": 99.23},
        "Δ-GAN, 100 pairs": {"imputed transpose": 83.20},
        "Δ-GAN, 1000 pairs": {"imputed transpose": 88.98},
        "Δ-GAN, all pairs": {"imputed transpose": 93.34},
        "Triple GAN, 100 pairs": {"imputed transpose": 63.79},
        "Triple GAN, 1000 pairs": {"imputed transpose": 84.93},
        "Triple GAN, all pairs": {"imputed transpose": 86.70},
    }
    notes = NOTES

    def arms(self, budget: Budget) -> tuple[str, ...]:
        """Numbers of pairs."""
        return tuple(PAIRS)

    def run(self, arm: str, seed: int, budget: Budget, data: Path, folder: Path, report: Report) -> Metrics:
        """Train with the arm's number of pairs, then impute all test digits both ways."""
        digits, setting = mnist(data), SETTINGS[budget]
        system = train_system(PAIRS[arm], seed, setting, digits, folder, report)
        oracle = load_or_train_oracle(
            folder.parents[1] / "oracle",
            digits.images[digits.train[: setting.images]],
            digits.labels[digits.train[: setting.images]],
            CLASSES,
            seed=0,
            steps=setting.oracle_steps,
            progress=lambda step, _: report("oracle", step, setting.oracle_steps),
        )
        report("measure", 0, 1)
        rows = digits.test[: setting.tested]
        _keep_pictures(system, digits, folder / SHOWN)
        return measure(system, oracle, digits, rows)

    def figures(self, cells: Sequence[Cell], folder: Path) -> list[Path]:
        """The paper's figure 3: digits of every class, their transposes and what was imputed, per number of pairs."""
        first = min(cell.seed for cell in cells)
        kept = {
            c.arm: folder / "cells" / c.arm.replace(" ", "-") / str(c.seed) / SHOWN
            for c in cells
            if c.seed == first
        }
        found = {arm: dict(np.load(path)) for arm, path in kept.items() if path.exists()}
        return [_draw(found, folder / "imputed.png")] if found else []


def make_config(seed: int, setting: Setting, system: Mapping[str, Any] = SYSTEM) -> ModelConfig:
    """The training run of an arm."""
    return ModelConfig(
        version=1,
        name="mnist-transpose",
        modalities={n: {"window": 1, "hop": 1, "hidden_size": setting.hidden_size} for n in NAMES},
        system=DsmlConfig(**system),
        phases={
            "adversarial": {
                "steps": setting.steps,
                "learning_rate": setting.learning_rate,
                "adversary_learning_rate": setting.adversary_learning_rate,
            }
        },
        batch_size=max(2, sum(setting.batch)),
        optimizer={
            "name": "adam",
            "betas": (0.5, 0.999),
            "weight_decay": 0.0,
            "schedule": setting.schedule,
            "average": setting.average,
            "clip_norm": 10.0,
        },
        augment=False,
        seed=seed,
    )


def make_pairs(
    digits: Recordings, rows: Rows, pairs: int | None, seed: int
) -> tuple[PairedSet, tuple[Rows, ...]]:
    """Training rows: some are labelled pairs, the others a single modality without a label.

    Args:
        digits: all of MNIST.
        rows: training rows.
        pairs: their number, as many of every class as can be; None: all.
        seed: of the draw.

    Returns:
        The set, and its rows by what they have: pairs, images alone, transposes alone.
    """
    images, labels = digits.images[rows], digits.labels[rows]
    every = np.arange(len(rows), dtype=np.int64)
    complete = PairedSet.complete({IMAGE: images, TRANSPOSE: images.transpose(0, 2, 1)}, labels)
    if pairs is None:
        return complete, (every,)
    rng = np.random.default_rng([0x5452414E, seed])
    order = rng.permutation(len(rows))
    # The first of every class, then the second of every class, and so on.
    place = np.zeros(len(rows), np.int64)
    for label in range(CLASSES):
        of_class = order[labels[order] == label]
        place[of_class] = np.arange(len(of_class))
    chosen = order[np.argsort(place[order], kind="stable")[:pairs]]
    others = rng.permutation(np.setdiff1d(every, chosen))
    alone = others[: len(others) // 2], others[len(others) // 2 :]
    lacking = complete.without_labels(others).without(TRANSPOSE, alone[0]).without(IMAGE, alone[1])
    return lacking, (np.sort(chosen), *alone)


def make_sampler(pairs: PairedSet, rows: tuple[Rows, ...], setting: Setting, seed: int) -> ArraySampler:
    """Batches with a fixed number of rows of every kind; if there are only pairs, all rows are pairs."""
    counts = setting.batch if len(rows) > 1 else (sum(setting.batch),)
    groups: list[Group] = list(zip(rows, counts, strict=True))
    return ArraySampler(pairs, groups, seed)


def make_system(config: ModelConfig, setting: Setting) -> Dsml:
    """An untrained system with the configuration's seed."""
    settings = cast(DsmlConfig, config.system)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        networks = {
            n: DigitNetwork(
                ImageSpec(n, (28, 28)),
                settings.decoder_size(n, CLASSES),
                setting.hidden_size,
                setting.channels,
            )
            for n in NAMES
        }
        return Dsml(networks, CLASSES, settings)


def train_system(
    pairs: int | None,
    seed: int,
    setting: Setting,
    digits: Recordings,
    folder: Path,
    report: Report | None = None,
) -> Dsml:
    """Train one arm; continues from a checkpoint in ``folder``."""
    config = make_config(seed, setting)
    given, rows = make_pairs(digits, digits.train[: setting.images], pairs, seed)
    system = make_system(config, setting)
    for name in NAMES:
        network, some = system.network(name), np.flatnonzero(given.presence[:, NAMES.index(name)])[:1000]
        network.start_from(torch.from_numpy(given.arrays[name][some].astype(np.float32)))
    sampler = make_sampler(given, rows, setting, seed)
    return cast(Dsml, train_arm(system, sampler, (), config, folder, report))


def measure(system: Dsml, oracle: Oracle, digits: Recordings, rows: Rows) -> Metrics:
    """Imputation both ways and decisions from both modalities and each, on some rows."""
    images, labels = digits.images[rows], digits.labels[rows]
    windows = {IMAGE: images, TRANSPOSE: images.transpose(0, 2, 1)}
    metrics: Metrics = {}
    for missing, given in ((TRANSPOSE, IMAGE), (IMAGE, TRANSPOSE)):
        imputed, decided = impute(system, windows, (given,), missing)
        upright = imputed.transpose(0, 2, 1) if missing == TRANSPOSE else imputed
        metrics[f"imputed {missing}"] = 100 * oracle.accuracy(upright / np.float32(255.0), labels)
        metrics[f"NMSE of {missing}"] = normalized_error(windows[missing].astype(np.float32), imputed)
        metrics[f"decided from {given}"] = 100 * float((decided == labels).mean())
    metrics["decided from both"] = 100 * float((impute(system, windows, NAMES, IMAGE)[1] == labels).mean())
    metrics["follows another class"] = 100 * _steered(system, oracle, images, labels)
    metrics["oracle"] = 100 * oracle.accuracy(images, labels)
    order = sorted(metrics, key=lambda n: (not n.startswith("imputed"), not n.startswith("decided")))
    return {name: metrics[name] for name in order}


@torch.no_grad()
def impute(
    system: Dsml, windows: Mapping[str, npt.NDArray[Any]], given: Sequence[str], wanted: str
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """One modality decoded (N, 28, 28) 0..255 and the class decided (N,), from some modalities alone."""
    device = next(system.parameters()).device
    images, decided = [], []
    count = len(windows[given[0]])
    for begin in range(0, count, MEASURED_BATCH):
        part = slice(begin, begin + MEASURED_BATCH)
        shown = {
            n: torch.from_numpy(windows[n][part].astype(np.float32)).to(device) * float(n in given)
            for n in system.names
        }
        presence = torch.tensor([[float(n in given) for n in system.names]], device=device)
        evidence = {n: system.encode(n, w) for n, w in shown.items()}
        fused = system.fuse(evidence, presence.expand(len(shown[wanted]), -1))
        images.append(system.decode(wanted, fused.latents[wanted]).cpu().numpy())
        decided.append(fused.logits.argmax(dim=1).cpu().numpy())
    return np.concatenate(images), np.concatenate(decided)


@torch.no_grad()
def _steered(system: Dsml, oracle: Oracle, images: npt.NDArray[Any], labels: npt.NDArray[np.int64]) -> float:
    """Share of transposes drawn in a digit's style, but as the next class, that the oracle gives that class."""
    device = next(system.parameters()).device
    wanted = (labels + 1) % CLASSES
    drawn = []
    for begin in range(0, len(images), MEASURED_BATCH):
        part = slice(begin, begin + MEASURED_BATCH)
        evidence = system.encode(IMAGE, torch.from_numpy(images[part].astype(np.float32)).to(device))
        shown = torch.from_numpy(np.eye(CLASSES, dtype=np.float32)[wanted[part]]).to(device)
        latent = torch.cat((shown, evidence[:, CLASSES:]), dim=1)
        drawn.append(system.decode(TRANSPOSE, latent).cpu().numpy())
    return oracle.accuracy(np.concatenate(drawn).transpose(0, 2, 1) / np.float32(255.0), wanted)


def _keep_pictures(system: Dsml, digits: Recordings, path: Path) -> None:
    rows = np.array([digits.test[np.flatnonzero(digits.labels[digits.test] == c)[0]] for c in range(CLASSES)])
    images = digits.images[rows]
    windows = {IMAGE: images, TRANSPOSE: images.transpose(0, 2, 1)}
    there, back = (
        impute(system, windows, (IMAGE,), TRANSPOSE)[0],
        impute(system, windows, (TRANSPOSE,), IMAGE)[0],
    )
    np.savez_compressed(
        path, image=images, transpose=windows[TRANSPOSE], imputed_transpose=there, imputed_image=back
    )


def _draw(found: Mapping[str, Mapping[str, npt.NDArray[Any]]], path: Path) -> Path:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    some = next(iter(found.values()))
    rows = [("image", some["image"]), ("transpose", some["transpose"])]
    rows += [(f"transpose, {arm}", kept["imputed_transpose"]) for arm, kept in found.items()]
    rows += [(f"image, {arm}", kept["imputed_image"]) for arm, kept in found.items()]
    figure, axes = pyplot.subplots(len(rows), 1, figsize=(6.5, 0.55 * len(rows)), layout="constrained")
    for axis, (title, images) in zip(axes, rows, strict=True):
        axis.imshow(np.concatenate(list(images), axis=1), cmap="gray", vmin=0, vmax=255)
        axis.set_xticks([])
        axis.set_yticks([])
        axis.set_ylabel(title, rotation=0, ha="right", va="center", fontsize=7)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return path
