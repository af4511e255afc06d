"""Recordings of a real node: read back by any reader, replayed to the bit, cut short, damaged, full disk."""

from __future__ import annotations

import os
import resource
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from process_under_test import ProcessUnderTest, python, run_to_end

pytest.importorskip("mcap", reason="recordings need mcap, which is not installed")
from mcap.reader import make_reader

from engines.opening import open_session
from runtime.node.node import Node
from runtime.record.reader import read_recording
from runtime.record.recorder import record
from runtime.record.replay_file import replay_recording
from runtime.record.writer import RecordingError, RecordingWriter
from runtime.rig import Rig
from runtime.sensors.publisher import Sensor
from runtime.signals.faults import Fault, FaultSchedule
from runtime.transport.endpoints import Endpoints
from runtime.transport.sockets import FrameSender
from runtime.wire import JOURNAL_PREFIX, JournalEntry, WireError, decode_entry, encode_entry

SECONDS = 4.0


@pytest.fixture(scope="module")
def endpoints() -> Iterator[Endpoints]:
    with tempfile.TemporaryDirectory(prefix="ai-") as folder:
        yield Endpoints(f"ipc://{folder}/frames", f"ipc://{folder}/decisions")


def play(rig: Rig, endpoints: Endpoints, stop: threading.Event) -> None:
    """RGB and depth at 30 Hz; depth falls silent for a second; now and then something that is no frame at all."""
    rng = np.random.default_rng(0)
    begin = time.monotonic()
    with (
        Sensor(rig, "rgb", endpoint=endpoints.frames) as rgb,
        Sensor(rig, "depth", endpoint=endpoints.frames) as depth,
        FrameSender(endpoints.frames) as stranger,
    ):
        while not stop.wait(1 / 30):
            rgb.publish(rng.integers(40, 200, (64, 64, 3), dtype=np.uint8))
            if not 1.5 < time.monotonic() - begin < 2.5:
                depth.publish(rng.integers(500, 900, (64, 64), dtype=np.uint16))
            if rng.random() < 0.1:
                stranger.send([b"frame/commands-4/rgb", b"no header", b"x"])
                stranger.send([b"frame/commands-4/rgb"])


