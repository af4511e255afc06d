"""How fast a failing sensor is noticed, how often a good one is accused, and when it is trusted again.

Decisions are functions of (events, now), so the real :class:`~runtime.core.pipeline.Pipeline` runs on a virtual clock:
an event queue of arrivals, and of the times at which the pipeline asks to be woken, to the nanosecond. There is no node
around it, unlike in :mod:`benchmarks.virtual_node`: many hours are played, sockets and engine would take most of the
time, and neither is measured. Messages are the synthetic rig's, with faults of :mod:`runtime.signals.faults`, encoded
by :func:`~runtime.wire.encode_frame`; evidence is zeros. There is one sensor on the rig, because health is judged for
each sensor by itself.

*Jitter* is a delay on the way: half-normal, with a scale in per cent of the period, on top of 1 ms; messages stay in
order. *Delay of detection* is counted from the true end of good data to the change of state: from the capture of the
last good message for ``silence`` and ``late``, of the first bad one for all else. Least possible delays:

- ``silence``, ``late``: period + jitter (one scale), because no message is overdue before. Rule: max(silence_periods x
  period, silence_floor_s) after the last arrival.
- ``freeze``: 0, if one repetition were proof. Rule: (frozen_frames - 2) periods, because the first repetition is the
  second message of the run, and up to a tick, at which it is judged.
- ``black``, ``holes``: 0, the first bad message; the rule is the same. ``nan``: the same, judged up to a tick later.
- ``flat``, ``rail``, ``clip``: the first message at which a window that ended there would fail its content checks,
  measured for each repetition. Rule: up to one hop later, when the next window ends.
- ``clock_step``: 0, because a stamp from the future is proof. Rule: one period, because a single wrong stamp is
  forgiven, and up to a tick. A clock that the pipeline follows (after recover_frames messages) before a tick comes is
  counted as undetected.

The rules count from arrival, so delays on the way come on top. Recovery counts from the capture of the first good
message to ``live``: not before recover_frames - 1 periods, nor, after a gap, a whole window less one message.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.bundle import Manifest, ModalitySpec
from runtime.core import quality
from runtime.core.clock import NS_PER_S
from runtime.core.pipeline import Pipeline
from runtime.rig import Rig
from runtime.signals.faults import APPLIES_TO, Fault, FaultInjector, FaultSchedule
from runtime.signals.opening import open_source
from runtime.wire import HealthEvent, encode_frame

_START_NS = 3600 * NS_PER_S
_TRANSIT_NS = 1_000_000
_LATE_S = 0.4
_STEP_NS = 5 * NS_PER_S
WIRE_FAULTS = ("late", "clock_step")
"""Faults of the transport and the clock, not of samples: every sensor can have them."""
WINDOW_FAULTS = ("flat", "rail", "clip")
FAULTS = ("silence", "freeze", "flat", "rail", "holes", "clip", "black", "nan", *WIRE_FAULTS)


@dataclass(frozen=True)
class DropoutPlan:
    """How much is measured.

    Attributes:
        periods_ms: of the sensors; audio and EEG come as close as their rates allow.
        jitters: scale of the delay over the period.
        repetitions: faults of each kind at each period and jitter.
        alarm_messages: good messages for each cell of the table of false alarms.
        alarm_periods_ms: periods of that table.
        silence_periods: policies that the table compares.
        live_rounds: silences of each sensor in the live part; 0 leaves it out.
        seed: of everything random.
    """

    periods_ms: tuple[float, ...] = (4, 20, 100, 200)
    jitters: tuple[float, ...] = (0.0, 0.1, 0.3, 0.5)
    repetitions: int = 5
    alarm_messages: int = 10_000
    alarm_periods_ms: tuple[float, ...] = (10, 33, 100)
    silence_periods: tuple[float, ...] = (1.5, 2.0, 3.0, 5.0)
    live_rounds: int = 8
    seed: int = 0


QUICK = DropoutPlan(
    periods_ms=(33,),
    jitters=(0.0, 0.5),
    repetitions=1,
    alarm_messages=1000,
    alarm_periods_ms=(100,),
    live_rounds=0,
)


@dataclass(frozen=True)
class Bench:
    """One sensor alone on a rig, at a period.

    Attributes:
        rig, manifest: fit each other.
        spec: of the modality.
        samples: (n, *sample_shape), played again and again.
    """

    rig: Rig
    manifest: Manifest
    spec: ModalitySpec
    samples: npt.NDArray[Any]

    @property
    def chunk(self) -> int:
        """Samples in a message."""
        return self.rig.sensors[0].chunk

    @property
    def period_s(self) -> float:
        """Between two messages."""
        return self.rig.sensors[0].period_s

    @property
    def window_s(self) -> float:
        """Length of a window."""
        return self.spec.window / self.spec.rate_hz

    def message(self, index: int) -> npt.NDArray[Any]:
        """The samples of one message."""
        places = np.arange(index * self.chunk, (index + 1) * self.chunk) % len(self.samples)
        return self.samples[places]

    def with_silence(self, periods: float) -> Bench:
        """The same under another policy."""
        health = self.rig.health.model_copy(update={"silence_periods": periods})
        return Bench(self.rig.model_copy(update={"health": health}), self.manifest, self.spec, self.samples)


def make_bench(
    rig: Rig, manifest: Manifest, modality: str, samples: npt.NDArray[Any], period_ms: float
) -> Bench:
    """A rig and manifest of one sensor with (about) this period: images change their rate, the others their chunk."""
    sensor, spec = rig.sensor(modality), manifest.modality(modality)
    if sensor.kind in ("rgb", "depth"):
        rate_hz = 1000 / period_ms
        sensor = sensor.model_copy(update={"rate_hz": rate_hz})
        spec = spec.model_copy(update={"rate_hz": rate_hz})
    else:
        chunk = max(1, round(period_ms * sensor.rate_hz / 1000))
        sensor = sensor.model_copy(update={"chunk": chunk})
    alone = rig.model_copy(update={"sensors": (sensor,)})
    return Bench(alone, manifest.model_copy(update={"modalities": (spec,)}), spec, samples)


def read_samples(rig: Rig, seed: int, moments: int = 4) -> dict[str, npt.NDArray[Any]]:
    """Some moments of the synthetic rig, one after another."""
    source = open_source("synthetic", seed=seed)
    return {
        s.modality: np.concatenate(
            [
                source.read("test", m, s.modality, 0, round(source.duration_s * s.rate_hz))
                for m in range(1 if s.kind in ("rgb", "depth") else moments)
            ]
        )
        for s in rig.sensors
    }


@dataclass
class Episode:
    """One fault and how it was found; times in ns of the virtual clock.

    Attributes:
        fault: its times are those of captures.
        last_good_ns, first_bad_ns, back_ns: captures of the messages around it.
        least_ns: when the first window could have failed; None where windows do not show the fault.
        detected_ns, state: of the first change of state.
        live_ns: when the sensor was trusted again.
    """

    fault: str
    start_ns: int
    end_ns: int
    last_good_ns: int = 0
    first_bad_ns: int | None = None
    back_ns: int | None = None
    least_ns: int | None = None
    detected_ns: int | None = None
    state: str = ""
    live_ns: int | None = None


@dataclass
class Run:
    """A stream with faults, or without.

    Attributes:
        episodes: the faults.
        false_alarms: state and reason -> changes to it that no fault explains.
        good_s: virtual time without a fault.
    """

    episodes: list[Episode] = field(default_factory=list)
    false_alarms: Counter[str] = field(default_factory=Counter)
    good_s: float = 0.0


def plan_episodes(bench: Bench, fault: str, count: int, rng: np.random.Generator) -> list[Episode]:
    """Faults at random phases, each with time to be found and to recover."""
    settle_s = 2 * bench.window_s + 10 * bench.period_s + 0.5
    hold_s = bench.window_s + 8 * bench.period_s + 0.6
    at, episodes = settle_s, []
    for _ in range(count):
        start = at + float(rng.uniform(0, bench.period_s))
        episodes.append(
            Episode(
                fault, _START_NS + round(start * NS_PER_S), _START_NS + round((start + hold_s) * NS_PER_S)
            )
        )
        at = start + hold_s + settle_s
    return episodes


def play(bench: Bench, episodes: Sequence[Episode], jitter: float, seconds: float, seed: int) -> Run:
    """Play a stream through a pipeline.

    Args:
        bench: the sensor.
        episodes: the faults; how they were found is written into them.
        jitter: scale of the delay over the period.
        seconds: of virtual time.
        seed: of the delays and of what is random in the faults.
    """
    pipeline = Pipeline(bench.rig, bench.manifest, _START_NS)
    stream = _Stream(bench, episodes, jitter, seed)
    watch = _Watch(list(episodes))
    zeros = np.zeros(bench.spec.evidence_size, np.float32)
    now, end_ns = _START_NS, _START_NS + round(seconds * NS_PER_S)
    arrival = stream.next()
    while now < end_ns:
        wake = pipeline.wake_ns(now)
        if arrival[0] <= wake:
            now = arrival[0]
            pipeline.receive(arrival[1], now)
            arrival = stream.next()
            for due in pipeline.due_windows(now):
                pipeline.store_evidence(due.modality, zeros, due.capture_ns)
        else:
            now = wake
            pipeline.tick(now)
        for event in pipeline.events():
            watch.see(event)
    bad_s = sum(((e.live_ns or e.end_ns) - e.start_ns) / NS_PER_S for e in episodes)
    return Run(list(episodes), watch.false_alarms, seconds - bad_s)


class _Stream:
    """Arrivals of one sensor, in order; ``next`` gives (arrival_ns, message) without end."""

    def __init__(self, bench: Bench, episodes: Sequence[Episode], jitter: float, seed: int) -> None:
        self._bench, self._episodes = bench, list(episodes)
        self._rng = np.random.default_rng(seed)
        self._scale_ns = jitter * bench.period_s * NS_PER_S
        modality = bench.spec.name
        faults = [
            Fault(
                kind=e.fault,
                modalities=(modality,),
                start_s=(e.start_ns - _START_NS) / NS_PER_S,
                end_s=(e.end_ns - _START_NS) / NS_PER_S,
            )
            for e in episodes
            if e.fault not in WIRE_FAULTS
        ]
        self._injectors = [FaultInjector(FaultSchedule(seed=seed, faults=(f,)), modality) for f in faults]
        self._index = self._now_ns = self._current = 0
        self._recent: npt.NDArray[Any] = np.zeros((0, *bench.spec.sample_shape), bench.spec.dtype)

    def next(self) -> tuple[int, list[Any]]:
        while True:
            message = self._message(self._index)
            self._index += 1
            if message is not None:
                return message

    def _message(self, index: int) -> tuple[int, list[Any]] | None:
        bench, current = self._bench, self._current
        elapsed_s = (index + 1) * bench.period_s
        capture_ns = stamp_ns = _START_NS + round(elapsed_s * NS_PER_S)
        good = bench.message(index)
        samples: npt.NDArray[Any] | None = good
        delay_ns = _TRANSIT_NS + abs(self._rng.normal(0, 1)) * self._scale_ns
        if current < len(self._episodes):
            episode = self._episodes[current]
            if capture_ns <= episode.start_ns:
                episode.last_good_ns = capture_ns
                if self._injectors:
                    self._injectors[current].apply(
                        elapsed_s, good
                    )  # the injector remembers the last good message
            elif capture_ns <= episode.end_ns:
                episode.first_bad_ns = episode.first_bad_ns or capture_ns
                if episode.fault == "late":
                    delay_ns += _LATE_S * NS_PER_S
                elif episode.fault == "clock_step":
                    stamp_ns += _STEP_NS
                else:
                    samples = self._injectors[current].apply(elapsed_s, good)
            else:
                episode.back_ns = capture_ns
                self._current += 1
        if samples is None:
            return None
        if current < len(self._episodes) and self._episodes[current].fault in WINDOW_FAULTS:
            self._note_least(self._episodes[current], samples, capture_ns)
        self._now_ns = max(self._now_ns, capture_ns + round(delay_ns))
        spec = bench.spec
        parts = encode_frame(bench.rig.name, spec.name, index, samples, capture_ns=stamp_ns, unit=spec.unit)
        return self._now_ns, list(parts)

    def _note_least(self, episode: Episode, samples: npt.NDArray[Any], capture_ns: int) -> None:
        """The first message at which a window that ended there would fail."""
        spec = self._bench.spec
        self._recent = np.concatenate([self._recent, samples])[-spec.window :]
        if episode.first_bad_ns is None or episode.least_ns is not None or len(self._recent) < spec.window:
            return
        thresholds = self._bench.manifest.health_thresholds.get(spec.name, {})
        if quality.judge(spec.kind, quality.measure(spec.kind, self._recent), thresholds) is not None:
            episode.least_ns = capture_ns


class _Watch:
    """Tells the changes of state that a fault explains from false alarms."""

    def __init__(self, episodes: list[Episode]) -> None:
        self._episodes = episodes
        self.false_alarms: Counter[str] = Counter()

    def see(self, event: HealthEvent) -> None:
        """Note a change of state: due to the fault that began last, unless the sensor was trusted again after it."""
        begun = [e for e in self._episodes if e.start_ns < event.at_ns]
        episode = begun[-1] if begun else None
        if event.state == "live":
            if episode is not None and episode.live_ns is None and event.at_ns > episode.end_ns:
                episode.live_ns = event.at_ns
        elif episode is None or episode.live_ns is not None:
            self.false_alarms[f"{event.state} {event.reason}"] += 1
        elif episode.detected_ns is None:
            episode.detected_ns, episode.state = event.at_ns, event.state


def faults_of(kind: str) -> tuple[str, ...]:
    """The faults that can happen to a kind of sensor."""
    return tuple(f for f in FAULTS if f in WIRE_FAULTS or kind in APPLIES_TO[f])
