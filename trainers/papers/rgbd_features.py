"""Features of RGB and depth frames as modalities: from networks fine-tuned on the few labelled frames, then frozen.

SS-HMVAE's inputs are features of VGG16 networks, one per modality, pre-trained on photographs and fine-tuned on the
labelled part alone. No pre-trained weights come with this package, so the networks are its own trunks, trained on the
labelled part with the distortions of :meth:`~trainers.modalities.network.ModalityNetwork.augment`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainers.modalities.build import build_modality
from trainers.modalities.network import ModalityNetwork, WindowSpec
from trainers.papers.networks import ImageSpec
from trainers.papers.protocol import Report

FEATURES = 128
"""Size of a trunk's features of one frame."""
PICTURE = 16
"""Side of the pictures that decoders give, a quarter of a frame's."""
BATCH = 48
LEARNING_RATE = 3e-3


@dataclass(frozen=True)
class FrameFeatures:
    """Outputs of a fine-tuned network for the frames of one modality.

    Attributes:
        features: (N, FEATURES) float32.
        logits: (N, classes) float32, of the classifier that was fine-tuned with it.
    """

    features: npt.NDArray[np.float32]
    logits: npt.NDArray[np.float32]


def fine_tune(
    name: str,
    frames: npt.NDArray[Any],
    labels: npt.NDArray[np.int64],
    groups: Sequence[npt.NDArray[np.int64]],
    *,
    classes: int,
    steps: int,
    seed: int,
    report: Report,
) -> FrameFeatures:
    """Train a trunk and a linear classifier on some labelled frames; returns the features of all frames.

    Args:
        name: rgb or depth.
        frames: (N, 64, 64, 3) uint8 or (N, 64, 64) uint16 millimetres.
        labels: (N,); only those of ``groups`` are looked at.
        groups: rows to learn from; a batch takes as many of each group.
        classes: number of classes.
        steps: of AdamW.
        seed: of weights, batches, distortions and dropout.
        report: progress.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_modality(ImageSpec(name, frames.shape[1:], kind=name), 8, FEATURES)
        classifier = nn.Linear(FEATURES, classes)
        model = nn.ModuleList([network, classifier]).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
        generator = torch.Generator().manual_seed(seed)
        for step in range(steps):
            drawn = [
                rows[torch.randint(len(rows), (BATCH // len(groups),), generator=generator).numpy()]
                for rows in groups
            ]
            chosen = np.concatenate(drawn)
            windows = torch.from_numpy(frames[chosen].astype(np.float32))
            logits = classifier(F.dropout(network.trunk(network.augment(windows, generator)), 0.5))
            optimizer.zero_grad()
            F.cross_entropy(logits, torch.from_numpy(labels[chosen]), label_smoothing=0.1).backward()
            optimizer.step()
            schedule.step()
            report(f"fine-tune {name}", step + 1, steps)
    model.eval()
    with torch.no_grad():
        every = torch.cat([network.trunk(window) for window in _in_parts(frames)])
        return FrameFeatures(every.numpy(), classifier(every).numpy())


@torch.no_grad()
def pictures(name: str, frames: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Frames at a quarter of their size in model units, (N, C, PICTURE, PICTURE): 0..1 for RGB, ln metres for depth."""
    network = build_modality(ImageSpec(name, frames.shape[1:], kind=name), 8, FEATURES)
    small = [F.adaptive_avg_pool2d(network.target(window), PICTURE) for window in _in_parts(frames)]
    return torch.cat(small).numpy()


def _in_parts(frames: npt.NDArray[Any]) -> Iterator[Tensor]:
    for begin in range(0, len(frames), 200):
        yield torch.from_numpy(frames[begin : begin + 200].astype(np.float32))


class FeatureNetwork(ModalityNetwork):
    """A window holds features and the picture that they come from, flat; the trunk returns the features.

    The decoder is two linear layers. It gives the picture in the model units of the sensor (0..1 for RGB, ln metres for
    depth): nothing in the trunk learns, so p(h | a) of SS-HMVAE is then the paper's p(x | a), and pictures come on top.
    With ``whole`` it gives features and picture, one after the other: for systems that read what they generate.
    """

    def __init__(
        self,
        spec: WindowSpec,
        latent_size: int,
        hidden_size: int,
        *,
        channels: int,
        whole: bool = False,
        width: int = 256,
    ) -> None:
        """Build the network.

        Args:
            spec: with the window's shape.
            latent_size: of what the decoder takes.
            hidden_size: number of features.
            channels: C of the picture.
            whole: decode features too.
            width: of the decoder.
        """
        super().__init__(spec, latent_size, hidden_size)
        self.picture_shape = (channels, PICTURE, PICTURE)
        size = hidden_size + channels * PICTURE**2
        self.whole = whole
        self.window_shape = (size,)
        self.target_shape = self.observation_shape = (size,) if whole else self.picture_shape
        self.observation_unit = "features" if whole else "intensity" if channels == 3 else "ln m"
        self.noise_scale, self.effective_size = 0.1, 100.0
        self.register_buffer("target_mean", torch.zeros(self.target_shape))
        outputs = size if whole else size - hidden_size
        self.decoder = nn.Sequential(nn.Linear(latent_size, width), nn.ReLU(), nn.Linear(width, outputs))

    def features(self, window: Tensor) -> Tensor:
        """(B, hidden_size + pixels) -> (B, hidden_size)."""
        return window[:, : self.hidden_size]

    def trunk(self, window: Tensor) -> Tensor:
        """The features themselves, (B, hidden_size)."""
        return self.features(window)

    def trunk_of_target(self, target: Tensor) -> Tensor:
        """The features of something decoded; only with ``whole``."""
        return self.features(target) if self.whole else super().trunk_of_target(target)

    def picture(self, target: Tensor) -> Tensor:
        """The picture in a target or in something decoded, (B, C, S, S)."""
        return target[:, self.hidden_size :].reshape(-1, *self.picture_shape) if self.whole else target

    def target(self, window: Tensor) -> Tensor:
        """The picture, (B, C, S, S), or with ``whole`` the window."""
        return window if self.whole else window[:, self.hidden_size :].reshape(-1, *self.picture_shape)

    def deviation(self, latent: Tensor) -> Tensor:
        """(B, latent_size) -> (B, *target_shape)."""
        found: Tensor = self.decoder(latent)
        return found.view(-1, *self.target_shape)

    def to_observation(self, decoded: Tensor) -> Tensor:
        """Model units stay."""
        return decoded

    def augment(self, window: Tensor, generator: torch.Generator) -> Tensor:
        """Nothing: distortions came before the features."""
        return window
