"""Spoken digits as a modality of the papers' protocols: mel spectra worked out once instead of at every step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainers.modalities.audio import AudioNetwork
from trainers.modalities.images import uniform
from trainers.papers.packs import Recordings, spoken_digits

RATE_HZ = 8000.0
SAMPLES = 8000


@dataclass(frozen=True)
class SpeechSpec:
    """One second of speech at 8 kHz as a modality."""

    name: str = "speech"
    kind: str = "speech"
    sample_shape: tuple[int, ...] = ()
    rate_hz: float = RATE_HZ
    window: int = SAMPLES


class SpeechSpectrumNetwork(AudioNetwork):
    """As :class:`AudioNetwork`, for windows that are its energy-centred mel spectra already: (40, 51) in dB.

    The paper works on MFCC of 40 coefficients and 101 frames; MFCC is an orthonormal change of basis of these
    spectra, whose frames are 20 ms apart. Encoder and decoder are two linear layers each, half of the encoder's first
    one without a nonlinearity: with as few recordings as the protocol has, and as few steps, the latent then keeps
    more of the class than with convolutions (93 % against 73 % for a linear probe on validation).
    """

    def __init__(self, spec: SpeechSpec, latent_size: int, hidden_size: int = 256) -> None:
        super().__init__(spec, latent_size, hidden_size)
        self.window_shape = self.target_shape
        self.effective_size = 1000.0
        values = math.prod(self.target_shape)
        straight = hidden_size // 2
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(values, hidden_size - straight), nn.ReLU())
        self.straight = nn.Sequential(nn.Flatten(), nn.Linear(values, straight))
        self.seed = nn.Sequential(nn.Linear(latent_size, hidden_size), nn.ReLU())
        self.decoder = nn.Sequential(nn.Linear(hidden_size, values), nn.Unflatten(1, self.target_shape))

    def centred_spectrum(self, window: Tensor) -> Tensor:
        """The window itself, which is such a spectrum already."""
        return window

    def trunk(self, window: Tensor) -> Tensor:
        """(B, 40, 51) dB -> (B, hidden_size)."""
        features = self.features(window)
        return torch.cat([self.encoder(features), self.straight(features)], dim=1)

    def deviation(self, latent: Tensor) -> Tensor:
        """(B, latent_size) -> (B, 40, 51) in model units."""
        found: Tensor = self.decoder(self.seed(latent))
        return found

    def augment(self, window: Tensor, generator: torch.Generator) -> Tensor:
        """Other speeds and pitches, another colour of the channel, another level, a little noise."""
        turn = torch.zeros(len(window), 2, 3, device=window.device)
        turn[:, 0, 0] = uniform(generator, window, 0.85, 1.15)
        turn[:, 0, 2] = uniform(generator, window, -0.06, 0.06)
        turn[:, 1, 1] = uniform(generator, window, 0.93, 1.07)
        turn[:, 1, 2] = uniform(generator, window, -0.06, 0.06)
        image = window.unsqueeze(1)
        grid = F.affine_grid(turn, list(image.shape), align_corners=False)
        moved = F.grid_sample(image, grid, padding_mode="border", align_corners=False).squeeze(1)
        bands = torch.linspace(-1.0, 1.0, window.shape[1], device=window.device).view(1, -1, 1)
        tilt = uniform(generator, window, -6.0, 6.0, 1, 1) * bands
        level = uniform(generator, window, -6.0, 6.0, 1, 1)
        noise = torch.randn(window.shape, generator=generator, device=generator.device).to(window.device)
        return moved + tilt + level + 2.0 * noise


def speech_spectra(data: Path) -> Recordings:
    """The spoken digits as mel spectra, ``speech`` (3000, 40, 51) float32 in dB, rolled until energy is centred.

    Raises:
        PackError: the pack is missing or broken.
    """
    pack = spoken_digits(data)
    return Recordings({"speech": _spectra(pack.images)}, pack.labels, pack.train, pack.validation, pack.test)


@torch.no_grad()
def _spectra(waves: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    network = AudioNetwork(SpeechSpec(), latent_size=1, hidden_size=1).eval()
    parts = [
        network.centred_spectrum(torch.from_numpy(waves[begin : begin + 250].astype(np.float32)))
        for begin in range(0, len(waves), 250)
    ]
    found: npt.NDArray[np.float32] = torch.cat(parts).numpy()
    return found
