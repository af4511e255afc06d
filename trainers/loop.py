"""The training loop: runs a system's phases one after the other, limited by steps and time, with exact resume."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from configs.errors import AfterimageError
from trainers.checkpoint import load_checkpoint, save_checkpoint
from trainers.configuration import ModelConfig, PhaseConfig
from trainers.data.sampler import Batch
from trainers.optimization import PhaseOptimizer
from trainers.systems.base import Batches, Phase, System

Report = Callable[[str, int, int, float], None]
"""Called after every step: phase, steps done, steps planned, smoothed total loss."""


class Sampler(Protocol):
    """An endless stream of training batches that can continue where it stopped."""

    def next(self) -> Batch:
        """The next batch."""

    def state_dict(self) -> dict[str, Any]:
        """The state on which the next batch depends, as JSON types."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue exactly where :meth:`state_dict` was taken."""


class TrainingError(AfterimageError):
    """Training that cannot continue, for example because a loss is not finite; names phase, step and term."""


@dataclass
class TrainingRun:
    """The progress of a run: everything that the next step depends on besides weights and configuration.

    Attributes:
        phase: index of the phase in progress.
        step: steps done in it.
        batches: batches used in all phases together.
        elapsed_s: time spent in it, over all sessions.
        history: per phase, every ``RECORD_EVERY`` steps: step and mean loss terms since the last record.
        decided: what :meth:`System.finish_phase` reported, by phase.
    """

    phase: int = 0
    step: int = 0
    batches: int = 0
    elapsed_s: float = 0.0
    history: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    decided: dict[str, Any] = field(default_factory=dict)


RECORD_EVERY = 25


