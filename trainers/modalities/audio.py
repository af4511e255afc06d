"""Audio: a window of int16 PCM with one word in it."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainers.modalities.images import normal_strips, uniform
from trainers.modalities.mel_cepstrum import BANDS, HOP, MelSpectrum, centre_energy, circular_cosine
from trainers.modalities.network import ModalityNetwork, WindowSpec

FULL_SCALE = 32768.0
LEVEL_DB = -10.0
SPREAD_DB = 20.0


class AudioNetwork(ModalityNetwork):
    """A window of sound in, an energy-centred MFCC out.

    The mel spectrum is rolled until its energy is centred: where the word lies in the window cannot be
    foretold from other sensors, and with it taken out the encoder sees the same word at every hop. Model
    units are the rolled mel spectrum, ``(dB + 10) / 20``; MFCC is its DCT, an orthonormal change of basis,
    so squared errors in model units and in MFCC agree up to the factor 20^2.
    """

    def __init__(self, spec: WindowSpec, latent_size: int, hidden_size: int = 128) -> None:
        super().__init__(spec, latent_size, hidden_size)
        if (
            tuple(spec.sample_shape) != ()
            or spec.window % HOP
            or spec.window < 16 * HOP
            or spec.rate_hz < 8000
        ):
            raise ValueError(
                f"modality {spec.name!r} (audio): expected scalar samples at 8000 Hz or more and a window that is a "
                f"multiple of {HOP} and at least {16 * HOP}, got sample_shape {tuple(spec.sample_shape)}, "
                f"rate {spec.rate_hz} Hz, window {spec.window}"
            )
        frames = 1 + spec.window // HOP
        self.window_shape = (spec.window,)
        self.target_shape = self.observation_shape = (BANDS, frames)
        self.register_buffer("target_mean", torch.zeros(self.target_shape))
        self.observation_unit = "MFCC"
        self.noise_scale = 0.3
        self.effective_size = 100.0
        self.mel = MelSpectrum(spec.rate_hz)
        self.register_buffer("circle", circular_cosine(frames - 1), persistent=False)
        widths = (64, 96, 128)
        stages: list[nn.Module] = []
        for before, after in pairwise((BANDS, *widths)):
            stages += [
                nn.Conv1d(before, after, 5, stride=2, padding=2, bias=False),
                nn.BatchNorm1d(after),
                nn.ReLU(),
            ]
        columns = -(-frames // 8)
        self.encoder = nn.Sequential(
            *stages, nn.Flatten(), nn.Dropout(0.3), nn.Linear(widths[-1] * columns, hidden_size), nn.ReLU()
        )
        self.seed_shape = (96, columns)
        self.seed = nn.Sequential(nn.Linear(latent_size, 96 * columns), nn.ReLU())
        self.decoder = nn.Sequential(
            nn.ConvTranspose1d(96, 80, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose1d(80, 64, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose1d(64, BANDS, 4, stride=2, padding=1),
        )

    def centred_spectrum(self, window: Tensor) -> Tensor:
        """Raw PCM (B, samples) -> rolled mel spectrum in dB (B, 40, frames)."""
        return centre_energy(self.mel(window / FULL_SCALE), self.circle)

    def features(self, window: Tensor) -> Tensor:
        """(B, samples) PCM -> (B, 40, frames): rolled mel spectrum, mean 0 and spread 1 in each window."""
        return self._standardised(self.centred_spectrum(window))

    @staticmethod
    def _standardised(decibel: Tensor) -> Tensor:
        centred = decibel - decibel.mean((1, 2), keepdim=True)
        spread = centred.square().mean((1, 2), keepdim=True)
        return centred * torch.rsqrt(spread + 1.0)

    def trunk(self, window: Tensor) -> Tensor:
        """(B, samples) PCM -> (B, hidden_size)."""
        return self.encoder(self.features(window))

    def trunk_of_target(self, target: Tensor) -> Tensor:
        """(B, 40, frames) model units -> (B, hidden_size): the sound itself is not needed, only its spectrum."""
        return self.encoder(self._standardised(target * SPREAD_DB + LEVEL_DB))

    def target(self, window: Tensor) -> Tensor:
        """(B, samples) PCM -> (B, 40, frames): rolled mel spectrum, ``(dB + 10) / 20``."""
        return (self.centred_spectrum(window) - LEVEL_DB) / SPREAD_DB

    def deviation(self, latent: Tensor) -> Tensor:
        """(B, latent_size) -> (B, 40, frames) in model units."""
        return self.decoder(self.seed(latent).unflatten(1, self.seed_shape))[:, :, : self.target_shape[1]]

    def to_observation(self, decoded: Tensor) -> Tensor:
        """(B, 40, frames) model units -> MFCC (B, 40, frames)."""
        return self.mel.cepstrum(decoded * SPREAD_DB + LEVEL_DB)

    def augment(self, window: Tensor, generator: torch.Generator) -> Tensor:
        """Speed and pitch, place in the window, colour of the channel, level, a gap, and noise."""
        samples = window.shape[1]
        # One reading position per sample: faster or slower about the middle, mirrored at the edges, then
        # rolled.
        speed = torch.exp(uniform(generator, window, -0.15, 0.15, 1))
        place = torch.arange(samples, device=window.device)
        shift = uniform(generator, window, 0.0, samples, 1).long()
        middle = (samples - 1) / 2.0
        read = (torch.remainder(place + shift, samples) - middle) * speed + middle
        read = (samples - 1) - (torch.remainder(read, 2 * (samples - 1)) - (samples - 1)).abs()
        before = read.floor().long().clamp(0, samples - 2)
        wave = torch.lerp(window.gather(1, before), window.gather(1, before + 1), read - before)
        # Colour: a random filter of nine taps, one per row.
        taps = 0.15 * torch.randn((len(window), 1, 9), generator=generator, device=generator.device)
        taps[:, :, 4] += 1.0
        wave = F.conv1d(wave.unsqueeze(0), taps.to(window.device), padding=4, groups=len(window)).squeeze(0)
        wave = wave * torch.pow(10.0, uniform(generator, window, -10.0, 10.0, 1) / 20.0)
        loudness = wave.square().mean(1, keepdim=True).sqrt()
        start, length = uniform(generator, window, 0.0, 1.0, 1), uniform(generator, window, 0.0, 0.1, 1)
        wave = wave * ((place < start * samples) | (place > (start + length) * samples)).to(wave.dtype)
        noise = normal_strips(generator, window, samples)
        signal_to_noise = uniform(generator, window, 5.0, 45.0, 1)
        wave = wave + noise * loudness * torch.pow(10.0, -signal_to_noise / 20.0)
        return wave.clamp(-FULL_SCALE, FULL_SCALE - 1.0)
