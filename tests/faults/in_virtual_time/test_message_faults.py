"""Every fault of the table against the whole node over real sockets: states, what is published, what is counted."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
from fault_table import FAULTS, IMAGES, Fault
from spoiling import Spoiling
from virtual_run import Log, VirtualRun

from engines.bundle import ModalitySpec
from engines.session import Session
from runtime.rig import Rig, SensorSpec
from runtime.transport.endpoints import Endpoints
from runtime.wire import Decision, HealthEvent

GOOD_STEPS = 15
SEED = 6


@dataclass
class Case:
    """What one run was, for the checks of it."""

    fault: Fault
    run: VirtualRun
    spoiling: Spoiling
    sensor: SensorSpec
    spec: ModalitySpec
    session: Session
    ended_ns: int

    @property
    def log(self) -> Log:
        return self.run.log

    @property
    def others(self) -> list[str]:
        return [m for m in self.run.sensors if m != self.sensor.modality]


def steps_of(fault: Fault, sensor: SensorSpec) -> int:
    """How many messages are spoilt; an even number."""
    return 2 * round(fault.seconds / sensor.period_s / 2)


def play(fault: Fault, kind: str, request: pytest.FixtureRequest) -> Case:
    name = "images" if kind in IMAGES else "signals"
    rig: Rig = request.getfixturevalue(f"{name}_rig")
    session: Session = request.getfixturevalue(f"{name}_session")
    endpoints: Endpoints = request.getfixturevalue("endpoints")
    sensor, spec = rig.sensor(kind), session.manifest.modality(kind)
    spoiling = fault.make(sensor)
    with VirtualRun(rig, session, endpoints, seed=SEED, best=kind) as run:
        run.play(GOOD_STEPS, kind)
        run.play(steps_of(fault, sensor), kind, spoiling)
        ended_ns = run.now_ns
        run.sensors[kind].left = list(spoiling.after())
        run.play((spec.window + spec.hop) // sensor.chunk + GOOD_STEPS, kind)
        run.finish()
    return Case(fault, run, spoiling, sensor, spec, session, ended_ns)


CASES = [
    pytest.param(fault, kind, id=f"{kind}-{fault.name.replace(' ', '-')}")
    for fault in FAULTS
    for kind in fault.kinds
]


@pytest.mark.parametrize(("fault", "kind"), CASES)
def test_a_fault(fault: Fault, kind: str, request: pytest.FixtureRequest) -> None:
    case = play(fault, kind, request)
    check_states(case)
    check_counters(case)
    check_decisions(case.log)
    check_observations(case)


def test_the_same_seed_gives_the_same_run(request: pytest.FixtureRequest) -> None:
    fault = next(f for f in FAULTS if f.name == "a bit of the header")
    first, second = (play(fault, "rgb", request).log for _ in range(2))
    assert first.states("rgb") == second.states("rgb")
    assert [(d.tick, d.presence, d.probabilities) for d in first.decisions] == [
        (d.tick, d.presence, d.probabilities) for d in second.decisions
    ]
    one, other = (log.statistics["messages"]["modalities"] for log in (first, second))
    assert one == other


def check_states(case: Case) -> None:
    for other in case.others:
        assert case.log.states(other) == ["live"], "the other sensor notices nothing"
    states = case.log.states(case.sensor.modality)
    assert states[0] == states[-1] == "live", states
    expected = case.fault.states(case.sensor.kind)
    if expected is not None:
        assert tuple(states[1:]) == expected
        if case.sensor.kind not in IMAGES and len(case.spoiling.stretches) > 1:
            check_return(case)


def check_return(case: Case) -> None:
    """Once its window was broken, a sensor is back as soon as a whole one of later samples is there, and no sooner."""
    period_ns = case.sensor.period_s * 1e9
    whole_ns = case.ended_ns - case.spoiling.stretches[-1][0] * period_ns
    whole_ns += case.spec.window / case.spec.rate_hz * 1e9
    back_ns = [
        m.at_ns
        for m in case.log.messages
        if isinstance(m, HealthEvent) and m.modality == case.sensor.modality and m.state == "live"
    ][-1]
    # Its window is encoded before the next tick, which judges it.
    assert -1e3 < back_ns - whole_ns < period_ns + 1e9 / case.run.rig.tick.rate_hz


def fates(
    spec: ModalitySpec, chunk: int, stretches: list[tuple[int, str]], spoiling: Spoiling | None = None
) -> Counter[str]:
    """What becomes of accepted messages, by the rule of windows: one per hop in each stretch that is long enough.

    Args:
        spec: the windows.
        chunk: samples in a message; the first message of all is a whole window.
        stretches: how many messages, and what becomes of those that come into no window.
        spoiling: some of the first stretch have its content.
    """
    fate: Counter[str] = Counter()
    for i, (count, reason) in enumerate(stretches):
        sizes = np.full(count, chunk)
        sizes[: i == 0] = spec.window
        ends = np.cumsum(sizes)
        windows = np.arange(spec.window, ends[-1] + 1 if count else 0, spec.hop)[:, np.newaxis]
        has = (ends > windows - spec.window) & (ends - sizes < windows)
        passes = np.ones(len(windows), bool)
        if i == 0 and spoiling is not None and spoiling.tolerated is not None:
            spoilt = slice(GOOD_STEPS, GOOD_STEPS + spoiling.stretches[0][0])
            passes = has[:, spoilt].sum(axis=1) <= spoiling.tolerated
        used, judged = has[passes].any(axis=0), has.any(axis=0)
        fate["used"] += int(used.sum())
        fate["corrupt"] += int((judged & ~used).sum())
        fate["pending" if i == len(stretches) - 1 else reason] += int((~judged).sum())
    return fate


def check_counters(case: Case) -> None:
    """Every message that was sent is found again, and every fault in its counter and in no other."""
    counted = case.log.statistics["messages"]
    assert counted["unaccounted"] == 0
    assert case.log.statistics["errors"] == {}
    for other in case.others:
        sent = case.run.sensors[other].sent
        found = counted["modalities"][other]
        chunk = case.run.rig.sensor(other).chunk
        expected = fates(case.session.manifest.modality(other), chunk, [(sent, "")])
        assert found == found | {"received": sent, "dropped": {}, "lost": 0, "restarts": 0}
        assert (found["used"], found["pending"]) == (expected["used"], expected["pending"])
    mine = counted["modalities"][case.sensor.modality]
    nowhere = counted["unattributed"]["received"] - case.run.knocks
    assert mine["received"] + nowhere == case.run.sensors[case.sensor.modality].sent
    assert mine["used"] + mine["pending"] + sum(mine["dropped"].values()) == mine["received"]
    if case.fault.states(case.sensor.kind) is None:
        return
    found = mine["dropped"] | {
        k: mine[k] for k in ("lost", "restarts", "clock_reanchored", "used", "pending")
    }
    found["nowhere"] = nowhere
    expected = expected_counts(case)
    assert {k: n for k, n in found.items() if n} == dict(+expected)


def expected_counts(case: Case) -> Counter[str]:
    injected = case.spoiling.injected
    stretches = list(case.spoiling.stretches)
    # What was accepted before the fault is of the first stretch, what was accepted after it of the last.
    after = len(case.run.sensors[case.sensor.modality].taken) - GOOD_STEPS
    after -= steps_of(case.fault, case.sensor)
    stretches[0] = (stretches[0][0] + GOOD_STEPS, stretches[0][1])
    stretches[-1] = (stretches[-1][0] + after, stretches[-1][1])
    fate = fates(case.spec, case.sensor.chunk, stretches, case.spoiling)
    # Overtaken pictures were accepted, and then not used.
    fate["used"] -= injected["superseded"]
    return fate + injected


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
    modality = case.sensor.modality
    decisions = {d.tick: d for d in case.log.decisions}
    assert len(case.log.observations) > 10
    measured = []
    for observation in case.log.observations:
        state = decisions[observation.tick].modalities[modality].state
        assert observation.imputed == (state != "live")
        assert (modality in observation.sources) != observation.imputed
        if not observation.imputed:
            measured.append(observation)
    if case.fault.truthful:
        seen = views(case)
        for observation in measured:
            apart = np.abs(seen - observation.values).max(axis=tuple(range(1, seen.ndim)))
            assert apart.min() < 1e-3, observation.tick


def views(case: Case) -> np.ndarray:
    """The observations of every unbroken window that the sensor saw, one ending with each of its messages."""
    samples = np.concatenate(case.run.sensors[case.sensor.modality].taken)
    ends = range(case.spec.window, len(samples) + 1, case.sensor.chunk)
    windows = np.stack([samples[end - case.spec.window : end] for end in ends])
    return case.session.observe(case.sensor.modality, windows.reshape(-1, *case.spec.window_shape))
