"""Faults: what can go wrong with a sensor, as a seeded schedule that is applied to the samples it delivers.

The schedule is data (YAML), and applying it is a function of (schedule, modality, time, samples): the same
schedule spoils the same bytes in every process. Only `freeze` and `stale` need a memory, of the last good message and
of older ones, which :class:`FaultInjector` holds.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import yaml
from pydantic import Field, model_validator

from configs.errors import AfterimageError
from configs.reading import StrictModel, read_yaml, validated
from engines.bundle import ModalityKind
from runtime.rig import Rig

FaultKind = Literal["silence", "freeze", "rail", "holes", "clip", "black", "flat", "noise", "nan", "stale"]

APPLIES_TO: dict[str, frozenset[str]] = {
    "silence": frozenset(get_args(ModalityKind)),
    "freeze": frozenset(get_args(ModalityKind)),
    "flat": frozenset({"audio", "eeg", "signal"}),
    "noise": frozenset(get_args(ModalityKind)),
    "rail": frozenset({"eeg"}),
    "holes": frozenset({"depth"}),
    "clip": frozenset({"audio"}),
    "black": frozenset({"rgb"}),
    "nan": frozenset({"eeg"}),
    "stale": frozenset(get_args(ModalityKind)),
}
"""Fault -> kinds of sensor that can have it; NaN needs floating point samples."""

DEFAULTS: dict[str, dict[str, float]] = {
    # Full scale of a common 24-bit EEG front end (ADS1299, gain 24, 4.5 V reference) is +-187.5 mV.
    "rail": {"channels": 2, "level": 187_500.0},
    "holes": {"share": 0.9},
    "clip": {"gain": 20.0},
    "noise": {"share_of_range": 0.5},
    "nan": {"share": 0.1},
    "stale": {"behind_s": 7.0},
}
"""Fault -> its parameters with their defaults; faults that are not listed have none."""


_SAME_S = 0.0005
"""Times of messages that differ by less differ only by rounding."""


class FaultError(AfterimageError, ValueError):
    """A fault or fault schedule that cannot be used; the message names what was expected and what came."""


class Fault(StrictModel):
    """One thing that goes wrong with one or several sensors, for a while.

    Times are seconds since the start of the playback; the fault holds for capture times in ``(start_s,
    end_s]``.

    Parameters by kind: `rail` channels (how many, from the first) and level (the value at which they
    stick); `holes` share of pixels that lose their reading; `clip` gain before saturation; `noise` share_of_range, the
    standard deviation of white noise as a share of the range of integer samples, or as a multiple of 1000
    for floating point ones; `nan` share of samples that turn NaN;
    `stale` behind_s, the age of the message that is delivered as new (a buffer that nobody empties).
    """

    kind: FaultKind
    modalities: tuple[str, ...] = Field(min_length=1)
    start_s: float = Field(ge=0)
    end_s: float
    params: dict[str, float] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> Fault:
        if not self.end_s > self.start_s:
            raise ValueError(f"end_s must be > start_s {self.start_s}, got {self.end_s}")
        if len(set(self.modalities)) != len(self.modalities):
            raise ValueError(f"modalities must be distinct, got {list(self.modalities)}")
        known = DEFAULTS.get(self.kind, {})
        if unknown := sorted(self.params.keys() - known.keys()):
            raise ValueError(f"fault {self.kind!r} takes parameters {sorted(known)}, got {unknown}")
        if self.kind == "stale" and not self.param("behind_s") >= 0:
            raise ValueError(f"behind_s must be >= 0, got {self.param('behind_s')}")
        return self

    def param(self, name: str) -> float:
        """A parameter's value, or its default."""
        return self.params.get(name, DEFAULTS[self.kind][name])

    def holds_at(self, modality: str, elapsed_s: float) -> bool:
        """Whether the fault spoils a message of ``modality`` captured ``elapsed_s`` after the start."""
        return modality in self.modalities and self.start_s < elapsed_s <= self.end_s


