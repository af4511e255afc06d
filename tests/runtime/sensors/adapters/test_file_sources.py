"""Sources that play files: depth images, audio, EEG, recordings; and the synthetic rig."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from sensor_bench import joined, read_samples, sensor_of

from runtime.rig import load_rig
from runtime.sensors.sample_source import SourceRefusedError
from runtime.sensors.source_kinds import make_source
from runtime.sensors.transform import Transformer, plan
from runtime.signals.opening import open_source
from runtime.signals.playback import Playback, plan_for
from runtime.wire import JournalEntry, encode_entry, encode_frame


def depth_folder(folder: Path, count: int = 5) -> list[np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 5000, (48, 64)).astype(np.uint16) for _ in range(count)]
    for n, image in enumerate(images):
        cv2.imwrite(str(folder / f"{n:04d}.{'png' if n % 2 else 'tiff'}"), image)
    return images


def test_a_folder_of_16_bit_images_plays_in_name_order(tmp_path: Path) -> None:
    images = depth_folder(tmp_path)
    (tmp_path / "readme.txt").write_text("not an image")
    source = make_source(
        sensor_of("depth", {"kind": "depth-images", "folder": str(tmp_path), "rate_hz": 100})
    )
    delivery = source.open()
    assert (delivery.shape, delivery.dtype, delivery.unit) == ((48, 64), "uint16", None)
    taken = read_samples(source, 2)
    np.testing.assert_array_equal(joined(taken), np.stack(images))
    np.testing.assert_allclose(np.diff([s.capture_ns for s in taken]), 1e7, atol=1)


def test_depth_is_scaled_to_millimetres_by_declaration_and_holes_stay_holes(tmp_path: Path) -> None:
    images = depth_folder(tmp_path, 2)
    options = {"kind": "depth-images", "folder": str(tmp_path)}
    silent = sensor_of("depth", options)
    source = make_source(silent)
    with pytest.raises(
        SourceRefusedError, match=r"unit is mm in the rig, its source gives none; add .*from_unit: mm"
    ):
        plan(silent, source.open())
    scaled = sensor_of("depth", options, {"scale": 0.25})
    transformer = Transformer(plan(scaled, source.open()))
    out = transformer.apply(read_samples(source, 1, most=1)[0])
    assert out is not None
    assert out.array.dtype == np.uint16
    np.testing.assert_array_equal(out.array[0], np.rint(images[0] * 0.25))
    assert (out.array[0][images[0] == 0] == 0).all()


def test_an_image_that_cannot_be_read_is_a_gap_that_is_counted(tmp_path: Path) -> None:
    depth_folder(tmp_path)
    (tmp_path / "0002.tiff").write_bytes(b"broken")
    source = make_source(
        sensor_of("depth", {"kind": "depth-images", "folder": str(tmp_path), "rate_hz": 100})
    )
    source.open()
    taken = read_samples(source, 1)
    assert [s.gap for s in taken] == [False, False, True, False]
    assert getattr(source, "counts") == {"unreadable": 1}  # noqa: B009 not part of the protocol


def test_images_of_8_bits_and_empty_folders_are_refused(tmp_path: Path) -> None:
    options = {"kind": "depth-images", "folder": str(tmp_path)}
    with pytest.raises(SourceRefusedError, match="expected a folder with"):
        make_source(sensor_of("depth", options)).open()
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8), np.uint8))
    with pytest.raises(SourceRefusedError, match="expected 16 bits, one channel, got uint8"):
        make_source(sensor_of("depth", options)).open()


def test_a_wav_file_plays_its_own_samples_over_and_over(tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile", reason="needs the audio extra")
    wave = np.random.default_rng(0).integers(-9000, 9000, 1000).astype(np.int16)
    soundfile.write(tmp_path / "a.wav", wave, 16000)
    source = make_source(
        sensor_of("audio", {"kind": "audio-file", "file": str(tmp_path / "a.wav"), "loop": True})
    )
    delivery = source.open()
    assert (delivery.shape, delivery.dtype, delivery.rate_hz, delivery.unit) == ((), "int16", 16000, "pcm16")
    taken = read_samples(source, 2, most=9)
    source.close()
    np.testing.assert_array_equal(joined(taken)[:2200], np.resize(wave, 2200))
    lengths = np.array([len(s.array) for s in taken])
    np.testing.assert_allclose(np.diff([s.capture_ns for s in taken]), lengths[1:] / 16000 * 1e9, atol=1)


def test_a_stereo_file_of_another_rate_is_refused_and_then_transformed(tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile", reason="needs the audio extra")
    time_s = np.arange(48000) / 48000
    left = np.rint(8000 * np.sin(2 * np.pi * 440 * time_s))
    soundfile.write(tmp_path / "a.wav", np.stack([left, -left], 1).astype(np.int16), 48000)
    options = {"kind": "audio-file", "file": str(tmp_path / "a.wav")}
    for transform, message in (
        (None, r"sample_shape is \(\) in the rig, its source gives \(2,\); add .*channels: \[0\]"),
        ({"channels": [0]}, "rate_hz is 16000 in the rig, its source gives 48000; add .*resample_hz: 16000"),
    ):
        sensor = sensor_of("audio", options, transform)
        with pytest.raises(SourceRefusedError, match=message):
            plan(sensor, make_source(sensor).open())
    sensor = sensor_of("audio", options, {"channels": [0], "resample_hz": 16000})
    source = make_source(sensor)
    transformer = Transformer(plan(sensor, source.open()))
    played = read_samples(source, 0.6)
    taken = [out for s in played if (out := transformer.apply(s)) is not None]
    heard = joined(taken)
    assert heard.dtype == np.int16
    first_ns = played[0].capture_ns - round((len(played[0].array) - 1) / 48000 * 1e9)
    at_s = (taken[-1].capture_ns - first_ns) / 1e9 - np.arange(len(heard))[::-1] / 16000
    assert np.abs(heard - 8000 * np.sin(2 * np.pi * 440 * at_s)).max() < 8


def test_a_fif_file_plays_chosen_channels_in_microvolts(tmp_path: Path) -> None:
    mne = pytest.importorskip("mne", reason="needs the mne extra")
    volts = np.random.default_rng(0).normal(0, 20e-6, (6, 500))
    names = ["Fz", "O1", "Oz", "O2", "POz", "STI"]
    info = mne.create_info(names, 250.0, ["eeg"] * 5 + ["stim"])
    mne.io.RawArray(volts, info, verbose="error").save(tmp_path / "a_raw.fif", verbose="error")
    options = {"kind": "eeg-file", "file": str(tmp_path / "a_raw.fif")}
    chosen = ["O1", "Oz", "O2", "POz"]
    undeclared = sensor_of("eeg", options, {"channels": chosen})
    source = make_source(undeclared)
    with pytest.raises(
        SourceRefusedError, match=r"unit is uV in the rig, its source gives V; add .*from_unit: V"
    ):
        plan(undeclared, source.open())
    sensor = sensor_of("eeg", options, {"channels": chosen, "from_unit": "V"})
    transformer = Transformer(plan(sensor, source.open()))
    taken = [out for s in read_samples(source, 0.5) if (out := transformer.apply(s)) is not None]
    source.close()
    got = joined(taken)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, 1e6 * volts[1:5, : len(got)].T, atol=1e-3)
    missing = sensor_of("eeg", options, {"channels": ["O1", "Cz", "O2", "POz"], "from_unit": "V"})
    with pytest.raises(SourceRefusedError, match=r"no channel 'Cz'; its source has .*'POz'"):
        plan(missing, make_source(missing).open())


def write_recording(path: Path, chunks: list[np.ndarray[Any, Any]]) -> None:
    """What `afterimage record` writes of a node that gets these chunks, of which number 3 never came."""
    from runtime.record.writer import RecordingWriter

    rig = load_rig("commands-4")
    numbers = [n for n in range(len(chunks) + 1) if n != 3]
    with RecordingWriter(path) as writer:
        writer.add(encode_entry(JournalEntry("begin", 0, 1, settings={"rig": rig.model_dump(mode="json")})))
        for order, (number, chunk) in enumerate(zip(numbers, chunks, strict=True)):
            captured = round((number + 1) * 8e9 / 256)
            parts = encode_frame(rig.name, "eeg", number, chunk, capture_ns=captured, unit="uV")
            entry = JournalEntry("frame", order, captured, modality="eeg", parts=tuple(parts))
            writer.add(encode_entry(entry))


def test_a_recording_plays_one_modality_at_the_pace_of_its_capture(tmp_path: Path) -> None:
    pytest.importorskip("mcap", reason="needs the record extra")
    rng = np.random.default_rng(0)
    chunks = [rng.normal(0, 10, (8, 8)).astype(np.float32) for _ in range(6)]
    path = tmp_path / "a.mcap"
    write_recording(path, chunks)
    form = {"sample_shape": (8,), "rate_hz": 256, "chunk": 8}
    sensor = sensor_of("eeg", {"kind": "recording", "file": str(path), "loop": True}, **form)
    source = make_source(sensor)
    delivery = source.open()
    assert (delivery.shape, delivery.dtype, delivery.unit, delivery.rate_hz) == ((8,), "float32", "uV", 256)
    plan(sensor, delivery)
    before = time.monotonic_ns()
    taken = read_samples(source, 3, most=9)
    source.close()
    np.testing.assert_array_equal(joined(taken[:6]), np.concatenate(chunks))
    np.testing.assert_array_equal(taken[6].array, chunks[0])
    assert [s.gap for s in taken[:6]] == [False, False, False, True, False, False]  # message 3 was lost
    intervals = np.diff([s.capture_ns for s in taken[:6]]) * 256 / 8e9
    np.testing.assert_allclose(intervals, [1, 1, 2, 1, 1], atol=1e-4)
    assert all(a.capture_ns < b.capture_ns for a, b in pairwise(taken))
    assert 0 <= before - taken[0].capture_ns < 1e9
    with pytest.raises(SourceRefusedError, match="no frame of 'audio' in it"):
        make_source(sensor_of("audio", {"kind": "recording", "file": str(path)})).open()
    with pytest.raises(SourceRefusedError, match=r"none\.mcap: cannot be read"):
        make_source(sensor_of("audio", {"kind": "recording", "file": str(tmp_path / "none.mcap")})).open()


def test_synthetic_sensors_of_any_rig_play_the_common_plan() -> None:
    form = {"sample_shape": (8,), "rate_hz": 256, "chunk": 8}
    start_ns = time.monotonic_ns() - 10_000_000_000
    sensor = sensor_of("eeg", {"kind": "synthetic", "plan_seed": 3}, **form)
    source = make_source(sensor, lambda: start_ns)
    plan(sensor, source.open())
    taken = read_samples(source, 3, most=3)
    expected = open_source("synthetic", modalities=("eeg",))
    playback = Playback(expected, "eeg", plan_for(expected, "test", 3))
    for s in taken:
        index = playback.next_index(s.capture_ns - start_ns)
        assert index > 300, "it joins in where the others are"
        assert s.capture_ns == start_ns + playback.elapsed_ns(index)
        np.testing.assert_array_equal(s.array, playback.read(index).samples)
        assert s.number == index
    longer = sensor_of("eeg", {"kind": "synthetic", "plan_seed": 3}, **form | {"chunk": 16})
    source = make_source(longer, lambda: start_ns)
    plan(longer, source.open())
    (message,) = read_samples(source, 3, most=1)
    assert message.number is not None
    assert message.capture_ns == start_ns + (message.number + 1) * 62_500_000, (
        "numbers count the rig's messages"
    )
    both = [playback.read(2 * message.number + n).samples for n in (0, 1)]
    np.testing.assert_array_equal(message.array, np.concatenate(both))
    with pytest.raises(SourceRefusedError, match="a message needs 2000"):
        make_source(sensor_of("eeg", {"kind": "synthetic"}, **form | {"chunk": 2000})).open()
    with pytest.raises(SourceRefusedError, match=r"unknown modalities .*smell"):
        make_source(sensor_of("eeg", {"kind": "synthetic", "modality": "smell"})).open()
