"""A sensor that disagrees, from its samples to what is told of it, and once more from the journal: the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import pytest
from pipeline_bench import EVIDENCE_SIZE, SECOND, START, Bench, bench_manifest, bench_rig

from engines.session import Fused, Session
from runtime.core.pipeline import Received, Rejected
from runtime.node.decisions import DecisionMaker, fuse_plans
from runtime.node.hosting import HostedRig
from runtime.record.replayer import Replayed, comparable, replay_exactly, replay_freely
from runtime.rig import Rig
from runtime.signals.faults import Fault, FaultSchedule
from runtime.transport.sockets import DecisionSender
from runtime.wire import Decision, HealthEvent, JournalEntry, decode_entry

HOLD_NS = 3 * SECOND
LOUD = {"rgb": 100, "audio": 1000, "eeg": 4}
"""Modality -> what is above this, in the mean of absolute values, is the second class."""


class PerceivingSession:
    """Two classes, quiet and loud, and what most of the present sensors perceive of them."""

    manifest = bench_manifest()
    bundle_hash = "0123456789abcdef"
    backend = "none"
    maximum_batch = 4

    def encode(self, modality: str, windows: np.ndarray) -> np.ndarray:
        loud = np.abs(windows.astype(np.float64)).reshape(len(windows), -1).mean(axis=1) > LOUD[modality]
        return np.repeat(np.where(loud, 1, -1)[:, None], EVIDENCE_SIZE, axis=1).astype(np.float32)

    def fuse(self, evidence: Mapping[str, np.ndarray], presence: np.ndarray) -> Fused:
        names = self.manifest.modality_names
        given = [evidence[n][:, 0] if n in evidence else np.zeros(len(presence)) for n in names]
        logits = 3 * (np.stack(given, axis=1) * presence).sum(axis=1)
        probabilities = np.stack([1 / (1 + np.exp(logits)), 1 / (1 + np.exp(-logits))], axis=1)
        none = np.zeros((0, 0), np.float32)
        return Fused(none, probabilities, none, {})


SESSION = cast("Session", PerceivingSession())


class JournalReader:
    """Receives what a journal publishes."""

    journaled = True

    def __init__(self) -> None:
        self.entries: list[JournalEntry] = []

    def send(self, parts: Sequence[Any]) -> None:
        self.entries.append(decode_entry([memoryview(bytes(p)) for p in parts]))


class Journaled(Bench):
    """A bench that does with its session what a node does, and keeps what it decided."""

    def __init__(self, rig: Rig) -> None:
        super().__init__(rig, bench_manifest())
        self.journal = JournalReader()
        sender = cast("DecisionSender", self.journal)
        self.hosted = HostedRig(rig, 0, SESSION, START, journal_sender=sender)
        self.pipeline = self.hosted.pipeline
        self.hosted.begin_journal(START)
        self.maker = DecisionMaker(rig, SESSION)
        self.decisions: list[Decision] = []
        self.wrong: set[str] = set()

    def samples(self, modality: str) -> np.ndarray:
        loud = (self.now // HOLD_NS % 2 == 1) != (modality in self.wrong)
        if modality == "rgb":
            return self.random.integers(*((150, 250) if loud else (20, 80)), (1, 8, 8, 3)).astype(np.uint8)
        return (
            super().samples(modality)
            if loud
            else (super().samples(modality) / 8).astype("int16" if modality == "audio" else "float32")
        )

    def receive(self, parts: list[bytes]) -> Received | Rejected:
        return self.hosted.receive(parts, self.now)

    def work(self) -> None:
        for due in self.hosted.due_windows(self.now):
            evidence = SESSION.encode(due.modality, due.window[np.newaxis])[0]
            self.hosted.store_evidence(due.modality, evidence, due.capture_ns)
        plan = self.hosted.tick(self.now)
        if plan is not None:
            (fused,) = fuse_plans(SESSION, [plan])
            self.pipeline.store_cross_checks(plan, fused.cross_checks)
            self.decisions.append(self.maker.decision(plan, fused, published_ns=self.now, fuse_ms=0.0))
        self.events += self.pipeline.events()


@pytest.fixture(scope="module")
def journaled() -> Journaled:
    """Half a minute of EEG that perceives the opposite, in two minutes."""
    rig = bench_rig()
    health = rig.health.model_copy(update={"implausible_odds": 100.0})
    bench = Journaled(rig.model_copy(update={"health": health}))
    bench.run(25)
    bench.wrong = {"eeg"}
    bench.run(30)
    bench.wrong = set()
    bench.run(30)
    return bench


def states(events: Sequence[HealthEvent]) -> list[tuple[str, str]]:
    return [(e.modality, e.state) for e in events if e.previous != "waiting"]


def test_from_its_samples_on_the_one_that_disagrees_is_told_imputed_and_believed_again(
    journaled: Journaled,
) -> None:
    assert states(journaled.events) == [("eeg", "implausible"), ("eeg", "live")]
    out = [d for d in journaled.decisions if d.modalities["eeg"].state == "implausible"]
    assert all(d.modalities["eeg"].imputed and d.presence == {"rgb": 1, "audio": 1, "eeg": 0} for d in out)
    assert 10 < len(out) / journaled.rig.tick.rate_hz < 40


def test_an_exact_replay_finds_it_at_the_same_tick(journaled: Journaled) -> None:
    replayed = list(replay_exactly(journaled.journal.entries, SESSION))
    again = [r.decision for r in replayed if r.decision is not None]
    assert [comparable(d) for d in again] == [comparable(d) for d in journaled.decisions]
    assert events_of(replayed) == journaled.events


def test_a_free_replay_with_a_stale_sensor_finds_that_one(journaled: Journaled) -> None:
    fault = Fault(
        kind="stale", modalities=("audio",), start_s=4, end_s=25, params={"behind_s": HOLD_NS / SECOND}
    )
    frames = [e for e in journaled.journal.entries if e.call in ("begin", "frame")]
    replayed = list(replay_freely(frames, SESSION, faults=FaultSchedule(faults=(fault,))))
    assert states(events_of(replayed))[0] == ("audio", "implausible")


def events_of(replayed: Sequence[Replayed]) -> list[HealthEvent]:
    return [e for r in replayed for e in r.events]