class FaultSchedule(StrictModel):
    """Faults in time, and the seed of what is random in them. Without faults nothing goes wrong."""

    version: Literal[1] = 1
    seed: int = 0
    faults: tuple[Fault, ...] = ()

    @property
    def end_s(self) -> float:
        """When the last fault ends, in seconds since the start of the playback; 0 without faults."""
        return max((f.end_s for f in self.faults), default=0.0)

    def active(self, modality: str, elapsed_s: float) -> tuple[tuple[int, Fault], ...]:
        """The faults of one modality at a time, each with its number, in the order of the schedule."""
        return tuple((i, f) for i, f in enumerate(self.faults) if f.holds_at(modality, elapsed_s))

    def check(self, rig: Rig) -> None:
        """Refuse a schedule that does not fit a rig.

        Raises:
            FaultError: a modality that the rig does not have, or a fault that its kind of sensor cannot have.
        """
        for number, fault in enumerate(self.faults):
            for modality in fault.modalities:
                if modality not in rig.modality_names:
                    raise FaultError(
                        f"faults.{number}: modality {modality!r} is not in rig {rig.name!r}; "
                        f"it has {list(rig.modality_names)}"
                    )
                kind = rig.sensor(modality).kind
                if kind not in APPLIES_TO[fault.kind]:
                    raise FaultError(
                        f"faults.{number}: {fault.kind!r} happens to {sorted(APPLIES_TO[fault.kind])} "
                        f"sensors, {modality!r} is of kind {kind!r}"
                    )

    @classmethod
    def demo(
        cls,
        rig: Rig,
        *,
        seed: int = 0,
        first_s: float = 10.0,
        fault_s: float = 5.0,
        recovery_s: float = 5.0,
        unit_s: float = 0.0,
    ) -> FaultSchedule:
        """The schedule of the demo: each sensor silent, then pairs, then all but one, then lying sensors.

        A lying sensor delivers wrong samples: RGB frozen, two EEG channels railed, depth with 90 % more holes, audio
        clipped; kinds that the rig does not have are left out. After each fault comes a pause for recovery. The seed
        draws the order of the patterns of one size.

        Args:
            rig: whose sensors fail.
            seed: of the order and of what is random in the faults.
            first_s: when the first fault starts, at the earliest.
            fault_s: how long each fault holds.
            recovery_s: pause between faults.
            unit_s: round every start up to a multiple of this (the length of a moment); 0: do not round.
        """
        rng = np.random.default_rng(seed)
        names = rig.modality_names
        silent: list[tuple[str, ...]] = []
        # A set, because in a small rig "pairs" and "all but one" are sizes that came already; all sensors never fail.
        for size in sorted({1, 2, len(names) - 1} - {0}):
            if size < len(names):
                patterns = list(combinations(names, size))
                silent += [patterns[i] for i in rng.permutation(len(patterns))]
        planned: list[tuple[FaultKind, tuple[str, ...]]] = [("silence", p) for p in silent]
        lies: tuple[tuple[FaultKind, str], ...] = (
            ("freeze", "rgb"), ("rail", "eeg"), ("holes", "depth"), ("clip", "audio")
        )  # fmt: skip
        for fault, kind in lies:
            planned += [(fault, (s.modality,)) for s in rig.sensors if s.kind == kind]
        faults, at = [], first_s
        for fault, modalities in planned:
            start = math.ceil(at / unit_s - 1e-9) * unit_s if unit_s > 0 else at
            faults.append(Fault(kind=fault, modalities=modalities, start_s=start, end_s=start + fault_s))
            at = start + fault_s + recovery_s
        schedule = cls(seed=seed, faults=tuple(faults))
        schedule.check(rig)
        return schedule

    def save(self, path: Path) -> None:
        """Write the schedule as YAML."""
        path.write_text(yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False))


def load_schedule(path: Path) -> FaultSchedule:
    """Read a schedule from YAML.

    Raises:
        FaultError: no such file, not YAML, an unknown key or a value of the wrong kind; every fault is
            listed.
    """
    return validated(
        read_yaml(path, f"no fault schedule at {path}", FaultError), FaultSchedule, path, FaultError
    )


