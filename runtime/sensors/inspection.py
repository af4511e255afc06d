"""Inspection: open every sensor of a rig, read it for a while, and report what it gives and what is wrong with it.

Every sensor is opened in a process of its own, as when it runs, so that a driver that hangs or crashes spoils only its
own line of the report.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.core import quality
from runtime.rig import Rig, SensorSpec
from runtime.rig.source_options import SyntheticOptions
from runtime.sensors.capture import Capture
from runtime.sensors.capture_process import CaptureSpec
from runtime.sensors.sample_source import ARRIVAL, SampleBlock, SourceRefusedError
from runtime.sensors.sensor_process import ONE_THREAD
from runtime.sensors.source_kinds import make_source

_RATE_TOLERANCE = 0.05
_STARTING_S = 10.0
"""The longest time that a process takes to start and end, apart from waiting for its source."""


@dataclass(frozen=True)
class SensorReport:
    """What a sensor gave, after its transform.

    Attributes:
        modality: which sensor.
        source: its kind.
        description: what was opened; empty if nothing was.
        messages: whole messages received.
        seconds: between the first and the last of them, by capture time.
        rate_hz: samples per second by capture time; None with less than two messages.
        interval_ms: between capture times of messages: ``p50`` and ``p99``.
        age_ms: from capture to arrival here: ``p50`` and ``p99``.
        shape: of one sample.
        dtype: of the samples.
        unit: of the samples.
        clock: id of the clock that stamped them.
        offset_ns: that clock minus this machine's CLOCK_MONOTONIC.
        uncertainty_ns: how far off that may be.
        counts: of the capture: opened, lost by reason, gaps, and the source's own (overflows).
        notes: remarks that are no problems.
        problems: what is wrong; empty if nothing is.
    """

    modality: str
    source: str
    description: str = ""
    messages: int = 0
    seconds: float = 0.0
    rate_hz: float | None = None
    interval_ms: dict[str, float] = field(default_factory=dict)
    age_ms: dict[str, float] = field(default_factory=dict)
    shape: tuple[int, ...] = ()
    dtype: str = ""
    unit: str = ""
    clock: str = ""
    offset_ns: int = 0
    uncertainty_ns: int = 0
    counts: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def good(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def inspect_rig(
    rig: Rig, *, seconds: float = 2.0, modalities: Iterable[str] | None = None
) -> tuple[SensorReport, ...]:
    """Open every sensor of a rig at once, read for some seconds, and report; nothing is published.

    Args:
        rig: whose sensors.
        seconds: to read, from a sensor's first message on.
        modalities: which of them; all by default.

    Raises:
        RigError: an unknown modality.
    """
    start_ns = time.monotonic_ns()
    wanted = rig.modality_names if modalities is None else tuple(modalities)
    specs = [CaptureSpec.of(rig, m, start_ns, endpoint="", parent=os.getpid()) for m in wanted]
    processes = [_spawn(spec, seconds) for spec in specs]
    try:
        return tuple(_finish(s, p, seconds) for s, p in zip(specs, processes, strict=True))
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()


def _spawn(spec: CaptureSpec, seconds: float) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "runtime.sensors.inspection", str(seconds), spec.title],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **ONE_THREAD},
    )
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(spec.model_dump_json() + "\n")
        process.stdin.flush()
    return process


def _finish(spec: CaptureSpec, process: subprocess.Popen[str], seconds: float) -> SensorReport:
    options = spec.source or SyntheticOptions()
    patience_s = 2 * options.open_s + seconds + _STARTING_S
    try:
        out, errors = process.communicate(timeout=patience_s)
    except subprocess.TimeoutExpired:
        return SensorReport(
            spec.sensor.modality, options.kind, problems=(f"hung: no report within {patience_s:.0f} s",)
        )
    try:
        fields: dict[str, Any] = json.loads(out)
        fields |= {k: tuple(fields[k]) for k in ("shape", "notes", "problems")}
        return SensorReport(**fields)
    except (json.JSONDecodeError, TypeError, KeyError):
        last = errors.strip().splitlines()[-1:] or ["it wrote no error"]
        problem = f"its process died with code {process.returncode}: {last[0]}"
        return SensorReport(spec.sensor.modality, options.kind, problems=(problem,))


class _Collector:
    """Collects what a capture delivers for the report; of images it keeps only the newest, and counts their changes."""

    def __init__(self, image: bool) -> None:
        self.first = threading.Event()
        self.messages: list[tuple[int, int]] = []
        self.newest: SampleBlock | None = None
        self.windows: list[npt.NDArray[Any]] = []
        self.changes = 0
        self._image = image

    def __call__(self, message: SampleBlock) -> None:
        here_ns = message.capture_ns - message.clock.offset_ns
        if self.newest is not None:
            self.changes += not np.array_equal(message.array, self.newest.array)
        self.newest = message
        self.messages.append((here_ns, time.monotonic_ns()))
        if self._image:
            self.windows = [message.array]
        else:
            self.windows.append(message.array)
        self.first.set()


def inspect_sensor(spec: CaptureSpec, seconds: float) -> tuple[SensorReport, bool]:
    """Open and read one sensor in this process.

    Returns:
        The report, and whether a thread was left in a call of the source that did not return.
    """
    sensor, stop, refused = spec.sensor, threading.Event(), []
    collector = _Collector(sensor.kind in ("rgb", "depth"))
    options = sensor.source or SyntheticOptions()
    start_ns = time.monotonic_ns() if spec.start_ns is None else spec.start_ns
    try:
        source = make_source(sensor, lambda: start_ns)
    except SourceRefusedError as e:
        return SensorReport(sensor.modality, options.kind, problems=(str(e),)), False
    capture = Capture(sensor, source, collector)

    def read() -> None:
        try:
            capture.run(stop)
        except SourceRefusedError as e:
            refused.append(str(e))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    end = time.monotonic() + options.open_s + 1.0
    while thread.is_alive() and not collector.first.wait(0.05) and time.monotonic() < end:
        pass
    if collector.first.is_set():
        thread.join(seconds)
    stop.set()
    thread.join(1.0)
    hung = thread.is_alive()
    if refused:
        return SensorReport(sensor.modality, options.kind, problems=tuple(refused)), hung
    report = _report(sensor, options.kind, capture, collector)
    problems = ["hung: a call of its library did not return"] if hung else []
    if not collector.messages:
        problems.append(capture.complaint or f"no message within {options.open_s:g} s")
    report = SensorReport(**{**asdict(report), "problems": (*problems, *report.problems)})
    return report, hung


def _report(sensor: SensorSpec, kind: str, capture: Capture, collector: _Collector) -> SensorReport:
    description = capture.delivery.description if capture.delivery else ""
    newest = collector.newest
    if newest is None:
        return SensorReport(sensor.modality, kind, description, counts=capture.counts())
    captured = np.array([c for c, _ in collector.messages], np.float64) / 1e6
    ages = np.array([a - c for c, a in collector.messages], np.float64) / 1e6
    intervals = np.diff(captured)
    span_s = float(captured[-1] - captured[0]) / 1000
    rate = _rate(captured / 1000, sensor.chunk)
    counts = capture.counts()
    notes = []
    if newest.clock.id == ARRIVAL.id:
        notes.append("stamped on arrival: the time from the sensor to here is not in its stamps")
    return SensorReport(
        sensor.modality,
        kind,
        description,
        len(captured),
        span_s,
        rate,
        _percentiles(intervals),
        _percentiles(ages),
        newest.array.shape[1:],
        newest.array.dtype.name,
        sensor.unit,
        newest.clock.id,
        newest.clock.offset_ns,
        newest.clock.uncertainty_ns,
        counts,
        tuple(notes),
        (
            *_timing_problems(sensor, rate, ages, counts),
            *content_problems(sensor, np.concatenate(collector.windows), collector.changes),
        ),
    )


def _rate(captured_s: npt.NDArray[np.float64], chunk: int) -> float | None:
    """Samples per second by capture time; the median over half the messages is robust against a few wrong stamps."""
    half = len(captured_s) // 2
    if half < 1:
        return None
    period = float(np.median(captured_s[half:] - captured_s[:-half])) / half
    return chunk / period if period > 0 else None


def _percentiles(values: npt.NDArray[np.float64]) -> dict[str, float]:
    return {f"p{p}": float(np.percentile(values, p)) for p in (50, 99)} if len(values) else {}


def _timing_problems(
    sensor: SensorSpec, rate: float | None, ages: npt.NDArray[np.float64], counts: dict[str, Any]
) -> list[str]:
    problems = []
    if rate is None:
        problems.append("only one message came")
    elif abs(rate - sensor.rate_hz) > _RATE_TOLERANCE * sensor.rate_hz:
        word = "slow" if rate < sensor.rate_hz else "fast"
        problems.append(f"too {word}: {rate:.1f} samples a second, the rig says {sensor.rate_hz:g}")
    if (oldest := float(np.percentile(ages, 50))) > 250:
        problems.append(f"late: samples are {oldest:.0f} ms old when they come")
    if (ahead := -float(ages.min())) > 50:
        problems.append(f"stamps lie up to {ahead:.0f} ms in the future")
    for reason, times in counts["lost"].items():
        problems.append(f"{reason}: lost and opened again {times} times")
    problems += [f"{what}: {times}" for what, times in counts["source"].items() if times and what != "loops"]
    return problems


def content_problems(sensor: SensorSpec, samples: npt.NDArray[Any], changes: int) -> list[str]:
    """What is wrong with samples whatever the bundle; a bundle's own thresholds are finer.

    Args:
        sensor: the sensor that gave them.
        samples: (n, *sample_shape), n >= 1; of images the newest is judged.
        changes: how often a message differed from the one before.
    """
    image = sensor.kind in ("rgb", "depth")
    worst: tuple[tuple[bool, str], ...]
    if samples.dtype.kind == "f" and not np.isfinite(samples).all():
        return ["samples are not finite"]
    found = quality.measure(sensor.kind, samples[-1] if image else samples)
    if sensor.kind == "rgb":
        worst = (
            (found["black_share"] > 0.95, "black"),
            (found["saturated_share"] > 0.95, "saturated"),
        )
    elif sensor.kind == "depth":
        readings = samples[-1][samples[-1] > 0]
        median = float(np.median(readings)) if readings.size else 0.0
        worst = (
            (found["hole_share"] > 0.95, "hardly any reading: covered, or too close"),
            (0 < median < 50, f"half of its readings are below {median:g} mm: are they millimetres?"),
            (
                median > 20_000,
                f"half of its readings are beyond {median / 1000:.0f} m: are they millimetres?",
            ),
        )
    elif sensor.kind == "audio":
        worst = (
            (found["rms"] < 1, "silent"),
            (found["clipped_share"] > 0.01, f"clipped: {found['clipped_share']:.0%} of its samples"),
        )
    else:
        worst = (
            (found["flat_share"] > 0.5, "a channel is flat"),
            (found["deviation"] < 0.05, "hardly a twentieth of a microvolt: are they microvolts?"),
            (found["deviation"] > 5000, f"{found['deviation']:.0f} uV strong: are they microvolts?"),
        )
    problems = [text for wrong, text in worst if wrong]
    if image and changes == 0:
        problems.insert(0, "frozen: all images are the same")
    return problems


def main(arguments: list[str]) -> int:
    """Inspect the sensor whose :class:`CaptureSpec` is on stdin; the report is one line of JSON."""
    spec = CaptureSpec.model_validate_json(sys.stdin.readline())
    report, left = inspect_sensor(spec, float(arguments[0]))
    print(json.dumps(asdict(report)), flush=True)
    if left:
        os._exit(0)  # a thread is in a call of the library, which an orderly exit would wait for
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
