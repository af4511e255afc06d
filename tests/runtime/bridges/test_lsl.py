"""A node's decisions, carried to LSL and read back by a real inlet on this machine."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from runtime.bridges.lsl import LslOutlets, bridge
from runtime.bridges.lsl_mapping import (
    health_marker,
    label_marker,
    marker_stream,
    probability_sample,
    probability_stream,
)
from runtime.rig import load_rig
from runtime.transport.sockets import DecisionSender
from runtime.wire import Decision, HealthEvent, ModalityReport, encode_output

# A name of its own: LSL sees the streams of every test that runs on this network.
RIG = load_rig("commands-4").model_copy(update={"name": f"bridge-{os.getpid()}"})


def decision(tick: int, label: str = "stop", imputed: bool = False, at_ns: int | None = None) -> Decision:
    now = time.monotonic_ns() if at_ns is None else at_ns
    return Decision(
        rig=RIG.name,
        bundle="b",
        tick=tick,
        deadline_ns=now,
        published_ns=now + 500_000,
        capture_ns=now - 20_000_000,
        label=label,
        probabilities={"stop": 0.75, "go": 0.25},
        entropy=0.56,
        presence={"rgb": int(not imputed), "eeg": 1},
        fill="impute",
        modalities={
            "rgb": ModalityReport("missing" if imputed else "live", "", 1.0, 1.0, imputed),
            "eeg": ModalityReport("live", "", 1.0, 1.0, False),
        },
    )


EVENT = HealthEvent(RIG.name, "rgb", 5, "live", "missing", "silence", "0.2 s")


def test_a_decision_is_a_sample_that_says_what_was_imputed() -> None:
    stream = probability_stream(decision(0), 20.0, "robot")
    assert [c.label for c in stream.channels] == ["stop", "go", "imputed/rgb", "imputed/eeg"]
    assert probability_sample(decision(0), stream.channels) == [0.75, 0.25, 0.0, 0.0]
    assert probability_sample(decision(0, imputed=True), stream.channels) == [0.75, 0.25, 1.0, 0.0]
    assert probability_sample(replace(decision(0), probabilities={"left": 1.0}), stream.channels) is None
    assert stream.source_id != marker_stream(RIG.name, "robot").source_id


def test_markers_tell_changes_and_imputation() -> None:
    assert label_marker(decision(0), None) == "label/stop"
    assert label_marker(decision(1), decision(0)) is None
    assert label_marker(decision(1, "go", imputed=True), decision(0)) == "label/go/imputed"
    assert health_marker(EVENT) == "health/rgb/missing/silence"


@pytest.fixture
def lsl() -> Any:
    return pytest.importorskip(
        "mne_lsl.lsl", reason="mne-lsl is not installed: pip install 'afterimage[lsl]'"
    )


@pytest.fixture
def endpoint() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="ai-") as folder:
        yield f"ipc://{folder}/decisions"


def inlet(lsl: Any, source_id: str) -> Any:
    found = lsl.resolve_streams(timeout=10, source_id=source_id)
    assert len(found) == 1
    opened = lsl.StreamInlet(found[0])
    opened.open_stream(timeout=10)
    return opened


def test_real_inlets_read_probabilities_and_markers_with_the_nodes_times(lsl: Any, endpoint: str) -> None:
    import platform

    stop = threading.Event()
    done: list[int] = []
    thread = threading.Thread(target=lambda: done.append(bridge(RIG, stop, endpoint=endpoint)))
    with DecisionSender(endpoint) as node:
        thread.start()
        try:
            end = time.monotonic() + 10
            while not node.subscribed(b"fused") and time.monotonic() < end:
                node.update_subscriptions()
                time.sleep(0.01)
            node.send(encode_output(decision(0)))  # the stream is there with the first decision
            name = f"afterimage-{platform.node()}-{RIG.name}"
            probabilities, markers = inlet(lsl, f"{name}-probabilities"), inlet(lsl, f"{name}-markers")
            sent = []
            for tick in range(1, 21):
                sent.append(decision(tick, "go" if tick > 10 else "stop", imputed=tick > 15))
                node.send(encode_output(sent[-1]))
                time.sleep(0.02)
            node.send(encode_output(replace(EVENT, at_ns=time.monotonic_ns())))
            samples, stamps = [], []
            end = time.monotonic() + 10
            while len(samples) < 20 and time.monotonic() < end:
                values, times = probabilities.pull_chunk(timeout=0.1)
                samples += [list(v) for v in values]
                stamps += list(times)
            words, marked = [], []
            while "health/rgb/missing/silence" not in words and time.monotonic() < end:
                word, at = markers.pull_sample(timeout=0.1)
                if word:
                    words.append(word[0])
                    marked.append(at)
            description = probabilities.get_sinfo(timeout=5)
        finally:
            stop.set()
            thread.join(10)
    assert done == [21]
    # A late inlet may get the first decision as well.
    assert [[round(v, 3) for v in s] for s in samples[-20:]] == [
        [0.75, 0.25, float(d.modalities["rgb"].imputed), 0.0] for d in sent
    ]
    ahead = lsl.local_clock() - time.monotonic()
    assert [at - ahead for at in stamps[-20:]] == pytest.approx([d.deadline_ns / 1e9 for d in sent], abs=1e-3)
    assert words[-2:] == ["label/go", "health/rgb/missing/silence"]
    assert marked[-2] - ahead == pytest.approx(sent[10].deadline_ns / 1e9, abs=1e-3)
    assert description.get_channel_names() == ["stop", "go", "imputed/rgb", "imputed/eeg"]
    assert (description.sfreq, description.stype) == (20.0, "Probabilities")
    assert description.get_channel_types() == ["probability", "probability", "flag", "flag"]


def test_the_time_of_a_node_with_another_clock_is_corrected(lsl: Any) -> None:
    outlets = LslOutlets(RIG, node_ahead_ns=lambda: 5_000_000_000)
    try:
        assert outlets.lsl_time(time.monotonic_ns() + 5_000_000_000) == pytest.approx(
            lsl.local_clock(), abs=0.01
        )
    finally:
        outlets.close()