def apply(
    schedule: FaultSchedule,
    modality: str,
    elapsed_s: float,
    samples: npt.NDArray[Any],
    last_good: npt.NDArray[Any] | None = None,
    old: Mapping[int, npt.NDArray[Any]] | None = None,
) -> npt.NDArray[Any] | None:
    """What a sensor delivers at a time instead of ``samples``. Pure: same arguments, same bytes.

    Args:
        schedule: the faults.
        modality: whose message it is.
        elapsed_s: capture time, seconds since the start of the playback.
        samples: the message's good samples; never written to.
        last_good: the last message before any fault, which `freeze` repeats; without one it repeats
            ``samples``.
        old: number of a `stale` fault in the schedule -> the message that it delivers; without one, ``samples``.

    Returns:
        The samples to publish, of the same shape and dtype, or None where the sensor stays silent.
    """
    out = samples
    for number, fault in schedule.active(modality, elapsed_s):
        if fault.kind == "silence":
            return None
        if fault.kind == "freeze":
            if last_good is not None:
                out = last_good
            continue
        if fault.kind == "stale":
            out = samples if old is None else old.get(number, samples)
            continue
        # Milliseconds tell messages apart at any rate below 1 kHz and do not suffer from float rounding.
        rng = np.random.default_rng([schedule.seed, number, round(elapsed_s * 1000)])
        out = _spoil(fault, out, rng)
    return out


def _spoil(fault: Fault, samples: npt.NDArray[Any], rng: np.random.Generator) -> npt.NDArray[Any]:
    """A spoilt copy of samples, for the kinds of fault that change values."""
    dtype = samples.dtype
    if fault.kind in ("black", "flat"):
        return np.zeros_like(samples)
    if fault.kind == "clip":
        return _saturate(samples.astype(np.float64) * fault.param("gain"), dtype)
    if fault.kind == "noise":
        span = np.iinfo(dtype).max if np.issubdtype(dtype, np.integer) else 1000.0
        noise = rng.normal(0.0, fault.param("share_of_range") * span, samples.shape)
        return _saturate(samples + noise, dtype)
    out = samples.copy()
    if fault.kind == "rail":
        out[..., : int(fault.param("channels"))] = fault.param("level")
    elif fault.kind == "holes":
        out[rng.random(samples.shape, dtype=np.float32) < fault.param("share")] = 0
    elif fault.kind == "nan":
        out[rng.random(samples.shape, dtype=np.float32) < fault.param("share")] = np.nan
    return out


def _saturate(values: npt.NDArray[np.float64], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Values limited to the range of a dtype, as a converter out of range delivers them."""
    if np.issubdtype(dtype, np.integer):
        info = np.iinfo(dtype)
        values = np.clip(np.rint(values), info.min, info.max)
    return values.astype(dtype)


class FaultInjector:
    """Applies a schedule to one live stream, and remembers the messages that `freeze` and `stale` deliver again."""

    def __init__(self, schedule: FaultSchedule, modality: str) -> None:
        self._schedule = schedule
        self._modality = modality
        self._last_good: npt.NDArray[Any] | None = None
        stale = (f for f in schedule.faults if f.kind == "stale" and modality in f.modalities)
        self._remembered_s = max((f.param("behind_s") for f in stale), default=None)
        self._past: deque[tuple[float, npt.NDArray[Any]]] = deque()

    def apply(self, elapsed_s: float, samples: npt.NDArray[Any]) -> npt.NDArray[Any] | None:
        """What the sensor delivers instead of ``samples``, None where it is silent; see :func:`apply`."""
        if self._remembered_s is not None:
            self._past.append((elapsed_s, samples))
            while self._past[0][0] < elapsed_s - self._remembered_s - _SAME_S:
                self._past.popleft()
        active = self._schedule.active(self._modality, elapsed_s)
        if not active:
            self._last_good = samples
            return samples
        if self._last_good is None:
            self._last_good = samples
        old = {n: self._seen(elapsed_s - f.param("behind_s")) for n, f in active if f.kind == "stale"}
        return apply(self._schedule, self._modality, elapsed_s, samples, self._last_good, old)

    def _seen(self, elapsed_s: float) -> npt.NDArray[Any]:
        """The first message that was captured then or later."""
        return next(samples for at_s, samples in self._past if at_s >= elapsed_s - _SAME_S)


def faulty_modalities(
    schedule: FaultSchedule, modalities: Sequence[str], elapsed_s: float
) -> tuple[str, ...]:
    """Modalities that any fault spoils at a time: the truth that health is judged against."""
    return tuple(m for m in modalities if schedule.active(m, elapsed_s))


def onsets(schedule: FaultSchedule, kinds: Iterable[str] = ("silence",)) -> tuple[tuple[str, float], ...]:
    """(modality, start in seconds) of every fault of these kinds: the times from which detection is measured."""
    wanted = frozenset(kinds)
    return tuple((m, f.start_s) for f in schedule.faults if f.kind in wanted for m in f.modalities)
