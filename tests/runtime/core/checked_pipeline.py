"""A pipeline that checks itself after every call, against a model that knows only what was handed in and came out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from pipeline_bench import EVIDENCE_SIZE, SENSORS, START, WINDOW

from runtime.core.fusion import FusionInput
from runtime.core.pipeline import DueWindow, Pipeline, Received, Rejected, State, TickPlan
from runtime.wire import HealthEvent, Reason

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
    "implausible": {"disagreement"},
    "corrupt": CONTENT,
}
"""docs/protocol.md: state -> the reasons it is entered with. Nothing ever leads to ``waiting``."""
STRETCH_NS = 1_500_000_000
SAYS = ([0.99, 0.01], [0.01, 0.99])


class CheckedPipeline(Pipeline):
    """A pipeline that checks its results after every call, and keeps the calls so that they can be repeated."""

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
        self.contrary = True  # sensors that are asked differ now and then
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
        if plan is not None and plan.cross_checks:
            self._answer(plan)
        return plan

    def _answer(self, plan: TickPlan) -> None:
        """As an engine would that perceives another class every while; some sensors differ, now these, now those."""
        stretch = plan.deadline_ns // STRETCH_NS
        probabilities = {}
        for name in plan.cross_checks:
            differs = self.contrary and (stretch // 3 + ALL.index(name)) % 3 == 0
            probabilities[name] = SAYS[(stretch + differs) % 2], SAYS[stretch % 2]
        self.store_cross_checks(plan, probabilities)
        self._told("store_cross_checks", (plan, probabilities), None, self.now)

    def _check_cross_checks(self, plan: TickPlan, live: dict[str, bool]) -> None:
        """Every sensor that is live, or would be but for its disagreement, is compared with the other live ones."""
        for name, check in plan.cross_checks.items():
            assert live[name] or self.state(name) is State.IMPLAUSIBLE
            others = {m for m in ALL if live[m] and m != name}
            assert len(others) >= 2
            assert set(check.alone.evidence) == {name}
            assert set(check.others.evidence) == others
            for part in (check.alone, check.others):
                assert part.presence.tolist() == [float(m in part.evidence) for m in ALL]
                for m, evidence in part.evidence.items():
                    assert np.array_equal(evidence, self.held[m][0])

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
            heard_ns = self.accepted_ns.get(e.modality, e.at_ns)
            if e.reason == "silence" and heard_ns < e.at_ns:
                assert e.at_ns - heard_ns > self._streams[e.modality].health.limits.even_silence_ns
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
        self._check_cross_checks(plan, live)
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
