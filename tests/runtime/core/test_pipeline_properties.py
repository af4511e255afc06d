"""Properties of the pipeline that hold whatever happens to it, in whatever order, while its clock does not run back.

:class:`Witness` is a pipeline that checks them after every call, against a model of its own that knows only what was
handed in and what came out. Hypothesis makes up the story.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pipeline_bench import (
    CHUNK,
    EVIDENCE_SIZE,
    MS,
    SECOND,
    SENSORS,
    START,
    WINDOW,
    Bench,
    bench_manifest,
    bench_rig,
)

from runtime.core.fusion import FusionInput
from runtime.core.pipeline import DueWindow, Pipeline, Received, Rejected, State, TickPlan
from runtime.rig import Rig
from runtime.wire import Clock, HealthEvent, Reason, encode_frame

ALL = tuple(SENSORS)
AFTER_ACCEPTING = {Reason.SUPERSEDED, Reason.BROKEN_WINDOW, Reason.FROZEN, Reason.CORRUPT}
"""Reasons of messages that were accepted first; all others come with a refusal."""
SPEAKS = {Reason.NOT_FINITE, Reason.FUTURE, Reason.BACKWARD}
"""A refusal for one of these may still be a sign of life."""
CONTENT = {"not_finite", "black_share_max", "rms_min", "clipped_share_max", "flat_share_max", "offset_max"}
REASONS = {
    "live": {"started", "recovered"},
    "missing": {"silence", "no_frame", "no_window", "refused", "encode_failed"},
    "late": {"capture_age", "evidence_age"},
    "frozen": {"identical"},
    "bad_clock": {"future", "backward", "uncertain"},
    "corrupt": CONTENT,
}
"""docs/protocol.md: state -> the reasons it is entered with. Nothing ever leads to ``waiting``."""


class Witness(Pipeline):
    """A pipeline that checks what it said after every call, and keeps the calls so that they can be made again."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.results: list[Any] = []
        self.now = START
        self.arrived: Counter[str | None] = Counter()
        self.accepted: Counter[str | None] = Counter()
        self.refused: Counter[tuple[str | None, Reason]] = Counter()
        self.given: Counter[str] = Counter()
        self.any_ns: dict[str, int] = {}  # the last message, whatever it was
        self.accepted_ns: dict[str, int] = {}
        self.speaking_ns: dict[str, int] = {}  # the last message that may be a sign of life
        self.window_ns: dict[
            str, tuple[int, int]
        ] = {}  # capture of the last window, clock corrections till then
        self.held: dict[str, tuple[np.ndarray, int]] = {}
        self.states: dict[str, str] = dict.fromkeys(ALL, "waiting")
        self.fault_ns: dict[str, int] = {}
        self.event_ns = START
        self.number, self.deadline_ns = -1, START
        self.brought = False
        self.ramp = True  # audio samples count up by one, so that a window with a gap shows

    def receive(self, parts: Sequence[Any], now_ns: int) -> Received | Rejected:
        answer = super().receive(parts, now_ns)
        modality = answer.frame.modality if isinstance(answer, Received) else answer.modality
        self.arrived[modality] += 1
        if isinstance(answer, Received):
            self.accepted[modality] += 1
        else:
            self.refused[modality, answer.reason] += 1
        if modality is not None:
            self.any_ns[modality] = now_ns
            if isinstance(answer, Received):
                self.accepted_ns[modality] = now_ns
            if isinstance(answer, Received) or answer.reason in SPEAKS:
                self.speaking_ns[modality] = now_ns
        self._told("receive", (parts, now_ns), answer if isinstance(answer, Rejected) else "received", now_ns)
        return answer

    def due_windows(self, now_ns: int) -> list[DueWindow]:
        due = super().due_windows(now_ns)
        assert len({d.modality for d in due}) == len(due)
        for window in due:
            self.given[window.modality] += 1
            assert window.window.shape == self._streams[window.modality].spec.window_shape
            corrections = self._streams[window.modality].clock_guard.reanchored
            before_ns, corrected_before = self.window_ns.get(window.modality, (-1, 0))
            # Capture times go back only where the sensor's clock was set, and the node followed it.
            assert window.capture_ns > before_ns or corrections > corrected_before
            self.window_ns[window.modality] = window.capture_ns, corrections
            if window.modality == "audio" and self.ramp:
                assert set(np.diff(window.window.astype(int)) % 20000) == {1}, "a window bridges a gap"
        self._told(
            "due_windows", (now_ns,), [(d.modality, d.capture_ns, d.window.tobytes()) for d in due], now_ns
        )
        return due

    def store_evidence(self, modality: str, evidence: np.ndarray, capture_ns: int) -> None:
        super().store_evidence(modality, evidence, capture_ns)
        if np.isfinite(evidence).all():
            self.held[modality] = evidence, capture_ns
            self.brought = self.brought or modality in (self.rig.tick.on or ALL)
        self._told("store_evidence", (modality, evidence, capture_ns), None, self.now)

    def encode_failed(self, modality: str, now_ns: int, detail: str) -> None:
        super().encode_failed(modality, now_ns, detail)
        assert self.state(modality) is not State.LIVE
        self._told("encode_failed", (modality, now_ns, detail), None, now_ns)

    def check(self, now_ns: int) -> None:
        super().check(now_ns)
        for name in ALL:
            self._check_silence(name, now_ns)
        self._told("check", (now_ns,), None, now_ns)

    def tick(self, now_ns: int) -> TickPlan | None:
        plan = super().tick(now_ns)
        assert self.calls.pop()[0] == "check"  # its own
        self.results.pop()
        self._check_schedule(plan, now_ns)
        if plan is not None:
            self._check_plan(plan, now_ns)
        self._told("tick", (now_ns,), None if plan is None else plain(plan), now_ns)
        return plan

    def wake_ns(self, now_ns: int) -> int:
        wake = super().wake_ns(now_ns)
        assert now_ns <= wake <= max(now_ns, self.deadline_ns + self.longest_ns)
        for name, at_ns in self.any_ns.items():
            if name in self.accepted_ns and self.state(name) is not State.MISSING:
                assert wake <= max(now_ns, at_ns + self._streams[name].health.limits.silence_ns + 1)
        return wake

    def events(self) -> list[HealthEvent]:
        events = super().events()
        for e in events:
            assert e.previous == self.states[e.modality], "the chain of events has a gap"
            assert e.state != e.previous
            assert e.reason in REASONS[e.state]
            assert (e.reason == "started") == (e.previous == "waiting" and e.state == "live")
            assert self.event_ns <= e.at_ns <= self.now
            self.event_ns, self.states[e.modality] = e.at_ns, e.state
            if e.state != "live":
                self.fault_ns[e.modality] = e.at_ns
        for name in ALL:
            assert self.state(name).value == self.states[name]
            if self.states[name] == "live":
                assert self.held[name][1] > self.fault_ns.get(name, -1), (
                    "live on evidence from before the fault"
                )
        self._told("events", (), events, self.now)
        return events

    @property
    def period_ns(self) -> int:
        return 10**12 // round(self.rig.tick.rate_hz * 1000)

    @property
    def longest_ns(self) -> int:
        """From one deadline to the next: a period, and one for rounding."""
        return self.period_ns + 1

    def due_ns(self, number: int) -> int:
        return START + (number + 1) * 10**12 // round(self.rig.tick.rate_hz * 1000)

    def _told(self, call: str, given: tuple[Any, ...], result: Any, now_ns: int) -> None:
        assert now_ns >= self.now
        self.now = now_ns
        self.calls.append((call, given))
        self.results.append(result)
        if call in ("receive", "due_windows", "tick"):  # the others count nothing
            self._check_counters()

    def _check_counters(self) -> None:
        counters = self.counters()
        assert counters["received"] == self.arrived.total()
        assert counters["unaccounted"] == 0
        parts = {**counters["modalities"], None: counters["unattributed"]}
        for name, part in parts.items():
            assert part["received"] == self.arrived[name]
            dropped = {Reason(r): n for r, n in part["dropped"].items()}
            refused = {r: n for r, n in dropped.items() if r not in AFTER_ACCEPTING}
            assert refused == {r: n for (m, r), n in self.refused.items() if m == name}
            spent = part["used"] + part["pending"] + sum(dropped.values()) - sum(refused.values())
            assert spent == self.accepted[name]
            if name is not None:
                assert part["pending"] <= sum(WINDOW[name]) + 1
                assert part["windows"]["encoded"] == self.given[name]
                assert part["used"] >= bool(self.given[name])
        assert sum(counters["ticks"].values()) == self.number_after_tick()

    def number_after_tick(self) -> int:
        return self.number + 1

    def _check_silence(self, name: str, now_ns: int) -> None:
        limits, state = self._streams[name].health.limits, self.state(name)
        if name not in self.speaking_ns:
            if now_ns - START > limits.first_frame_ns:
                assert state is State.MISSING
        elif now_ns - self.speaking_ns[name] > limits.silence_ns:
            # Between its first message and this judgement it spoke at most then.
            waits = name not in self.accepted_ns and now_ns - START <= limits.first_frame_ns
            assert state is State.MISSING or waits
        if state is State.LIVE:
            assert now_ns - self.held[name][1] <= limits.stale_ns
            assert now_ns - self.accepted_ns[name] <= limits.silence_ns or now_ns == self.speaking_ns[name]

    def _check_schedule(self, plan: TickPlan | None, now_ns: int) -> None:
        arrival = self.rig.tick.policy == "arrival"
        if plan is None:
            assert now_ns < (self.deadline_ns + self.period_ns if arrival else self.due_ns(self.number + 1))
            assert not (arrival and self.brought), "evidence waits for its tick"
            return
        assert plan.number > self.number
        assert self.deadline_ns <= plan.deadline_ns <= now_ns
        assert now_ns - plan.deadline_ns <= self.longest_ns
        if not arrival:
            assert plan.deadline_ns == self.due_ns(plan.number) > self.deadline_ns
        elif not self.brought:
            assert plan.deadline_ns >= self.deadline_ns + self.period_ns
        self.number, self.deadline_ns, self.brought = plan.number, plan.deadline_ns, False

    def _check_plan(self, plan: TickPlan, now_ns: int) -> None:
        assert tuple(plan.modalities) == ALL
        live = {m: self.state(m) is State.LIVE for m in ALL}
        self._check_input(self.rig.fill, plan.input, live)
        for policy, fused in plan.alternatives.items():
            self._check_input(policy, fused, live)
        for i, (name, status) in enumerate(plan.modalities.items()):
            assert status.state is self.state(name)
            assert (status.reason == "") == live[name]
            assert status.weight == plan.input.presence[i]
            assert status.imputed == (name in plan.input.imputed)
            assert status.age_ns == (now_ns - self.held[name][1] if name in self.held else None)
        assert plan.capture_ns == max((self.held[m][1] for m in ALL if live[m]), default=None)

    def _check_input(self, policy: str, given: FusionInput, live: dict[str, bool]) -> None:
        """What docs/protocol.md says of ``fill``: only ``impute`` tells the model who is there."""
        for i, name in enumerate(ALL):
            present = {"impute": live[name], "hold": name in self.held, "zero": True}[policy]
            assert given.presence[i] == present == (name in given.evidence)
            assert (name in given.imputed) == (policy == "impute" and not live[name])
            if present:
                held = live[name] or policy == "hold"
                expected = self.held[name][0] if held else np.full(EVIDENCE_SIZE, -1, np.float32)
                assert np.array_equal(given.evidence[name], expected)


