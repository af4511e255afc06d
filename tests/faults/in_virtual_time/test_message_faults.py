"""Every fault of messages against the whole node over real sockets: states, what is published, what is counted."""

from __future__ import annotations

import numpy as np
import pytest
from message_faults import FAULTS, Fault
from virtual_run import Log, Spoiling, VirtualRun

from engines.session import Session
from runtime.rig import Rig
from runtime.transport.endpoints import Endpoints

GOOD_STEPS = 15
SEED = 6


def run_fault(fault: Fault, rig: Rig, session: Session, endpoints: Endpoints) -> tuple[VirtualRun, Spoiling]:
    spoiling = fault.make()
    with VirtualRun(rig, session, endpoints, seed=SEED) as run:
        run.play(GOOD_STEPS)
        run.play(fault.steps, "rgb", spoiling)
        run.end_fault("rgb", spoiling)
        run.play(GOOD_STEPS)
        run.finish()
    return run, spoiling


@pytest.mark.parametrize("fault", FAULTS, ids=[f.name.replace(" ", "-") for f in FAULTS])
def test_a_fault_of_messages(
    fault: Fault, images_rig: Rig, images_session: Session, endpoints: Endpoints
) -> None:
    run, spoiling = run_fault(fault, images_rig, images_session, endpoints)
    check_states(fault, run.log)
    check_counters(fault, run, spoiling)
    check_decisions(run.log)
    if fault.name != "a bit of the payload":  # the wire has no checksum: ZeroMQ's transports have their own
        check_observations(run)


def test_the_same_seed_gives_the_same_run(
    images_rig: Rig, images_session: Session, endpoints: Endpoints
) -> None:
    fault = next(f for f in FAULTS if f.name == "a bit of the header")
    first, second = (run_fault(fault, images_rig, images_session, endpoints)[0] for _ in range(2))
    assert first.log.states("rgb") == second.log.states("rgb")
    assert [(d.tick, d.presence, d.probabilities) for d in first.log.decisions] == [
        (d.tick, d.presence, d.probabilities) for d in second.log.decisions
    ]
    one, other = (run.log.statistics["messages"]["modalities"] for run in (first, second))
    assert one == other


def check_states(fault: Fault, log: Log) -> None:
    assert log.states("depth") == ["live"], "the other sensor notices nothing"
    states = log.states("rgb")
    assert states[0] == states[-1] == "live", states
    if fault.states is not None:
        assert tuple(states[1:]) == fault.states


def check_counters(fault: Fault, run: VirtualRun, spoiling: Spoiling) -> None:
    """Every message that was sent is found again, and every fault in its counter and in no other."""
    counted = run.log.statistics["messages"]
    nowhere = counted["unattributed"]["received"] - run.knocks
    rgb, depth = counted["modalities"]["rgb"], counted["modalities"]["depth"]
    sent = {name: sensor.sent for name, sensor in run.sensors.items()}
    assert counted["unaccounted"] == counted["pending"] == 0
    assert depth == depth | {"received": sent["depth"], "used": sent["depth"], "dropped": {}, "lost": 0}
    assert rgb["received"] + nowhere == sent["rgb"]
    assert rgb["used"] + sum(rgb["dropped"].values()) == rgb["received"]
    if fault.states is not None:
        assert nowhere == 0
        found = rgb["dropped"] | {"lost": rgb["lost"]}
        assert {k: n for k, n in found.items() if n} == dict(+spoiling.injected)
    assert rgb == rgb | fault.counted
    assert run.log.statistics["errors"] == {}


def check_decisions(log: Log) -> None:
    """One decision per tick, none missed; the mask is what the states say; what is not live is imputed, and says so."""
    ticks = log.statistics["messages"]["ticks"]
    assert [d.tick for d in log.decisions] == list(range(ticks["published"]))
    assert ticks["missed"] == 0
    assert len(log.decisions) > 20
    for decision in log.decisions:
        for modality, report in decision.modalities.items():
            live = report.state == "live"
            assert decision.presence[modality] == report.weight == float(live)
            assert report.imputed != live
        assert abs(sum(decision.probabilities.values()) - 1) < 1e-5


def check_observations(run: VirtualRun) -> None:
    """What is said to be measured is a picture that the sensor sent, whole; anything else is said to be imputed."""
    taken = {picture.tobytes() for picture in run.sensors["rgb"].taken}
    decisions = {d.tick: d for d in run.log.decisions}
    assert len(run.log.observations) > 10
    for observation in run.log.observations:
        state = decisions[observation.tick].modalities["rgb"].state
        assert observation.imputed == (state != "live")
        assert ("rgb" in observation.sources) != observation.imputed
        measured = observation.values.round().astype(np.uint8).tobytes()
        assert observation.imputed or measured in taken, (observation.tick, state)
