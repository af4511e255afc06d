"""The interface of every seed system for the training loop, export and evaluation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn

from configs.reading import StrictModel
from engines.refinement import Refinement, refine_incomplete_rows
from trainers.modalities.network import ModalityNetwork


class SystemConfig(StrictModel):
    """Settings of a system; every system has its own, told apart by ``name``.

    Attributes:
        PHASES: names of the training phases, in order, that a run's ``phases`` must give steps to.
    """

    PHASES: ClassVar[tuple[str, ...]]

    name: str
    latent_size: int = Field(default=32, ge=1)

    def decoder_size(self, modality: str, classes: int) -> int:
        """Size of the latent that a modality's decoder takes, given the number of classes."""
        return self.latent_size


class LabelledWindows(Protocol):
    """A batch: raw windows, labels and presence; ``trainers.data`` delivers them."""

    @property
    def windows(self) -> Mapping[str, Tensor]:
        """Modality -> (B, *window_shape) float32 raw values; rows that are absent hold anything finite."""

    @property
    def labels(self) -> Tensor:
        """(B,) int64; −1 where the label is absent."""

    @property
    def presence(self) -> Tensor:
        """(B, M) float32 of 0/1, modalities in the system's order."""

    @property
    def targets(self) -> Mapping[str, tuple[Tensor, Tensor]]:
        """Modality -> target in model units and its weight; those of other modalities are computed from windows."""


class FusedTensors(NamedTuple):
    """Result of fusion for B rows."""

    logits: Tensor
    """(B, C)"""
    posterior: Tensor
    """(B, posterior_size), flat parameters of the latents' distribution"""
    latents: dict[str, Tensor]
    """modality -> (B, latent_size) mean: inferred where present, imputed where not"""


