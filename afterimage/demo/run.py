"""The whole demo: train, compile, measure on the test split, then play live with faults and report."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from afterimage.demo.play import LiveRun, demo_schedule, play_live
from afterimage.demo.report import accuracy_table, json_ready, live_report, summary_table
from afterimage.demo.timeline import draw_timeline
from engines.compiling.compile import compile_bundle
from engines.opening import open_session
from engines.session import Session
from engines.targets import load_target
from runtime.signals.moments import MomentSource
from runtime.signals.opening import find_data_dir, open_source
from runtime.view.serving import PageOptions


@dataclass(frozen=True)
class DemoOptions:
    """The options of the demo; see ``afterimage demo --help``."""

    system: str
    data: Literal["auto", "recorded", "synthetic"]
    data_dir: Path | None
    bundle: Path | None
    out: Path
    seed: int
    minutes: float
    fault_s: float
    headless: bool
    page: PageOptions | None = None


@dataclass
class Stopwatch:
    """Seconds per stage of the demo."""

    seconds: dict[str, float]
    console: Console

    @contextmanager
    def stage(self, name: str, description: str) -> Iterator[None]:
        """Print what begins, and keep how long it took."""
        self.console.print(f"[bold cyan]{name}[/]  {description}", highlight=False)
        begin = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - begin, 2)


MEASURED = (
    "accuracy", "imputation", "calibration", "coherence", "coverage", "latent_accuracy", "active_units", "retrieval",
)  # fmt: skip
"""Keys of the evaluation of the bundle that the demo's report contains."""


def run_demo(options: DemoOptions, console: Console) -> dict[str, Any]:
    """Run every stage and return the report (see docs/report.md for its keys).

    Writes ``report.png`` into ``options.out`` beside the bundle and the engine.

    Raises:
        NodeError, SensorProcessError: a process of the live part died.
        the known errors of the command line: a bundle, rig, engine or pack that cannot be used.
    """
    from trainers.evaluation.report import evaluate_bundle
    from trainers.training import train

    watch = Stopwatch({}, console)
    begin = time.monotonic()
    source = open_source(options.data, options.data_dir)
    console.print(f"[bold]Afterimage demo[/]: system {options.system}, {source.name} data", highlight=False)
    if options.bundle is None:
        with watch.stage("train", f"at most {options.minutes:g} minutes, then calibrate and export"):
            bundle = train(options.system, source, options.out, seed=options.seed, minutes=options.minutes)
    else:
        bundle = options.bundle
    with watch.stage("compile", "for the CPU, checked against the trainer's golden values"):
        engine = compile_bundle(bundle, load_target("cpu"), options.out / "engine")
    with open_session(engine) as session:
        with watch.stage("measure", "every missing pattern of the test split, through the engine"):
            measured = evaluate_bundle(session, source, split="test")
        run = _live(options, engine, session, source, watch)
        with watch.stage("report", str(options.out / "report.png")):
            report = _assemble(options, session, source, measured, run)
            _draw(options, session, source, run, report)
    watch.seconds["total"] = round(time.monotonic() - begin, 2)
    report["seconds"] = watch.seconds
    console.print(accuracy_table(report["accuracy"]))
    console.print(summary_table(report))
    _print_closing(report, console)
    return report


def _live(
    options: DemoOptions, engine: Path, session: Session, source: MomentSource, watch: Stopwatch
) -> LiveRun:
    rig = source.rig
    schedule = demo_schedule(rig, session.manifest, options.seed, fault_s=options.fault_s, pause_s=1.0)
    description = (
        f"{len(schedule.faults)} faults in {schedule.faults[-1].end_s:.0f} s, four sensor processes, one node"
    )
    with watch.stage("live", description):
        return play_live(
            engine,
            rig,
            session.manifest,
            source,
            find_data_dir(options.data_dir) if source.name == "recorded" else None,
            schedule,
            seed=options.seed,
            console=watch.console,
            animate=not options.headless and watch.console.is_terminal,
            page=options.page,
        )


def _assemble(
    options: DemoOptions, session: Session, source: MomentSource, measured: Mapping[str, Any], run: LiveRun
) -> dict[str, Any]:
    """The report: what was measured offline, what the live run showed, and what the node itself counted."""
    messages = run.statistics["messages"]
    live = live_report(run.recording, source.rig, session.manifest, run.span_s)
    report: dict[str, Any] = {
        "data": source.name,
        "system": session.manifest.system,
        "backend": session.backend,
        "bundle": session.bundle_hash,
        "seed": options.seed,
        "ticks": messages["ticks"]["published"],
        "missed_ticks": messages["ticks"]["missed"],
        **{k: measured[k] for k in MEASURED},
        **live,
        "stages_ms": run.statistics["latency_ms"],
        "messages": {
            k: messages[k] for k in ("received", "used", "pending", "dropped", "lost", "unaccounted")
        },
        "test": {k: v for k, v in measured.items() if k not in ("accuracy", "imputation", "calibration")},
        "sensors": run.sensors,
    }
    ready: dict[str, Any] = json_ready(report)
    return ready


def _draw(
    options: DemoOptions, session: Session, source: MomentSource, run: LiveRun, report: Mapping[str, Any]
) -> None:
    manifest = session.manifest
    full = "+".join(manifest.modality_names)
    title = (
        f"Afterimage, {manifest.system} on {source.name} sensors: "
        f"{100 * report['accuracy']['impute'][full]:.1f} % right with all sensors, "
        f"{report['missed_ticks']} of {report['ticks']} ticks missed"
    )
    draw_timeline(
        options.out / "report.png",
        title,
        manifest.classes,
        manifest.modality_names,
        run.recording.ticks,
        run.recording.faults(),
        run.recording.examples(session, source),
        {m.name: m.rate_hz for m in manifest.modalities},
    )


def _print_closing(report: Mapping[str, Any], console: Console) -> None:
    latency = report["latency_ms"]["frame_to_decision"]
    console.print(
        f"ticks {report['ticks']}, missed {report['missed_ticks']}; frame to decision p50 {latency['p50']:.1f} ms, "
        f"p99 {latency['p99']:.1f} ms; messages received {report['messages']['received']}, "
        f"unaccounted {report['messages']['unaccounted']}; ECE all {report['calibration']['ece']['all']:.3f}, "
        f"worst pattern {report['calibration']['ece']['worst_pattern']:.3f}; {report['seconds']['total']:.0f} s in all",
        highlight=False,
    )
