"""Stories that hypothesis makes up of sensors, clocks, an engine and a shell, and a bench that goes through them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from checked_pipeline import ALL, CheckedPipeline
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from pipeline_bench import (
    CHUNK,
    EVIDENCE_SIZE,
    MS,
    SECOND,
    SENSORS,
    START,
    Bench,
    bench_manifest,
    bench_rig,
)

from runtime.core.pipeline import DueWindow
from runtime.rig import Rig
from runtime.wire import Clock, encode_frame


def rig_with(**changes: Any) -> Rig:
    return Rig.model_validate(bench_rig().model_dump() | changes)


COMPARED = ("impute", "hold", "zero")


class Story(Bench):
    """A bench that goes through what hypothesis makes up; every call to its pipeline is checked."""

    def __init__(self, rig: Rig) -> None:
        super().__init__(rig, bench_manifest())
        self.pipeline = CheckedPipeline(rig, bench_manifest(), START, compare=COMPARED)
        for name in ALL:
            self.pipeline.set_blank_evidence(name, np.full(EVIDENCE_SIZE, -1, np.float32))
        self.counted = 0
        self.held_back: list[DueWindow] = []
        self.last: dict[str, list[bytes]] = {}
        self.offset: Counter[str] = Counter()
        self.stamp = {m: lambda true_ns, m=m: true_ns + self.offset[m] for m in ALL}
        self.encodings = 0

    def samples(self, modality: str) -> np.ndarray:
        if modality != "audio":
            return super().samples(modality)
        self.counted += CHUNK["audio"]
        return ((self.counted + np.arange(CHUNK["audio"])) % 20000 + 1000).astype(np.int16)

    def parts(self, modality: str, samples: np.ndarray, **changes: Any) -> list[bytes]:
        fields = {
            "rig": "bench",
            "modality": modality,
            "sequence": self.sequence[modality],
            "unit": SENSORS[modality]["unit"],
            "capture_ns": max(0, self.now + self.offset[modality]),
        } | changes
        return [bytes(p) for p in encode_frame(samples=samples, **fields)]

    def act(self, action: str, modality: str, size: int) -> None:
        """One event. ``size`` is 0..9: how much of it."""
        step = (0, 1, MS, 20 * MS, 34 * MS, 50 * MS, 50 * MS + 1, 110 * MS, 400 * MS, 3600 * SECOND)[size]
        match action:
            case "run":
                self.catch_up()
                self.run(0.03 + 0.04 * size)
            case "wait":
                self.now += step
            case "stall":
                self.now += step
                self.work()
            case "wake":
                self.now = self.pipeline.wake_ns(self.now)
                self.pipeline.tick(self.now)
            case "silence":
                self.silent ^= {modality}
            case "late":
                self.delay_ns[modality] = size * 60 * MS
            case "freeze":
                still = self.samples(modality)
                self.taint(modality, lambda _: still)
            case "black":
                self.taint(modality, np.zeros_like)
            case "loud":
                top = (
                    np.finfo(np.float32).max
                    if modality == "eeg"
                    else np.iinfo(SENSORS[modality]["dtype"]).max
                )
                self.taint(modality, lambda s: np.full_like(s, top))
            case "clean":
                self.spoil.pop(modality, None)
            case "lose":
                if modality == "audio":
                    self.counted += size * CHUNK["audio"]
                self.sequence[modality] += size
            case "restart":
                self.sequence[modality] = 0
            case "set_clock":
                self.offset[modality] = (
                    (-3600, -10, -1, -0.1, -0.02, 0, 0.02, 0.2, 10, 3600)[size] * SECOND // 1
                )
                self.offset[modality] = int(self.offset[modality])
            case "repeat":
                for _ in range(size):
                    self.pipeline.receive(self.last.get(modality, [b""]), self.now)
            case (
                "old"
                | "future"
                | "backward"
                | "uncertain"
                | "nan"
                | "shape"
                | "dtype"
                | "unit"
                | "rig"
                | "wild"
            ):
                self.spoiled(action, modality, size)
            case "garbage":
                junk = bytes(range(size))
                self.pipeline.receive([b"frame/bench/" + modality.encode(), junk, junk], self.now)
                self.pipeline.receive([junk] * size, self.now)
            case "cut":
                self.held_back += self.pipeline.due_windows(self.now)
                self.held_back = self.held_back[-6:]
            case "store":
                if self.held_back:
                    self.encoded_now(self.held_back.pop(0), bad=size == 0)
            case "fail":
                self.pipeline.encode_failed(modality, self.now, "RuntimeError: no")
            case "check":
                self.pipeline.check(self.now)
            case "tick":
                self.pipeline.tick(self.now)
            case "events":
                self.pipeline.events()
        self.pipeline.wake_ns(self.now)

    def taint(self, modality: str, spoil: Any) -> None:
        self.spoil[modality] = spoil
        self.pipeline.ramp &= modality != "audio"

    def spoiled(self, action: str, modality: str, size: int) -> None:
        """One message that is wrong in some way, without a number of its own."""
        samples = super().samples(modality)
        self.pipeline.ramp &= modality != "audio" or action not in (
            "old",
            "future",
            "backward",
            "uncertain",
            "wild",
        )
        changes: dict[str, Any] = {}
        match action:
            case "old":
                changes = {
                    "sequence": max(0, self.sequence[modality] - 1 - size),
                    "capture_ns": self.now - SECOND,
                }
            case "future":
                changes["capture_ns"] = self.now + (size + 1) * 20 * MS
            case "backward":
                changes["capture_ns"] = self.now - 10 * size * MS
            case "uncertain":
                changes["clock"] = Clock("own", 0, size * 10**8)
            case "nan":
                samples = np.full(samples.shape, np.nan, np.float32) if modality == "eeg" else samples[:0]
                if not samples.size:
                    return
            case "shape":
                samples = samples[:, None]
            case "dtype":
                samples = samples.astype(np.uint16)
            case "unit":
                changes["unit"] = "furlong"
            case "rig":
                changes["rig"] = "other"
            case "wild":
                changes["sequence"] = 2**63 - 1 - size
        self.pipeline.receive(self.parts(modality, samples, **changes), self.now)

    def send(self, modality: str, /, samples: np.ndarray | None = None, **changes: Any) -> Any:
        self.last[modality] = self.parts(modality, samples, capture_ns=max(0, changes["capture_ns"]))
        self.sequence[modality] += 1
        return self.pipeline.receive(self.last[modality], self.now)

    def encoded_now(self, due: DueWindow, *, bad: bool = False) -> None:
        self.encodings += 1
        value = np.full(EVIDENCE_SIZE, np.nan if bad else self.encodings, np.float32)
        self.pipeline.store_evidence(due.modality, value, due.capture_ns)

    def work(self) -> None:
        if self.encode:
            while self.held_back:  # as the shell does: in the order in which they were cut
                self.encoded_now(self.held_back.pop(0))
            for due in self.pipeline.due_windows(self.now):
                self.encoded_now(due)
        self.pipeline.tick(self.now)
        self.pipeline.events()

    def catch_up(self) -> None:
        """After a pause the sensors have not queued what they would have sent meanwhile: they lost it."""
        for name in ALL:
            behind = max(0, (self.now - self.next_capture[name]) // self.period(name))
            if behind > 3:
                self.next_capture[name] += behind * self.period(name)
                self.sequence[name] += behind
                self.counted += behind * CHUNK[name] if name == "audio" else 0


ACTIONS = [
    "run",
    "run",
    "run",
    "wait",
    "stall",
    "wake",
    "silence",
    "late",
    "freeze",
    "black",
    "loud",
    "clean",
    "clean",
    "lose",
    "restart",
    "set_clock",
    "set_clock",
    "repeat",
    "old",
    "future",
    "backward",
    "uncertain",
    "nan",
    "shape",
    "dtype",
    "unit",
    "rig",
    "wild",
    "garbage",
    "cut",
    "store",
    "fail",
    "check",
    "tick",
    "events",
]
STORIES = st.lists(st.tuples(st.sampled_from(ACTIONS), st.sampled_from(ALL), st.integers(0, 9)), max_size=25)
RIGS = {
    "rate": rig_with(),
    "odd_rate": rig_with(tick={"rate_hz": 7.3}),
    "hold": rig_with(fill="hold"),
    "arrival": rig_with(tick={"policy": "arrival", "rate_hz": 20}),
    "disagreeing": rig_with(health={"implausible_odds": 1.5}),
    "arrival_of_one": rig_with(tick={"policy": "arrival", "on": ("eeg",), "rate_hz": 3}),
}
REPEATABLE = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    print_blob=True,
    phases=(Phase.explicit, Phase.generate),  # shrinking stories of thousands of calls takes minutes
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def tell(rig: Rig, actions: list[tuple[str, str, int]]) -> Story:
    story = Story(rig)
    if len(actions) % 3:
        # Everything is live; else it happens while they begin. What is implausible takes longer to be.
        story.run(0.7 if rig.health.implausible_odds is None else 5.0)
    for action in actions:
        story.act(*action)
    story.pipeline.events()
    return story