@dataclass(frozen=True)
class Phase:
    """One stage of training: a name that the configuration gives steps to, and the modules that learn in it.

    Attributes:
        name: of the phase.
        modules: they learn from :meth:`System.loss`.
        adversaries: they learn from :meth:`System.adversary_loss`, with one step before each step of the modules.
    """

    name: str
    modules: tuple[nn.Module, ...]
    adversaries: tuple[nn.Module, ...] = ()

    def parameters(self) -> Iterator[nn.Parameter]:
        """The parameters of the modules, each once."""
        return nn.ModuleList(self.modules).parameters()

    def adversary_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters of the adversaries, each once."""
        return nn.ModuleList(self.adversaries).parameters()


Batches = Callable[[], Iterable[LabelledWindows]]
"""Each call gives a new pass over fixed, unaugmented validation batches."""


def warm_up(progress: float, share: float) -> float:
    """A weight that rises from 0 to 1 over the first ``share`` of a phase; 1 throughout where the share is 0."""
    return min(1.0, progress / share) if share else 1.0


class System(nn.Module, ABC):
    """Networks of all modalities joined by one scheme of fusion.

    Attributes:
        names: modalities in the order of the presence mask.
        classes: number of classes C.
        latent_kind: ``shared`` (one space) or ``associated`` (one space per modality).
        networks: modality -> :class:`ModalityNetwork`.
        reliability: (M,) buffer, the weight of each modality's evidence in fusion; fitted on validation data after
            training (:mod:`trainers.calibration`), and 1 until then.
    """

    latent_kind: Literal["shared", "associated"]
    config: SystemConfig

    def __init__(self, networks: Mapping[str, ModalityNetwork], classes: int) -> None:
        super().__init__()
        self.names = tuple(networks)
        self.classes = classes
        self.networks = nn.ModuleDict(networks)
        self.reliability: Tensor
        self.register_buffer("reliability", torch.ones(len(networks)))

    def network(self, modality: str) -> ModalityNetwork:
        """The network of one modality, typed."""
        network = self.networks[modality]
        assert isinstance(network, ModalityNetwork)
        return network

    def check_latent_sizes(self, size: int, expected: str) -> None:
        """Check that every modality's decoder takes latents of one size.

        Args:
            size: what the decoders have to take.
            expected: what has that size, for the message.

        Raises:
            ValueError: names the first modality whose decoder takes another size.
        """
        for name in self.names:
            if (found := self.latent_size(name)) != size:
                raise ValueError(f"modality {name!r}: latent_size {found}, {expected}")

    def latent_size(self, modality: str) -> int:
        """Size of the latent that :meth:`decode` takes for a modality."""
        return self.network(modality).latent_size

    @abstractmethod
    def evidence_size(self, modality: str) -> int:
        """Size of the flat evidence vector of a modality."""

    @property
    @abstractmethod
    def posterior_size(self) -> int:
        """Size of :attr:`FusedTensors.posterior`."""

    @abstractmethod
    def encode(self, modality: str, window: Tensor) -> Tensor:
        """Raw windows (B, *window_shape) -> evidence (B, evidence_size)."""

    @abstractmethod
    def fuse(self, evidence: Mapping[str, Tensor], presence: Tensor) -> FusedTensors:
        """Fuse evidence under a presence mask (B, M): deterministic, no branch on the mask, exports statically."""

    def refinement(self) -> Refinement | None:
        """The loop that a session runs around :meth:`fuse` for rows that lack modalities; None: fuse once."""
        return None

    def infer(self, evidence: Mapping[str, Tensor], presence: Tensor) -> FusedTensors:
        """Fuse evidence as a session does: :meth:`fuse`, and :meth:`refinement` if the system has one.

        Rows with all or no modalities present are fused once.
        """
        fused, refinement = self.fuse(evidence, presence), self.refinement()
        if refinement is None:
            return fused
        refined = refine_incomplete_rows(
            self.fuse,
            lambda found: found.posterior,
            self.names,
            evidence,
            presence,
            fused.posterior,
            refinement,
        )
        if refined is None:
            return fused
        rows, better = refined
        return FusedTensors(
            fused.logits.index_put((rows,), better.logits),
            fused.posterior.index_put((rows,), better.posterior),
            {n: z.index_put((rows,), better.latents[n]) for n, z in fused.latents.items()},
        )

    def sample_prior(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw latents from the prior: modality -> (count, latent_size), one moment per row.

        Here it is one draw from N(0, I) that all modalities share. A system with another prior, or with a latent for
        each modality, overrides this.

        Raises:
            NotImplementedError: latents have several sizes, and the system does not override this.
        """
        sizes = {self.latent_size(n) for n in self.names}
        if len(sizes) > 1:
            raise NotImplementedError(
                f"{type(self).__name__} has latents of sizes {sorted(sizes)} and no sample_prior"
            )
        z = torch.randn(count, *sizes, generator=generator, device=generator.device)
        return dict.fromkeys(self.names, z)

    def decode(self, modality: str, latent: Tensor) -> Tensor:
        """Latents (B, latent_size) -> observations (B, *observation_shape) in physical units."""
        network = self.network(modality)
        return network.to_observation(network.decode(latent))

    def target(self, modality: str, batch: LabelledWindows) -> tuple[Tensor, Tensor]:
        """The target of a modality's decoder for a batch, in model units, and how far each element was measured."""
        if modality in batch.targets:
            return batch.targets[modality]
        network, window = self.network(modality), batch.windows[modality]
        with torch.no_grad():
            return network.target(window), network.target_weight(window)

    def observe(self, modality: str, window: Tensor) -> Tensor:
        """Raw windows -> measured observations, in the space of :meth:`decode`."""
        return self.network(modality).observe(window)

    @abstractmethod
    def phases(self) -> Sequence[Phase]:
        """Training phases in order."""

    @abstractmethod
    def loss(
        self, phase: str, batch: LabelledWindows, generator: torch.Generator, *, progress: float
    ) -> dict[str, Tensor]:
        """The named terms of a phase's loss and their sum under ``total``, each a scalar.

        Args:
            phase: name of one of :meth:`phases`.
            batch: windows already augmented.
            generator: the only source of randomness.
            progress: share of the phase's steps already done, 0..1; drives warm-ups.
        """

    def adversary_loss(
        self, phase: str, batch: LabelledWindows, generator: torch.Generator, *, progress: float
    ) -> dict[str, Tensor]:
        """As :meth:`loss`, for the phase's adversaries; only they get gradients from it."""
        raise NotImplementedError(f"{type(self).__name__} has no adversaries")

    def begin_phase(self, phase: str) -> None:
        """Put what learns in the phase into training mode with gradients, and everything else into evaluation mode."""
        chosen = next(p for p in self.phases() if p.name == phase)
        self.eval()
        self.requires_grad_(False)
        for module in (*chosen.modules, *chosen.adversaries):
            module.train()
            module.requires_grad_(True)

    def finish_phase(self, phase: str, validation: Batches) -> dict[str, Any]:
        """Decide what a phase leaves to decide at its end (association paths, say); called once, in evaluation mode.

        Args:
            phase: name of the phase that ended.
            validation: fixed validation batches.

        Returns:
            What was decided and measured, JSON-serialisable, for ``metrics.json``.
        """
        return {}

    def structure(self) -> dict[str, Any]:
        """JSON-serialisable decisions that are not tensors (association paths); saved with checkpoints."""
        return {}

    def load_structure(self, structure: Mapping[str, Any]) -> None:
        """Restore what :meth:`structure` returned."""
        if structure:
            raise ValueError(f"{type(self).__name__} has no structure to load, got keys {sorted(structure)}")
