"""Every fault of the table against the whole node over real sockets: states, what is published, what is counted."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
from fault_table import IMAGES, TABLE, Row
from virtual_run import Log, NoiseSensor, VirtualRun
from window_fates import StretchLedger, expected_fates

from benchmarks.virtual_node.ledger import discrepancies
from engines.bundle import ModalitySpec
from engines.session import Session
from runtime.rig import Rig
from runtime.wire import Decision, HealthEvent

GOOD_STEPS = 15
SEED = 6


@dataclass
class Case:
    """What one run was, for the checks of it."""

    row: Row
    run: VirtualRun
    sensor: NoiseSensor
    spec: ModalitySpec
    session: Session

    @property
    def log(self) -> Log:
        return self.run.log

    @property
    def ledger(self) -> StretchLedger:
        return self.run.ledgers[self.row.kind]

    @property
    def others(self) -> list[str]:
        return [m for m in self.run.sensors if m != self.row.kind]


def play(row: Row, request: pytest.FixtureRequest) -> Case:
    name = "images" if row.kind in IMAGES else "signals"
    rig: Rig = request.getfixturevalue(f"{name}_rig")
    session: Session = request.getfixturevalue(f"{name}_session")
    spec = session.manifest.modality(row.kind)
    with VirtualRun(rig, session, seed=SEED, best=row.kind) as run:
        sensor = run.sensors[row.kind]
        run.play(GOOD_STEPS, row.kind)
        # An even number, for faults of pairs.
        messages = row.messages or 2 * sensor.sensor.periods(row.seconds / 2)
        sensor.sensor.begin(row.fault.play(sensor.sensor, messages))
        while sensor.sensor.has_fault:
            run.play(1, row.kind)
        run.play((spec.window + spec.hop) // sensor.sensor.spec.chunk + GOOD_STEPS, row.kind)
        run.finish()
    return Case(row, run, sensor, spec, session)


CASES = [
    pytest.param(row, id=f"{row.kind}-{row.fault.name.replace(' ', '-')}-{row.seconds:g}") for row in TABLE
]


@pytest.mark.parametrize("row", CASES)
def test_a_fault(row: Row, request: pytest.FixtureRequest) -> None:
    case = play(row, request)
    check_states(case)
    check_counters(case)
    check_decisions(case.log)
    check_observations(case)


def test_the_same_seed_gives_the_same_run(request: pytest.FixtureRequest) -> None:
    row = next(r for r in TABLE if r.fault.name == "a bit of the header")
    first, second = (play(row, request).log for _ in range(2))
    assert first.states("rgb") == second.states("rgb")
    assert [(d.tick, d.presence, d.probabilities) for d in first.decisions] == [
        (d.tick, d.presence, d.probabilities) for d in second.decisions
    ]
    one, other = (log.statistics["messages"]["modalities"] for log in (first, second))
    assert one == other


def check_states(case: Case) -> None:
    for other in case.others:
        assert case.log.states(other) == ["live"], "the other sensor notices nothing"
    states = case.log.states(case.row.kind)
    assert states[0] == states[-1] == "live", states
    if case.row.states is not None:
        assert tuple(states[1:]) == case.row.states
        if case.row.kind not in IMAGES and len(case.ledger.stretches) > 1:
            check_return(case)


def check_return(case: Case) -> None:
    """Once its window was broken, a sensor is back as soon as a whole one of later samples is there, and no sooner."""
    period_ns = case.sensor.sensor.period_ns
    whole_ns = case.run.virtual.now_ns - len(case.ledger.stretches[-1].sizes) * period_ns
    whole_ns += round(case.spec.window / case.spec.rate_hz * 1e9)
    back_ns = [
        m.at_ns
        for m in case.log.messages
        if isinstance(m, HealthEvent) and m.modality == case.row.kind and m.state == "live"
    ][-1]
    # Its window is encoded before the next tick, which judges it.
    assert -1e3 < back_ns - whole_ns < period_ns + 1e9 / case.run.rig.tick.rate_hz


def check_counters(case: Case) -> None:
    """Every message that was sent is found again, and every fault in its counter and in no other."""
    counted = case.log.statistics["messages"]
    assert counted["unaccounted"] == 0
    assert case.log.statistics["errors"] == {}
    for other in case.others:
        check_fates(case, other, None)
    mine, greetings = counted["modalities"][case.row.kind], case.run.virtual.greetings
    nowhere = counted["unattributed"]["received"] - greetings.total()
    assert mine["received"] == case.ledger.sent - case.ledger.lost_in_queues
    assert nowhere == case.ledger.nowhere.total()
    assert mine["used"] + mine["pending"] + sum(mine["dropped"].values()) == mine["received"]
    if not case.row.fault.is_predictable:
        return
    assert discrepancies(case.run.ledgers, greetings, counted) == []
    if case.row.states is not None:
        check_fates(case, case.row.kind, case.row.tolerated)


def check_fates(case: Case, modality: str, tolerated: int | None) -> None:
    """What became of each accepted message is what the rule of windows says."""
    counted = case.log.statistics["messages"]["modalities"][modality]
    found = counted["dropped"] | {k: counted[k] for k in ("used", "pending")}
    spec = case.session.manifest.modality(modality)
    expected = expected_fates(case.run.ledgers[modality], spec, tolerated)
    garbled = case.run.ledgers[modality].garbled
    # Random bytes may happen to be a map; none of these few is.
    assert {k: n for k, n in found.items() if n} == +(expected + Counter({"bad_header": garbled}))


def check_decisions(log: Log) -> None:
    """One decision per tick; each says of every sensor what was told last, and what is not live is imputed in it."""
    ticks = log.statistics["messages"]["ticks"]
    assert [d.tick for d in log.decisions] == list(range(ticks["published"]))
    assert ticks["missed"] == 0
    assert len(log.decisions) > 20
    told: dict[str, tuple[str, str]] = {}
    for message in log.messages:
        if isinstance(message, HealthEvent):
            told[message.modality] = message.state, "" if message.state == "live" else message.reason
        elif isinstance(message, Decision):
            for modality, report in message.modalities.items():
                live = report.state == "live"
                if modality in told or live:
                    assert (report.state, report.reason) == told[modality]
                assert message.presence[modality] == report.weight == float(live)
                assert report.imputed != live
            assert abs(sum(message.probabilities.values()) - 1) < 1e-5


def check_observations(case: Case) -> None:
    """What is said to be measured is what the sensor saw, whole; anything else is said to be imputed."""
    modality = case.row.kind
    decisions = {d.tick: d for d in case.log.decisions}
    assert len(case.log.observations) > 10
    measured = []
    for observation in case.log.observations:
        state = decisions[observation.tick].modalities[modality].state
        assert observation.imputed == (state != "live")
        assert (modality in observation.sources) != observation.imputed
        if not observation.imputed:
            measured.append(observation)
    if case.row.is_truthful:
        seen = views(case)
        for observation in measured:
            apart = np.abs(seen - observation.values).max(axis=tuple(range(1, seen.ndim)))
            assert apart.min() < 1e-3, observation.tick


def views(case: Case) -> np.ndarray:
    """The observations of every unbroken window that the sensor saw, one ending with each of its messages."""
    samples = np.concatenate(case.sensor.taken)
    ends = range(case.spec.window, len(samples) + 1, case.sensor.sensor.spec.chunk)
    windows = np.stack([samples[end - case.spec.window : end] for end in ends])
    return case.session.observe(case.row.kind, windows.reshape(-1, *case.spec.window_shape))
