"""The live part of the demo: a node process, sensor processes that break on schedule, and this process as client."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live

from afterimage.demo.live import Playing
from afterimage.demo.node_process import NodeError, NodeProcess
from afterimage.demo.recording import LiveRecording
from afterimage.demo.view import LiveState, render
from engines.bundle import Manifest
from runtime.client import Client
from runtime.logs import LEVEL_VARIABLE
from runtime.rig import Rig
from runtime.rig.source_options import SyntheticOptions
from runtime.sensors.supervisor import Supervisor
from runtime.signals.faults import FaultSchedule
from runtime.signals.moments import MomentSource
from runtime.signals.playback import plan_for
from runtime.transport.endpoints import Endpoints
from runtime.view.serving import PageOptions, serving_page
from runtime.wire import Decision

__all__ = ["LiveRun", "NodeError", "demo_schedule", "play_live"]

_SETTLE_S = 4.5
"""Seconds of healthy play before the first fault: the longest window fills and the first decisions settle."""
_REDRAW_S = 0.15


@dataclass(frozen=True)
class LiveRun:
    """The results of a live run: recording, the node's statistics, the sensors' counts, first and last second."""

    recording: LiveRecording
    statistics: dict[str, Any]
    sensors: dict[str, list[dict[str, Any]]]
    span_s: tuple[float, float]


def demo_schedule(
    rig: Rig, manifest: Manifest, seed: int, *, fault_s: float, pause_s: float
) -> FaultSchedule:
    """The demo's faults: each sensor silent, then pairs, then all but one, then sensors that deliver wrong samples.

    After each fault comes a pause: the time that its slowest window needs to fill again, plus ``pause_s``.
    """
    window_s = {m.name: (m.window + m.hop) / m.rate_hz for m in manifest.modalities}
    plain = FaultSchedule.demo(rig, seed=seed, first_s=0, fault_s=fault_s, recovery_s=0)
    at, faults = _SETTLE_S, []
    for fault in plain.faults:
        faults.append(fault.model_copy(update={"start_s": at, "end_s": at + fault_s}))
        at += fault_s + pause_s + max(window_s[m] for m in fault.modalities)
    return plain.model_copy(update={"faults": tuple(faults)})


def play_live(
    engine: Path,
    rig: Rig,
    manifest: Manifest,
    source: MomentSource,
    data_dir: Path | None,
    schedule: FaultSchedule,
    *,
    seed: int,
    console: Console,
    animate: bool,
    page: PageOptions | None = None,
) -> LiveRun:
    """Run node and sensors as processes, through the whole schedule, and keep what the node publishes.

    Args:
        engine: compiled engine folder.
        rig: the sensors.
        manifest: of the engine's bundle.
        source: what the sensor processes play; opened here only to know the truth.
        data_dir: folder of the packs, for recorded data.
        schedule: the faults.
        seed: of the order of moments.
        console: where the view is drawn.
        animate: draw the live view; otherwise a line per fault.
        page: where to serve the live page; None for no page.

    Raises:
        NodeError: the node did not start or died.
        SensorProcessError: a sensor did not start.
    """
    moments = SyntheticOptions(data=source.name, data_dir=data_dir, plan_seed=seed, split="test")
    with tempfile.TemporaryDirectory(prefix="afterimage-demo-") as folder:
        endpoints = Endpoints(f"ipc://{folder}/frames", f"ipc://{folder}/decisions")
        with NodeProcess(engine, rig, endpoints, Path(folder), compare=("hold", "zero")) as node:
            with (
                Client(
                    rig, ("fused", "health", "imputed/"), endpoint=endpoints.decisions, queue=2048
                ) as client,
                Supervisor(
                    rig.with_source(moments),
                    endpoints.frames,
                    faults=schedule,
                    restart=False,
                    together=True,
                    # Lines of other processes would run through the live view.
                    environment={LEVEL_VARIABLE: "WARNING"} if animate else None,
                ) as sensors,
            ):
                # The node already runs, and waits while the sensors open their packs.
                start_ns = sensors.start()
                recording = LiveRecording(
                    classes=manifest.classes,
                    plan=plan_for(source, "test", seed),
                    start_ns=start_ns,
                    window_s={
                        m.name: 0.0 if m.window == 1 else m.window / m.rate_hz for m in manifest.modalities
                    },
                    schedule=schedule,
                )
                end_s = schedule.faults[-1].end_s + _SETTLE_S
                with _page(page, recording, endpoints, rig, console) if page is not None else nullcontext():
                    _follow(client, recording, end_s, console, animate, node.check)
                counts = {m: [_played(c) for c in s["processes"]] for m, s in sensors.stop().items()}
            statistics = node.stop()
    return LiveRun(recording, statistics, counts, (_SETTLE_S, end_s))


def _played(counts: dict[str, Any]) -> dict[str, Any]:
    """What the report shows of a sensor process's counts: messages by fate, and how late they were published."""
    return {
        **{key: counts[key] for key in ("modality", "published", "silenced")},
        "overrun": counts["source"]["overrun"],
        "late_ms": counts["age_ms"],
    }


