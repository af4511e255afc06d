"""What a pause costs: the pipeline's own work on one EEG message, and on one tick, after a pause of so long.

The same code does the same work, without sockets and without another thread; only what the processor did in between
differs: nothing (asleep), a loop (busy), or the engine's encoder. Where a busy pause costs as much as sleep, it is not
waking up that takes long, but fetching code and data that have left the caches meanwhile.
Usage: python benchmarks/after_a_pause.py BUNDLE [--rig commands-4] [--times 200] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from engines.opening import open_session
from engines.session import Session
from runtime.core.pipeline import Pipeline, TickPlan
from runtime.node.decisions import DecisionMaker, FusedPlan
from runtime.rig import Rig, load_rig
from runtime.wire import encode_frame, encode_output

PAUSES_S = (0.0003, 0.003, 0.03)
MODALITY = "eeg"


class Work:
    """A pipeline that is given one message or one tick at a time, on a clock of its own."""

    def __init__(self, rig: Rig, session: Session) -> None:
        self.rig, self.session = rig, session
        self.sensor = rig.sensor(MODALITY)
        self.pipeline = Pipeline(rig, session.manifest, 0)
        self.maker = DecisionMaker(rig, session)
        self.now_ns = self.number = 0
        shape = (64, self.sensor.chunk, *self.sensor.sample_shape)
        self.pool = (20 * np.random.default_rng(0).standard_normal(shape)).astype(self.sensor.dtype)

    def message(self) -> float:
        """One message, received and, every so many, cut into a window and checked; microseconds."""
        self.now_ns += round(self.sensor.period_s * 1e9)
        parts = encode_frame(
            self.rig.name,
            MODALITY,
            self.number,
            self.pool[self.number % len(self.pool)],
            capture_ns=self.now_ns,
            unit=self.sensor.unit,
        )
        self.number += 1
        begin = time.perf_counter_ns()
        self.pipeline.receive(parts, self.now_ns)
        due = self.pipeline.due_windows(self.now_ns)
        took = (time.perf_counter_ns() - begin) / 1e3
        for window in due:
            evidence = self.session.encode(MODALITY, window.window[np.newaxis])[0]
            self.pipeline.store_evidence(MODALITY, evidence, window.capture_ns)
        return took

    def tick(self) -> float:
        """One tick from the plan to the decision's bytes, the engine aside; microseconds."""
        self.now_ns += round(1e9 / self.rig.tick.rate_hz)
        classes = len(self.session.manifest.classes)
        begin = time.perf_counter_ns()
        plan: TickPlan | None = self.pipeline.tick(self.now_ns)
        assert plan is not None
        decision = self.maker.decision(
            plan, FusedPlan([1 / classes] * classes), published_ns=self.now_ns, fuse_ms=0.0
        )
        encode_output(decision)
        return (time.perf_counter_ns() - begin) / 1e3


def busy(seconds: float) -> None:
    """Keep the core at work without touching memory."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def measure(work: Work, times: int) -> dict[str, dict[str, float]]:
    """Work -> what came before it -> median microseconds; the cases take turns, so that noise hits all alike."""
    window = np.zeros((1, *work.session.manifest.modality("rgb").window_shape), np.uint8)
    pauses: dict[str, Callable[[], Any]] = {"nothing": lambda: None}
    for pause_s in PAUSES_S:
        pauses[f"{1000 * pause_s:g} ms asleep"] = lambda pause_s=pause_s: time.sleep(pause_s)
    pauses[f"{1000 * PAUSES_S[-1]:g} ms busy"] = lambda: busy(PAUSES_S[-1])
    pauses["the RGB encoder"] = lambda: work.session.encode("rgb", window)
    took: dict[str, dict[str, list[float]]] = {"message": {}, "tick": {}}
    for _ in range(200):  # windows fill
        work.message()
    for turn in range(times):
        for name, pause in pauses.items():
            for kind, do in (("message", work.message), ("tick", work.tick)):
                for _ in range(3):  # warm, so that only the pause is between
                    do()
                pause()
                took[kind].setdefault(name, []).append(do())
        if turn == 0:
            took = {"message": {}, "tick": {}}
    return {kind: {name: float(np.median(v)) for name, v in of.items()} for kind, of in took.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("bundle", type=Path, help="bundle or engine of a model that the rig feeds")
    parser.add_argument("--rig", default="commands-4")
    parser.add_argument("--times", type=int, default=200)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with open_session(arguments.bundle) as session:
        session.warm_up()
        found = measure(Work(load_rig(arguments.rig), session), arguments.times)
    table = Table(title="median µs of the node's own work")
    for column in ("before", f"one message of {MODALITY}", "one tick"):
        table.add_column(column, justify="left" if column == "before" else "right")
    for name in found["tick"]:
        table.add_row(name, f"{found['message'][name]:.0f}", f"{found['tick'][name]:.0f}")
    Console().print(table)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
