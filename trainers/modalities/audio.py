"""Audio: a window of int16 PCM with one word in it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainers.modalities.images import uniform
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
        self.observation_unit = "MFCC"
        self.noise_scale = 0.3
        self.effective_size = 100.0
        self.mel = MelSpectrum(spec.rate_hz)
        self.register_buffer("circle", circular_cosine(frames), persistent=False)
        widths = (32, 48, 64)
        stages: list[nn.Module] = []
        before = 1
        for width in widths:
            stages += [
                nn.Conv2d(before, width, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            ]
            before = width
        self.encoder = nn.Sequential(*stages)
        rows, columns = BANDS // 8, -(-frames // 8)
        self.summary = nn.Sequential(nn.Linear(before * rows * columns, hidden_size), nn.ReLU())
        self.seed_shape = (48, rows, columns)
        self.seed = nn.Sequential(nn.Linear(latent_size, 48 * rows * columns), nn.ReLU())
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(48, 32, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(32, 16, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(16, 1, 4, stride=2, padding=1),
        )

    def _aligned(self, window: Tensor) -> Tensor:
        """Raw PCM (B, samples) -> rolled mel spectrum in dB (B, 40, frames)."""
        return centre_energy(self.mel(window / FULL_SCALE), self.circle)

    def features(self, window: Tensor) -> Tensor:
        """(B, samples) PCM -> (B, 1, 40, frames): rolled mel spectrum, mean 0 and spread 1 in each window."""
        decibel = self._aligned(window)
        centred = decibel - decibel.mean((1, 2), keepdim=True)
        spread = centred.square().mean((1, 2), keepdim=True)
        return (centred * torch.rsqrt(spread + 1.0)).unsqueeze(1)

    def trunk(self, window: Tensor) -> Tensor:
        """(B, samples) PCM -> (B, hidden_size)."""
        return self.summary(self.encoder(self.features(window)).flatten(1))

    def target(self, window: Tensor) -> Tensor:
        """(B, samples) PCM -> (B, 40, frames): rolled mel spectrum, ``(dB + 10) / 20``."""
        return (self._aligned(window) - LEVEL_DB) / SPREAD_DB

    def decode(self, latent: Tensor) -> Tensor:
        """(B, latent_size) -> (B, 40, frames) in model units."""
        image = self.decoder(self.seed(latent).unflatten(1, self.seed_shape))
        return image[:, 0, :, : self.target_shape[1]]

    def to_observation(self, decoded: Tensor) -> Tensor:
        """(B, 40, frames) model units -> MFCC (B, 40, frames)."""
        return self.mel.cepstrum(decoded * SPREAD_DB + LEVEL_DB)

    def augment(self, window: Tensor, generator: torch.Generator) -> Tensor:
        """Speed, place in the window, colour of the channel, level, and noise."""
        samples = window.shape[1]
        # Speed: read the word faster or slower about the window's middle; what lies outside repeats the edge.
        speed = torch.exp(uniform(generator, window, -0.15, 0.15, 1))
        line = torch.linspace(-1.0, 1.0, samples, device=window.device)
        grid = torch.stack([line * speed, torch.zeros_like(line * speed)], -1).unsqueeze(1)
        wave = F.grid_sample(
            window[:, None, None, :], grid, mode="bilinear", padding_mode="reflection", align_corners=True
        )[:, 0, 0]
        # Colour: a smooth random gain over frequency; place: a random circular shift, both in one transform.
        spectrum = torch.fft.rfft(wave)
        bins = spectrum.shape[1]
        knots = torch.randn((len(window), 1, 9), generator=generator, device=generator.device).to(
            window.device
        )
        colour = F.interpolate(knots * 3.0, size=bins, mode="linear", align_corners=True).squeeze(1)
        shift = uniform(generator, window, 0.0, 2.0 * torch.pi, 1) * torch.arange(bins, device=window.device)
        gain = torch.pow(10.0, (colour + uniform(generator, window, -8.0, 8.0, 1)) / 20.0)
        wave = torch.fft.irfft(spectrum * torch.polar(gain, shift), n=samples)
        loudness = wave.square().mean(1, keepdim=True).sqrt()
        noise = torch.randn(wave.shape, generator=generator, device=generator.device).to(window.device)
        signal_to_noise = uniform(generator, window, 5.0, 45.0, 1)
        wave = wave + noise * loudness * torch.pow(10.0, -signal_to_noise / 20.0)
        return wave.clamp(-FULL_SCALE, FULL_SCALE - 1.0)