def _page(
    options: PageOptions, recording: LiveRecording, endpoints: Endpoints, rig: Rig, console: Console
) -> AbstractContextManager[object]:
    """The live page beside the scripted run; without switches, because the run is scored."""

    def fault(time_s: float) -> str:
        return recording.fault_at(time_s) if recording.is_broken(time_s) else ""

    playing = Playing(recording.classes, recording.plan, recording.start_ns, fault)
    client = Client(rig, ("fused", "health", "statistics"), endpoint=endpoints.decisions)
    return serving_page(client, options, console.print, commentary=playing)


def _follow(
    client: Client,
    recording: LiveRecording,
    end_s: float,
    console: Console,
    animate: bool,
    check: Callable[[], None],
) -> None:
    """Take in messages until the end of the schedule, and show the progress."""
    now_s, shown_s, printed = 0.0, -1.0, ""
    counts = {"ticks": 0, "missed": 0}
    with Live(console=console, auto_refresh=False, transient=True) if animate else _Silent() as live:
        while now_s < end_s:
            message = client.receive(timeout_s=0.2)
            now_s = recording.seconds(time.monotonic_ns())
            if message is None:
                check()
                continue
            before = recording.last
            recording.add(message)
            if isinstance(message, Decision):
                counts["ticks"] += 1
                counts["missed"] += message.tick - before.tick - 1 if before is not None else 0
            fault = recording.fault_at(now_s)
            if animate and recording.ticks and now_s - shown_s > _REDRAW_S:
                live.update(render(_state(recording, now_s, end_s, fault, counts)), refresh=True)
                shown_s = now_s
            elif not animate and fault != printed and now_s > 0:
                console.print(f"  {now_s:6.1f} s  {fault}", highlight=False)
                printed = fault


class _Silent:
    """Takes the place of the live view where none is drawn."""

    def __enter__(self) -> _Silent:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def update(self, *_: object, **__: object) -> None:
        """Draw nothing."""


def _state(
    recording: LiveRecording, now_s: float, end_s: float, fault: str, counts: dict[str, int]
) -> LiveState:
    tick, decision = recording.ticks[-1], recording.last
    assert decision is not None  # ticks are made from decisions
    return LiveState(
        elapsed_s=now_s,
        total_s=end_s,
        fault=fault,
        states=tick.states,
        ages_ms={m: r.age_ms for m, r in decision.modalities.items()},
        imputed=tick.imputed,
        classes=recording.classes,
        probabilities=tick.probabilities,
        label=tick.label,
        truth=tick.truth,
        others=tick.others,
        frame_to_decision_ms=tick.frame_to_decision_ms,
        ticks=counts["ticks"],
        missed=counts["missed"],
    )