class Trainer:
    """Trains one system: make it, call :meth:`resume` to continue a run, then :meth:`run`.

    Args:
        system: to be trained in place.
        sampler: of training batches.
        validation: fixed validation batches, for what phases decide when they end.
        config: phases, optimizer and seed.
        folder: where checkpoints go.
    """

    def __init__(
        self, system: System, sampler: Sampler, validation: Batches, config: ModelConfig, folder: Path
    ) -> None:
        self.device = torch.device(config.device)
        self.system = system.to(self.device)
        self.sampler = sampler
        self.config = config
        self.checkpoint_folder = folder / "checkpoint"
        self.state = TrainingRun()
        self._validation = validation
        # Everything random in a step comes from here, or from torch's global generator (dropout); both are saved.
        self._generator = torch.Generator(self.device).manual_seed(config.seed)
        self._global_state = torch.Generator().manual_seed(config.seed + 1).get_state()
        # The next batch is made while a step computes, so the sampler is one batch ahead of the run.
        self._worker: ThreadPoolExecutor | None = None
        self._coming: Future[Batch] | None = None
        self._sampler_state = sampler.state_dict()
        self._optimizer: PhaseOptimizer | None = None
        self._average: dict[str, Tensor] = {}

    def run(
        self,
        *,
        minutes: float | None = None,
        report: Report | None = None,
        checkpoint_s: float = 60.0,
        until: int | None = None,
    ) -> None:
        """Train until every phase is done.

        Args:
            minutes: time budget of all phases, split by their ``share``; if time runs out before the steps, learning
                rates and warm-ups follow the time. Without a budget, a run depends on the seed alone.
            report: called after every step.
            checkpoint_s: seconds between checkpoints.
            until: stop after this many steps in all, with a checkpoint, as if interrupted.

        Raises:
            TrainingError: a loss that is not finite.
        """
        phases = self.system.phases()
        shares = {p.name: self.config.phases[p.name].share for p in phases}
        saved, done = time.monotonic(), 0
        with torch.random.fork_rng(devices=[]), self._second_thread():
            torch.set_rng_state(self._global_state)
            while self.state.phase < len(phases):
                phase = phases[self.state.phase]
                settings = self.config.phases[phase.name]
                budget_s = (
                    None if minutes is None else 60 * minutes * shares[phase.name] / sum(shares.values())
                )
                self._prepare(phase)
                means: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=RECORD_EVERY))
                while (progress := self._progress(settings, budget_s)) < 1.0:
                    begin = time.monotonic()
                    terms = self._step(phase, progress)
                    self.state.step += 1
                    self.state.elapsed_s += time.monotonic() - begin
                    self._record(phase.name, terms, means)
                    if report is not None:
                        mean = sum(means["total"]) / len(means["total"])
                        report(phase.name, self.state.step, settings.steps, mean)
                    done += 1
                    if time.monotonic() - saved > checkpoint_s or done == until:
                        self.save()
                        saved = time.monotonic()
                    if done == until:
                        return
                self._finish(phase)
        self.save()

    def save(self) -> None:
        """Write a checkpoint of everything the next step depends on."""
        tensors = {f"model.{k}": v for k, v in self.system.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self._average.items()}
        if self._optimizer is not None:
            tensors |= {f"optimizer.{k}": v for k, v in self._optimizer.state().items()}
        tensors["random.own"] = self._generator.get_state()
        tensors["random.global"] = torch.get_rng_state()
        if self.device.type == "cuda":
            tensors["random.device"] = torch.cuda.get_rng_state(self.device)
        save_checkpoint(
            self.checkpoint_folder,
            tensors,
            {
                "config": self.config.model_dump(mode="json"),
                "run": vars(self.state),
                "sampler": self._sampler_state,
                "structure": self.system.structure(),
            },
        )

    def resume(self) -> None:
        """Continue from the last checkpoint with the step after it.

        Raises:
            CheckpointError: there is none.
            TrainingError: it was made with another configuration.
        """
        tensors, state = load_checkpoint(self.checkpoint_folder)
        mine = self.config.model_dump(mode="json")
        if state["config"] != mine:
            keys = sorted(k for k in mine if state["config"].get(k) != mine[k])
            raise TrainingError(
                f"{self.checkpoint_folder}: made with other settings of {keys}; use the same or start anew"
            )
        self.state = TrainingRun(**state["run"])
        self.sampler.load_state_dict(state["sampler"])
        self._sampler_state = state["sampler"]
        if state["structure"]:
            self.system.load_structure(state["structure"])
        self.system.load_state_dict(_under(tensors, "model."))
        self._average = _under(tensors, "average.")
        phases = self.system.phases()
        if self.state.phase < len(phases):
            self._optimizer = self._make_optimizer(phases[self.state.phase])
            self._optimizer.load_state(_under(tensors, "optimizer."))
        self._generator.set_state(tensors["random.own"])
        self._global_state = tensors["random.global"]
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["random.device"], self.device)

    def _prepare(self, phase: Phase) -> None:
        self.system.begin_phase(phase.name)
        if self._optimizer is None:
            self._optimizer = self._make_optimizer(phase)
            if self.config.optimizer.average:
                learning = {id(parameter) for parameter in phase.parameters()}
                self._average = {
                    k: v.detach().clone() for k, v in self.system.named_parameters() if id(v) in learning
                }

    def _make_optimizer(self, phase: Phase) -> PhaseOptimizer:
        return PhaseOptimizer(phase, self.config.phases[phase.name], self.config.optimizer)

    def _progress(self, settings: PhaseConfig, budget_s: float | None) -> float:
        """Share of the phase that is done, by steps or by time, whichever is larger."""
        by_steps = self.state.step / settings.steps
        return by_steps if budget_s is None else max(by_steps, self.state.elapsed_s / budget_s)

    def _step(self, phase: Phase, progress: float) -> dict[str, Tensor]:
        assert self._optimizer is not None
        self._optimizer.set_progress(progress)
        batch, terms = self._next_batch(), {}
        if phase.adversaries:
            self._optimizer.begin("adversaries")
            found = self.system.adversary_loss(phase.name, batch, self._generator, progress=progress)
            self._check_finite(phase, found)
            self._optimizer.step("adversaries", found["total"])
            terms = {f"adversary_{name}": value for name, value in found.items()}
        self._optimizer.begin("modules")
        found = self.system.loss(phase.name, batch, self._generator, progress=progress)
        self._check_finite(phase, found)
        self._optimizer.step("modules", found["total"])
        if self._average:
            self._update_average()
        return terms | found

    def _check_finite(self, phase: Phase, terms: Mapping[str, Tensor]) -> None:
        if not torch.isfinite(terms["total"]):
            bad = sorted(k for k, v in terms.items() if not torch.isfinite(v))
            raise TrainingError(
                f"phase {phase.name!r}, step {self.state.step}: {bad} not finite; lower the learning rate"
            )

    def _next_batch(self) -> Batch:
        """This step's batch; starts making the next one on the second thread."""
        assert self._worker is not None
        if self._coming is None:
            self._coming = self._worker.submit(self._make_batch, self.state.batches)
        batch = self._coming.result()
        self._sampler_state = self.sampler.state_dict()
        self.state.batches += 1
        self._coming = self._worker.submit(self._make_batch, self.state.batches)
        return batch

    @contextmanager
    def _second_thread(self) -> Iterator[None]:
        try:
            with ThreadPoolExecutor(1, "batches") as self._worker:
                yield
        finally:
            # A batch that was made but not used will be drawn again when training continues.
            self._coming, self._worker = None, None
            self.sampler.load_state_dict(self._sampler_state)
            self._global_state = torch.get_rng_state()

    @torch.no_grad()
    def _make_batch(self, number: int) -> Batch:
        """Draw a batch, augment it and compute its targets; depends on the sampler, the seed and the number alone.

        All modalities are augmented from one seed, so that images recorded together move together. The targets of
        images are the augmented ones, because a decoder cannot know where they were moved from. The targets of sound
        and EEG are the measured ones, because they do not depend on place or phase; a decoder that learned from noise
        and lost channels would impute noise and lost channels.
        """
        batch = _moved(self.sampler.next(), self.device)
        windows, targets = dict(batch.windows), {}
        seed = int(np.random.SeedSequence([self.config.seed, number]).generate_state(1, np.uint64)[0] >> 2)
        for name, measured in batch.windows.items():
            network = self.system.network(name)
            if self.config.augment:
                windows[name] = network.augment(measured, torch.Generator().manual_seed(seed))
            shown = measured if network.spec.kind in ("audio", "eeg") else windows[name]
            targets[name] = network.target(shown), network.target_weight(shown)
        return Batch(windows, batch.labels, batch.presence, targets)

    @torch.no_grad()
    def _update_average(self) -> None:
        # A short memory at first, so that a short run does not average in the start of the phase.
        decay = min(self.config.optimizer.average, (1 + self.state.step) / (10 + self.state.step))
        for name, parameter in self.system.named_parameters():
            if name in self._average:
                self._average[name].lerp_(parameter, 1 - decay)

    def _record(self, phase: str, terms: Mapping[str, Tensor], means: Mapping[str, deque[float]]) -> None:
        for name, value in terms.items():
            means[name].append(float(value.detach()))
        if self.state.step % RECORD_EVERY == 0:
            record = {"step": float(self.state.step)} | {k: sum(v) / len(v) for k, v in means.items()}
            self.state.history.setdefault(phase, []).append(record)

    @torch.no_grad()
    def _finish(self, phase: Phase) -> None:
        """Take the averaged weights, let the system make its decisions, and go on to the next phase."""
        for name, parameter in self.system.named_parameters():
            if name in self._average:
                parameter.copy_(self._average[name])
        self.system.eval()
        self.state.decided[phase.name] = self.system.finish_phase(phase.name, self._validation) | {
            "steps": self.state.step,
            "seconds": round(self.state.elapsed_s, 1),
        }
        self._optimizer, self._average = None, {}
        self.state.phase, self.state.step, self.state.elapsed_s = self.state.phase + 1, 0, 0.0


def _moved(batch: Batch, device: torch.device) -> Batch:
    if device.type == "cpu":
        return batch
    return Batch(
        {name: window.to(device) for name, window in batch.windows.items()},
        batch.labels.to(device),
        batch.presence.to(device),
    )


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