def plain(plan: TickPlan) -> Any:
    """A plan as values that can be compared."""
    inputs = {"": plan.input, **plan.alternatives}
    shown = {
        k: (i.presence.tolist(), {m: e.tolist() for m, e in i.evidence.items()}, i.imputed)
        for k, i in inputs.items()
    }
    return plan.number, plan.deadline_ns, plan.capture_ns, dict(plan.modalities), shown


def rig_with(**changes: Any) -> Rig:
    return Rig.model_validate(bench_rig().model_dump() | changes)


COMPARED = ("impute", "hold", "zero")


class Story(Bench):
    """A bench that goes through what hypothesis makes up; every call to its pipeline is checked."""

    def __init__(self, rig: Rig) -> None:
        super().__init__(rig, bench_manifest())
        self.pipeline = Witness(rig, bench_manifest(), START, compare=COMPARED)
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
        story.run(0.7)  # everything is live; else it happens while they begin
    for action in actions:
        story.act(*action)
    story.pipeline.events()
    return story


@pytest.mark.parametrize("rig", RIGS)
@REPEATABLE
@given(actions=STORIES)
def test_whatever_happens_every_call_keeps_the_promises_of_the_pipeline(
    rig: str, actions: list[tuple[str, str, int]]
) -> None:
    story = tell(RIGS[rig], actions)
    for queue in deques_in(story.pipeline):
        assert len(queue) <= 1024 if queue is story.pipeline._events else 400