@pytest.fixture(scope="module")
def recording(
    images_bundle: Path, images_rig: Rig, endpoints: Endpoints, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A recording that began with its node."""
    path = tmp_path_factory.mktemp("recording") / "session.mcap"
    stop, ended, stop_recorder = threading.Event(), threading.Event(), threading.Event()
    with open_session(images_bundle) as session, Node(images_rig, session, endpoints) as node:
        recorder = threading.Thread(
            target=record, args=(images_rig, path, stop_recorder), kwargs={"endpoint": endpoints.decisions}
        )
        sensors = threading.Thread(target=play, args=(images_rig, endpoints, stop))
        recorder.start()
        try:
            assert node.await_subscriber(JOURNAL_PREFIX, 10)
            sensors.start()
            node.run(ended, until_ns=time.monotonic_ns() + round(SECONDS * 1e9))
        finally:
            stop.set()
            time.sleep(0.5)  # what was published last is still on its way
            stop_recorder.set()
            recorder.join(10)
            sensors.join(10)
    return path


def test_any_mcap_reader_reads_it(recording: Path) -> None:
    with recording.open("rb") as file:
        reader = make_reader(file, validate_crcs=True)
        counts: Counter[str] = Counter()
        for schema, channel, message in reader.iter_messages():
            assert channel.message_encoding == "msgpack"
            assert schema is not None
            assert schema.encoding == "jsonschema"
            content = msgpack.unpackb(message.data)
            counts[channel.topic] += 1
            if channel.topic == "frame/commands-4/depth":
                samples = np.frombuffer(content["data"], content["dtype"]).reshape(content["shape"])
                assert samples.shape == (1, 64, 64)
                assert 500 <= samples.min() <= samples.max() < 900
        summary = reader.get_summary()
    assert summary is not None
    assert summary.statistics is not None
    assert summary.statistics.message_count == sum(counts.values())
    assert counts["frame/commands-4/rgb"] > 60
    assert counts["fused"] > 60
    assert counts["refused"] > 4
    assert counts["health"] >= 4
    assert counts["recorder"] >= 3


def test_an_exact_replay_decides_the_same_to_the_bit(recording: Path, images_bundle: Path) -> None:
    with open_session(images_bundle) as session:
        summary = replay_recording(recording, session)
    assert summary["lost"] == {}
    assert summary["compared"] > 60
    assert summary["different"] == 0, summary["first_difference"]
    assert summary["decisions"] == summary["compared"]
    recorded = [m.content for m in read_recording(recording) if m.topic == "fused"]
    states = {d["modalities"]["depth"]["state"] for d in recorded if isinstance(d, dict)}
    assert states >= {"live", "missing"}, "the recording must hold a failover for this to say much"


def test_another_bundle_gives_other_decisions(recording: Path, tmp_path: Path) -> None:
    """So that equality above is not the comparison's doing."""
    from tiny_bundle import build_tiny_bundle

    build_tiny_bundle(tmp_path / "bundle", ("rgb", "depth"), seed=7)
    with open_session(tmp_path / "bundle") as session:
        summary = replay_recording(recording, session)
    assert summary["different"] == summary["compared"] > 60


def test_a_free_replay_is_the_same_every_time_and_obeys_a_fault_schedule(
    recording: Path, images_bundle: Path
) -> None:
    schedule = FaultSchedule(
        faults=(Fault(kind="silence", modalities=("rgb",), start_s=0.0, end_s=SECONDS + 1),)
    )
    with open_session(images_bundle) as session:
        first, second = (replay_recording(recording, session, exact=False) for _ in range(2))
        silent = replay_recording(recording, session, exact=False, faults=schedule)
        held = replay_recording(recording, session, exact=False, fill="hold")
    assert first == second
    assert first["decisions"] >= first["compared"] > 60
    assert first["same_label"] > 0.9 * first["compared"]
    assert "rgb" in silent["first_difference"]
    assert silent["equal"] < first["equal"]
    assert held["equal"] == 0


def test_a_recorder_that_is_killed_leaves_a_file_good_to_its_last_chunk(
    images_bundle: Path, images_rig: Rig, endpoints: Endpoints, tmp_path: Path
) -> None:
    path, stop = tmp_path / "killed.mcap", threading.Event()
    code = (
        "import sys, threading; from pathlib import Path; from runtime.rig import load_rig\n"
        "from runtime.record.recorder import record\n"
        "record(load_rig('commands-4'), Path(sys.argv[1]), threading.Event(), endpoint=sys.argv[2])"
    )
    with (
        open_session(images_bundle) as session,
        Node(images_rig, session, endpoints) as node,
        ProcessUnderTest(python(code, path, endpoints.decisions)) as recorder,
    ):
        sensors = threading.Thread(target=play, args=(images_rig, endpoints, stop))
        try:
            assert node.await_subscriber(JOURNAL_PREFIX, 30)
            sensors.start()
            killer = threading.Timer(3.0, recorder.send_signal, [signal.SIGKILL])
            killer.start()
            statistics = node.run(until_ns=time.monotonic_ns() + round(SECONDS * 1e9))
        finally:
            stop.set()
            sensors.join(10)
        assert recorder.wait().code == -signal.SIGKILL
    assert statistics["messages"]["ticks"]["missed"] <= 2, "the node must not notice"
    topics = Counter(m.topic for m in read_recording(path))
    assert topics["frame/commands-4/rgb"] > 20
    with open_session(images_bundle) as session:
        summary = replay_recording(path, session)
    assert summary["compared"] > 20
    assert summary["different"] == 0, summary["first_difference"]


def test_a_recording_that_began_late_is_only_replayed_freely(
    recording: Path, images_bundle: Path, tmp_path: Path
) -> None:
    late = tmp_path / "late.mcap"
    with RecordingWriter(late) as writer:
        for number, entry in enumerate(_entries(recording)):
            if number == 0:
                writer.add(encode_entry(JournalEntry("begin", 40, entry.at_ns, settings=entry.settings)))
            elif entry.order >= 40:
                writer.add(encode_entry(entry))
    with open_session(images_bundle) as session:
        with pytest.raises(RecordingError, match=r"began with input 40 of its run.*run --record"):
            replay_recording(late, session)
        assert replay_recording(late, session, exact=False)["decisions"] > 40


def test_what_the_recorder_lost_is_in_the_file_by_topic_and_refuses_an_exact_replay(
    recording: Path, images_bundle: Path, tmp_path: Path
) -> None:
    gap, entries = tmp_path / "gap.mcap", _entries(recording)
    dropped = Counter(_topic(e) for e in entries if 50 <= e.order < 55 and e.call != "begin")
    assert sum(dropped.values()) == 5
    assert any(topic.startswith("frame/") for topic in dropped)
    with RecordingWriter(gap) as writer:
        for entry in entries:
            if not 50 <= entry.order < 55 or entry.call == "begin":
                writer.add(encode_entry(entry))
            if entry.order == 55:
                assert sum(writer.lost.values()) == 5, "known at once, by the common order"
        assert writer.lost == dropped
    with open_session(images_bundle) as session:
        with pytest.raises(RecordingError, match="lacks inputs 50 to 54"):
            replay_recording(gap, session)
        assert replay_recording(gap, session, exact=False)["lost"] == dropped


def test_a_loss_whose_topic_does_not_come_again_is_unattributed(recording: Path, tmp_path: Path) -> None:
    entries = _entries(recording)
    last = next(e for e in reversed(entries) if e.call == "tick")
    dropped = [e for e in entries if last.order - 3 <= e.order < last.order and e.call != "begin"]
    with RecordingWriter(tmp_path / "end.mcap") as writer:
        for entry in entries:
            if entry.order <= last.order and entry not in dropped:
                writer.add(encode_entry(entry))
        ticks = sum(e.call == "tick" for e in dropped)
        assert writer.lost.get("journal/tick", 0) == ticks
        assert writer.lost.get("unattributed", 0) == 3 - ticks


def _topic(entry: JournalEntry) -> str:
    return f"frame/{entry.modality}" if entry.call == "frame" else f"journal/{entry.call}"


def _entries(path: Path) -> list[JournalEntry]:
    return [m.content for m in read_recording(path) if isinstance(m.content, JournalEntry)]


def test_damage_is_named_and_a_cut_is_survived(recording: Path, tmp_path: Path) -> None:
    whole = recording.read_bytes()
    messages = sum(1 for _ in read_recording(recording))
    cut = tmp_path / "cut.mcap"
    for short in (0, 1, 7, 8, 9, 1000):
        cut.write_bytes(whole[: len(whole) * 2 // 3 - short])
        assert 0.3 * messages < sum(1 for _ in read_recording(cut)) < messages
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0x40
    cut.write_bytes(flipped)
    with pytest.raises(RecordingError, match=r"cut\.mcap: expected a recording"):
        list(read_recording(cut))
    cut.write_bytes(b"not mcap at all")
    with pytest.raises(RecordingError, match=r"cut\.mcap: expected a recording"):
        list(read_recording(cut))
    with pytest.raises(RecordingError, match=r"absent\.mcap: cannot be read"):
        list(read_recording(tmp_path / "absent.mcap"))


def test_a_file_that_is_there_is_never_written_over(tmp_path: Path) -> None:
    path = tmp_path / "mine.mcap"
    path.write_text("precious")
    with pytest.raises(RecordingError, match=r"mine\.mcap: exists already"):
        RecordingWriter(path)
    assert path.read_text() == "precious"


def test_a_full_disk_ends_the_recording_in_one_line_and_keeps_what_was_written(
    recording: Path, tmp_path: Path
) -> None:
    """The limit on file sizes stands in for a full disk: the same error from the same system call."""
    code = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from runtime.record.reader import read_recording; from runtime.record.writer import *\n"
        "from runtime.wire import JournalEntry, encode_entry\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, 600_000))\n"
        "try:\n"
        "    with RecordingWriter(Path(sys.argv[2])) as writer:\n"
        "        for m in read_recording(Path(sys.argv[1])):\n"
        "            if isinstance(m.content, JournalEntry): writer.add(encode_entry(m.content))\n"
        "except RecordingError as e:\n"
        "    print(e)"
    )
    full = tmp_path / "full.mcap"
    out = run_to_end(python(code, recording, full))
    assert "full.mcap: cannot be" in out.stdout
    assert "free some space" in out.stdout
    assert sum(1 for m in read_recording(full) if m.topic.startswith("frame/")) > 5
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 600_000
    assert os.stat(full).st_size <= 600_000


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5])
def test_an_entry_brings_any_message_back_as_it_was(count: int) -> None:
    parts = tuple(bytes([n]) * (n + 1) for n in range(count))
    entry = JournalEntry("frame", 3, 17, modality="", parts=parts)
    back = decode_entry([bytes(memoryview(p)) for p in encode_entry(entry)])
    assert len(back.parts) == count
    assert tuple(bytes(p) for p in back.parts[:3]) == parts[:3]
    assert (back.order, back.at_ns) == (3, 17)


@pytest.mark.parametrize(
    "change",
    [{"call": "dance"}, {"order": -1}, {"at_ns": 1.5}, {"parts": "x"}, {"count": 1000}, {"version": 2}],
)
def test_a_malformed_entry_is_refused(change: dict[str, Any]) -> None:
    topic, header, payload = encode_entry(JournalEntry("frame", 0, 0, parts=(b"a", b"b", b"c")))
    broken = msgpack.unpackb(header) | change
    with pytest.raises(WireError):
        decode_entry([topic, msgpack.packb(broken), payload])
