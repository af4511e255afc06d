"""The interface of a modality's network: preprocessing, an encoder trunk, a decoder and their units.

A system (SVAE, associators) is written against :class:`ModalityNetwork` alone; it adds its own heads on the
trunk and its own losses over latents. Everything between a raw window and an observation lives here, in one
graph, so that training and serving cannot disagree.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol

import torch
from torch import Tensor, nn

from trainers.modalities.likelihood import weighted_gaussian_nll


class WindowSpec(Protocol):
    """The facts that a network needs about its sensor; ``engines.bundle.ModalitySpec`` is one."""

    @property
    def name(self) -> str:
        """Unique name in the rig."""

    @property
    def kind(self) -> str:
        """rgb, depth, audio or eeg."""

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one sample."""

    @property
    def rate_hz(self) -> float:
        """Samples per second."""

    @property
    def window(self) -> int:
        """Samples in one window."""


class ModalityNetwork(nn.Module, ABC):
    """Preprocessing, encoder trunk and decoder of one modality.

    Windows are float32 tensors that hold the *raw* values of the wire (uint8, uint16 millimetres, int16 PCM,
    microvolts), batch first. "Model units" are what :meth:`decode` estimates and :meth:`target` measures:
    scaled so that values are of order one. "Observation" is the same in physical units, as a bundle
    publishes it.

    Every method but :meth:`augment` is deterministic given the module's mode, branches on nothing but
    shapes, and exports to ONNX with a dynamic batch axis.

    Attributes:
        spec: what the sensor delivers.
        latent_size: size L of the latent that :meth:`decode` takes.
        hidden_size: size of what :meth:`trunk` returns.
        window_shape: shape of one raw window.
        target_shape: shape of one target in model units.
        observation_shape: shape of one observation.
        observation_unit: unit of observations.
        noise_scale: standard deviation of the Gaussian likelihood, in model units.
        target_mean: (*target_shape) buffer, the mean target; zeros until :meth:`start_from`.
        effective_size: how many independent elements a target counts for in the likelihood, see
            :func:`~trainers.modalities.likelihood.weighted_gaussian_nll`.
    """

    window_shape: tuple[int, ...]
    target_shape: tuple[int, ...]
    observation_shape: tuple[int, ...]
    observation_unit: str
    noise_scale: float
    effective_size: float
    target_mean: Tensor

    def __init__(self, spec: WindowSpec, latent_size: int, hidden_size: int) -> None:
        super().__init__()
        if latent_size < 1 or hidden_size < 1:
            raise ValueError(
                f"modality {spec.name!r}: latent_size and hidden_size must be at least 1, "
                f"got {latent_size} and {hidden_size}"
            )
        self.spec = spec
        self.latent_size = latent_size
        self.hidden_size = hidden_size

    @abstractmethod
    def features(self, window: Tensor) -> Tensor:
        """Preprocess raw windows (B, *window_shape) into what the trunk's first layer takes."""

    @abstractmethod
    def trunk(self, window: Tensor) -> Tensor:
        """Encode raw windows (B, *window_shape) to (B, hidden_size), preprocessing included."""

    @abstractmethod
    def target(self, window: Tensor) -> Tensor:
        """The target of :meth:`decode` for raw windows: (B, *target_shape) in model units."""

    def trunk_of_target(self, target: Tensor) -> Tensor:
        """Encode what :meth:`decode` gives as if it had been measured: (B, *target_shape) -> (B, hidden_size).

        Systems that learn from what they generate read it this way, with gradients. Here: observations are windows.

        Raises:
            NotImplementedError: windows are not observations, and the network does not say how to read a target.
        """
        if self.window_shape != self.observation_shape:
            raise NotImplementedError(
                f"modality {self.spec.name!r}: a window has shape {self.window_shape} and an observation "
                f"{self.observation_shape}; {type(self).__name__} needs its own trunk_of_target"
            )
        return self.trunk(self.to_observation(target))

    def target_weight(self, window: Tensor) -> Tensor:
        """How far each element of the target was measured: (B, *target_shape) in 0..1; ones unless overridden."""
        return torch.ones((window.shape[0], *self.target_shape), dtype=window.dtype, device=window.device)

    def decode(self, latent: Tensor) -> Tensor:
        """Estimate the target from latents: (B, latent_size) -> (B, *target_shape) in model units."""
        return self.target_mean + self.deviation(latent)

    @abstractmethod
    def deviation(self, latent: Tensor) -> Tensor:
        """Estimated difference from the mean target: (B, latent_size) -> (B, *target_shape) in model units."""

    @torch.no_grad()
    def start_from(self, windows: Tensor) -> None:
        """Start decoding from the mean target of some training windows (N, *window_shape).

        Decoders then learn only how moments differ, instead of spending a short training on finding the mean.
        """
        weight = self.target_weight(windows)
        self.target_mean.copy_((self.target(windows) * weight).sum(0) / weight.sum(0).clamp(min=1e-6))

    @abstractmethod
    def to_observation(self, decoded: Tensor) -> Tensor:
        """Turn model units (B, *target_shape) into physical units (B, *observation_shape)."""

    def observe(self, window: Tensor) -> Tensor:
        """The measured counterpart of a decoded observation: raw windows -> (B, *observation_shape)."""
        return self.to_observation(self.target(window))

    def reconstruction_nll(self, decoded: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        """Negative log likelihood of targets under decoded means, (B,) in nats; see likelihood.py for the formula."""
        return weighted_gaussian_nll(
            decoded, target, weight, noise_scale=self.noise_scale, effective_size=self.effective_size
        )

    @abstractmethod
    def augment(self, window: Tensor, generator: torch.Generator) -> Tensor:
        """Distort raw windows as sensors and people vary, keeping the class; for training only.

        Args:
            window: (B, *window_shape) raw values.
            generator: the only source of randomness. rgb and depth draw their geometry first and alike: given
                generators in the same state, both are shifted, scaled and turned in the same way, which keeps
                what was recorded together together.

        Returns:
            (B, *window_shape) in the raw unit and range of the wire.
        """