@pytest.mark.parametrize("rig", RIGS)
@settings(REPEATABLE, max_examples=6)
@given(actions=STORIES)
def test_the_same_calls_give_the_same_answers_again(rig: str, actions: list[tuple[str, str, int]]) -> None:
    witness = tell(RIGS[rig], actions).pipeline
    again = Pipeline(RIGS[rig], bench_manifest(), START, compare=COMPARED)
    for name in ALL:
        again.set_blank_evidence(name, np.full(EVIDENCE_SIZE, -1, np.float32))
    for (call, given_before), before in zip(witness.calls, witness.results, strict=True):
        now = getattr(again, call)(*given_before)
        if isinstance(now, TickPlan):
            now = plain(now)
        elif isinstance(now, Received):
            now = "received"
        elif call == "due_windows":
            now = [(d.modality, d.capture_ns, d.window.tobytes()) for d in now]
        assert now == before, call
    assert again.counters() == witness.counters()


@pytest.mark.parametrize("rig", RIGS)
@settings(REPEATABLE, max_examples=6)
@given(actions=STORIES)
def test_after_anything_good_sensors_are_live_again(rig: str, actions: list[tuple[str, str, int]]) -> None:
    """No fault is for ever: with steady sensors, honest clocks and a working engine, everything comes back."""
    story = tell(RIGS[rig], actions)
    story.silent, story.spoil, story.encode = set(), {}, True
    story.offset.clear()
    story.delay_ns = dict.fromkeys(ALL, 0)
    story.now += 4000 * SECOND  # beyond any stamp that was accepted meanwhile
    story.catch_up()
    story.sequence = {m: n + 10 for m, n in story.sequence.items()}
    story.run(4.0)
    assert story.pipeline.states == dict.fromkeys(ALL, "live")


def deques_in(value: Any, seen: set[int] | None = None) -> Iterator[deque[Any]]:
    """Every deque that an object of the core holds, at any depth."""
    seen = set() if seen is None else seen
    if id(value) in seen or isinstance(value, str | bytes | int | float | type | None | np.ndarray):
        return
    seen.add(id(value))
    if isinstance(value, deque):
        yield value
    elif isinstance(value, dict):
        for v in value.values():
            yield from deques_in(v, seen)
    elif type(value).__module__.startswith("runtime.core") or isinstance(value, Pipeline):
        for name in (*getattr(value, "__dict__", ()), *getattr(type(value), "__slots__", ())):
            yield from deques_in(getattr(value, name), seen)
