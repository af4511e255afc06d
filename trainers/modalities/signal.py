"""Signals: any multichannel time series (IMU, EMG, joints, force, tactile), any unit, offsets kept."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainers.modalities.images import uniform
from trainers.modalities.network import ModalityNetwork, WindowSpec

STEP_S = 0.1
"""A window is summed up in steps of about this length: what changes faster is told by its size alone."""
MOST_STEPS = 32
FEWEST_STEPS = 4
SMALLEST_BLOCK = 4.0
"""With fewer samples in a step there is nothing in it that changes faster: the level says it all."""
FLOOR = 0.01
"""Added to sizes before the logarithm, in standard deviations of the channel."""


def signal_steps(samples: int, rate_hz: float) -> int:
    """Into how many steps a window is summed up."""
    return min(max(round(samples / rate_hz / STEP_S), FEWEST_STEPS), MOST_STEPS, samples)


def averaging_matrix(samples: int, steps: int) -> Tensor:
    """(steps, samples): the mean over each of so many equal stretches of a window; samples on an edge are shared."""
    edges = torch.linspace(0, samples, steps + 1, dtype=torch.float64)
    first = torch.arange(samples, dtype=torch.float64)
    overlap = torch.minimum(edges[1:, None], first + 1) - torch.maximum(edges[:-1, None], first)
    overlap = overlap.clamp_min(0.0)
    return (overlap / overlap.sum(1, keepdim=True)).float()


class SignalNetwork(ModalityNetwork):
    """A window of samples in; its level and the size of its fluctuations, step by step, out.

    Every channel is standardised by constants of the training data, so an offset (gravity is one) is kept. Model
    units are the standardised mean of every step and, where a step holds enough samples, the log of how much its
    samples deviate from the step's level: (1 or 2, C, K). What oscillates faster than a step cannot be foretold sample
    by sample from another sensor, but how strongly it does can: for EMG that is the envelope. :meth:`to_observation`
    makes a waveform of both, with fixed noise for the fluctuations.
    """

    def __init__(self, spec: WindowSpec, latent_size: int, hidden_size: int = 128) -> None:
        super().__init__(spec, latent_size, hidden_size)
        shape = tuple(spec.sample_shape)
        if len(shape) != 1 or shape[0] < 1 or spec.window < FEWEST_STEPS:
            raise ValueError(
                f"modality {spec.name!r} (signal): expected samples of shape (channels,) and a window of "
                f"{FEWEST_STEPS} samples or more, got sample_shape {shape}, window {spec.window}"
            )
        channels, samples = shape[0], spec.window
        steps = signal_steps(samples, spec.rate_hz)
        self.fluctuates = samples / steps >= SMALLEST_BLOCK
        parts = 2 if self.fluctuates else 1
        self.window_shape = self.observation_shape = (samples, channels)
        self.target_shape = (parts, channels, steps)
        self.register_buffer("target_mean", torch.zeros(self.target_shape))
        self.observation_unit = "as delivered"
        self.noise_scale = 0.5
        self.effective_size = 60.0
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("scale", torch.ones(channels))
        averaging = averaging_matrix(samples, steps)
        self.register_buffer("averaging", averaging, persistent=False)
        self.register_buffer("stretching", self._stretching(averaging), persistent=False)
        self.register_buffer("noise", self._noise(averaging, channels), persistent=False)
        width = parts * channels
        self.encoder = nn.Sequential(
            nn.Conv1d(width, 96, 3, padding=1, bias=False),
            nn.BatchNorm1d(96),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Conv1d(96, 64, 3, padding=1, bias=False),
            nn.BatchNorm1d(64),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(64 * steps, hidden_size),
            nn.ReLU(),
        )
        self.decoder = nn.Sequential(
            nn.Linear(latent_size, 128),
            nn.ReLU(),
            nn.Linear(128, 256),
            nn.ReLU(),
            nn.Linear(256, width * steps),
            nn.Unflatten(1, self.target_shape),
        )

    @staticmethod
    def _stretching(averaging: Tensor) -> Tensor:
        """(samples, steps): each step's value at its samples."""
        return (averaging / averaging.amax(1, keepdim=True)).T / (
            averaging / averaging.amax(1, keepdim=True)
        ).sum(0)[:, None]

    @staticmethod
    def _noise(averaging: Tensor, channels: int) -> Tensor:
        """(samples, channels): noise of mean 0 and size 1 in every step, drawn once and for all."""
        drawn = torch.randn(averaging.shape[1], channels, generator=torch.Generator().manual_seed(0))
        within = (averaging > 0).float()
        # A sample on an edge belongs to the step that has more of it.
        owner = torch.nn.functional.one_hot((averaging * within).argmax(0), len(averaging)).T.float()
        counts = owner.sum(1, keepdim=True).clamp_min(1.0)
        centred = drawn - owner.T @ (owner @ drawn / counts)
        size = (owner.T @ (owner @ centred.square() / counts)).sqrt().clamp_min(1e-3)
        return centred / size

    @torch.no_grad()
    def start_from(self, windows: Tensor) -> None:
        """Take each channel's mean and spread, and the mean target, from training windows (N, T, C)."""
        flat = windows.reshape(-1, windows.shape[-1])
        self.mean.copy_(flat.mean(0))
        spread = flat.std(0)
        # A channel that never moved keeps its unit: dividing by nothing would make noise of its first change.
        self.scale.copy_(
            torch.where(spread > 1e-6 * (1 + flat.abs().amax(0)), spread, torch.ones_like(spread))
        )
        super().start_from(windows)

    def features(self, window: Tensor) -> Tensor:
        """(B, T, C) raw -> (B, parts * C, K): means and log sizes of every step, as :meth:`target`."""
        return self.target(window).flatten(1, 2)

    def trunk(self, window: Tensor) -> Tensor:
        """(B, T, C) raw -> (B, hidden_size)."""
        return self.encoder(self.features(window))

    def trunk_of_target(self, target: Tensor) -> Tensor:
        """(B, parts, C, K) model units -> (B, hidden_size)."""
        return self.encoder(target.flatten(1, 2))

    def target(self, window: Tensor) -> Tensor:
        """(B, T, C) raw -> (B, parts, C, K): standardised means, and ln of the spread within each step."""
        standard = (window - self.mean) / self.scale
        means = torch.matmul(self.averaging, standard)
        if not self.fluctuates:
            return means.transpose(1, 2).unsqueeze(1)
        rest = standard - torch.matmul(self.stretching, means)
        spread = torch.matmul(self.averaging, rest.square())
        logarithm = 0.5 * torch.log(spread + FLOOR**2)
        return torch.stack([means.transpose(1, 2), logarithm.transpose(1, 2)], 1)

    def deviation(self, latent: Tensor) -> Tensor:
        """(B, latent_size) -> (B, parts, C, K) in model units."""
        return self.decoder(latent)

    def to_observation(self, decoded: Tensor) -> Tensor:
        """(B, parts, C, K) model units -> (B, T, C) in the sensor's unit."""
        level = torch.matmul(self.stretching, decoded[:, 0].transpose(1, 2))
        if self.fluctuates:
            size = torch.exp(decoded[:, 1].clamp(-6.0, 4.0)).transpose(1, 2)
            level = level + torch.matmul(self.stretching, size) * self.noise
        return level * self.scale + self.mean

    def observe(self, window: Tensor) -> Tensor:
        """(B, T, C) raw -> the same: a measured window is its own observation."""
        return window

    def augment(self, window: Tensor, generator: torch.Generator) -> Tensor:
        """A little gain, offset, delay and noise, and now and then a channel that says nothing."""
        channels = window.shape[2]
        standard = (window - self.mean) / self.scale
        gain = torch.exp(
            uniform(generator, window, -0.1, 0.1, 1, 1) + uniform(generator, window, -0.1, 0.1, 1, channels)
        )
        offset = uniform(generator, window, -0.1, 0.1, 1, channels)
        # Delay by a share of a step: a window is cut wherever it falls.
        shift = int(uniform(generator, window[:1], -1.0, 1.0, 1).item() * self.window_shape[0] * 0.06)
        moved = torch.roll(standard, shift, 1)
        if shift > 0:
            moved[:, :shift] = standard[:, :1]
        elif shift < 0:
            moved[:, shift:] = standard[:, -1:]
        kept = (uniform(generator, window, 0.0, 1.0, 1, channels) > 0.05).to(window.dtype)
        drawn = torch.randn(window.shape, generator=generator, device=generator.device).to(window.device)
        noise = drawn * uniform(generator, window, 0.0, 0.1, 1, 1)
        return ((moved * gain + offset) * kept + noise) * self.scale + self.mean
