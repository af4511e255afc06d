"""The live part of the demo for real: node and sensor processes over ZeroMQ, on the synthetic rig, one fault."""

import io
import json
import re
from importlib.util import find_spec

import pytest
from rich.console import Console

from afterimage.demo.play import demo_schedule, play_live
from afterimage.demo.report import json_ready, live_report
from engines.opening import open_session
from runtime.signals.faults import Fault, FaultSchedule
from runtime.signals.opening import open_source
from runtime.view.serving import PageOptions


@pytest.fixture(scope="module")
def source():
    return open_source("synthetic")


def test_the_schedule_leaves_every_window_time_to_fill_again(tiny_bundle, source):
    with open_session(tiny_bundle) as session:
        schedule = demo_schedule(source.rig, session.manifest, 0, fault_s=2.0, pause_s=1.0)
    patterns = {f.modalities for f in schedule.faults if f.kind == "silence"}
    assert len(patterns) == 4 + 6 + 4
    assert {f.kind for f in schedule.faults} == {"silence", "freeze", "rail", "holes", "clip"}
    for before, after in zip(schedule.faults, schedule.faults[1:], strict=False):
        need = 3.0 if "eeg" in before.modalities else 1.0 if "audio" in before.modalities else 0.0
        assert after.start_s - before.end_s >= need + 1.0


def test_a_silenced_camera_is_noticed_imputed_and_taken_back_live(tiny_bundle, source):
    schedule = FaultSchedule(faults=(Fault(kind="silence", modalities=("rgb",), start_s=4.5, end_s=6.0),))
    written, has_page = io.StringIO(), find_spec("uvicorn") is not None
    with open_session(tiny_bundle) as session:
        manifest = session.manifest
        run = play_live(
            tiny_bundle,
            source.rig,
            manifest,
            source,
            None,
            schedule,
            seed=0,
            console=Console(file=written),
            animate=False,
            page=PageOptions(port=0, browser=False) if has_page else None,
        )
        report = live_report(run.recording, source.rig, manifest, run.span_s)
        examples = run.recording.examples(session, source)
    during = [t for t in run.recording.ticks if 5.0 < t.time_s < 5.9]
    assert during
    assert all(t.states["rgb"] == "missing" and "rgb" in t.imputed for t in during)
    # Generous: a starved machine may delay a sensor process, but not by a second.
    assert report["detection_ms"]["rgb"]["p95"] < 1000
    assert report["recovery_ms"]["rgb"]["p95"] < 2000
    assert run.statistics["messages"]["unaccounted"] == 0
    assert run.recording.ticks[-1].others.keys() == {"hold", "zero"}
    pictures = {e.modality: e for e in examples}
    assert pictures["rgb"].imputed.shape == pictures["rgb"].measured.shape == (64, 64, 3)
    assert "rgb" not in pictures["rgb"].given
    json.dumps(json_ready(report), allow_nan=False)
    assert bool(re.search(r"live page: http://127\.0\.0\.1:\d+/", written.getvalue())) == has_page
