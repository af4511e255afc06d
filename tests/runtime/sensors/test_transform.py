from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sensor_bench import joined, sensor_of

from runtime.rig import SensorSpec
from runtime.sensors.sample_source import ARRIVAL, Delivery, SampleBlock, SourceRefusedError
from runtime.sensors.transform import Transformer, converted, plan

CAMERA = Delivery((48, 64, 3), "uint8", "intensity", 30.0)
AMPLIFIER = Delivery((4,), "float32", "uV", 250.0, ("O1", "Oz", "O2", "POz"))
SOURCE = {"kind": "camera"}


def samples(array: Any, capture_ns: int = 1_000_000_000, gap: bool = False) -> SampleBlock:
    return SampleBlock(np.asarray(array), capture_ns, ARRIVAL, gap)


def transformed(sensor: SensorSpec, delivery: Delivery, array: Any) -> np.ndarray[Any, Any]:
    out = Transformer(plan(sensor, delivery)).apply(samples(array))
    assert out is not None
    assert out.array.flags.c_contiguous
    return out.array


@pytest.mark.parametrize(
    ("sensor", "delivery", "words"),
    [
        (
            sensor_of("rgb", SOURCE),
            Delivery((480, 640, 3), "uint8", "intensity", 30.0),
            r"sample_shape is \(48, 64, 3\) in the rig, its source gives \(480, 640, 3\); "
            r"add `transform: {resize: \[48, 64\]}`",
        ),
        (
            sensor_of("rgb", SOURCE),
            Delivery((48, 64), "uint8", "intensity", 30.0),
            r"add `transform: {colour: grey-to-rgb}`",
        ),
        (sensor_of("rgb", SOURCE), Delivery((48, 64, 3), "uint8", "intensity", 60.0), r"{every: 2}"),
        (
            sensor_of("rgb", SOURCE),
            Delivery((48, 64, 3), "uint8", "intensity", 25.0),
            "rate_hz is 30 in the rig, its source gives 25; ask the source for another rate",
        ),
        (sensor_of("depth", SOURCE), Delivery((48, 64), "uint16", None, 30.0), "from_unit: mm"),
        (sensor_of("depth", SOURCE), Delivery((48, 64), "uint16", "cm", 30.0), "from_unit: cm"),
        (sensor_of("depth", SOURCE), Delivery((48, 64), "uint16", "furlong", 30.0), r"scale: \.\.\."),
        (sensor_of("depth", SOURCE), Delivery((48, 64), "float32", "mm", 30.0), "{dtype: uint16}"),
        (
            sensor_of("eeg", SOURCE),
            Delivery((16,), "float32", "uV", 250.0),
            r"channels: \[0, 1, 2, 3\]}` with the 4 that you mean",
        ),
        (sensor_of("eeg", SOURCE), Delivery((4,), "float32", "uV", 256.0), "{resample_hz: 250}"),
        (sensor_of("eeg", SOURCE), Delivery((2,), "float32", "uV", 250.0), "no transform makes"),
        (sensor_of("eeg", SOURCE, {"channels": ["O1", 4]}), AMPLIFIER, "no channel 4; .*'POz'.* or 0 to 3"),
        (sensor_of("eeg", SOURCE, {"from_unit": "V"}), AMPLIFIER, "from_unit is 'V', its source says 'uV'"),
        (sensor_of("eeg", SOURCE, {"every": 2}), AMPLIFIER, "every is for images"),
        (sensor_of("eeg", SOURCE, {"resize": [2, 2]}), AMPLIFIER, "are for images"),
        (
            sensor_of("eeg", SOURCE, {"resample_hz": 256}),
            AMPLIFIER,
            "rate_hz is 250 in the rig, its source gives 256",
        ),
        (sensor_of("rgb", SOURCE, {"resample_hz": 30}), CAMERA, "resample_hz is for audio and EEG"),
        (
            sensor_of("rgb", SOURCE, {"crop": [0, 20, 48, 64]}),
            CAMERA,
            "reaches beyond the image of 48 x 64",
        ),
        (sensor_of("rgb", SOURCE, {"colour": "grey-to-rgb"}), CAMERA, r"needs images \(height, width\)"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_would_make_it(
    sensor: SensorSpec, delivery: Delivery, words: str
) -> None:
    with pytest.raises(SourceRefusedError, match=words) as refused:
        plan(sensor, delivery)
    assert str(refused.value).startswith(f"sensor {sensor.modality!r}: ")
    assert "\n" not in str(refused.value)


def test_what_fits_goes_through_unchanged() -> None:
    image = np.random.default_rng(0).integers(0, 255, (1, 48, 64, 3), np.uint8)
    np.testing.assert_array_equal(transformed(sensor_of("rgb", SOURCE), CAMERA, image), image)
    nearly = Delivery((48, 64, 3), "uint8", "intensity", 29.97)
    np.testing.assert_array_equal(transformed(sensor_of("rgb", SOURCE), nearly, image), image)


def test_depth_is_resized_by_nearest_so_that_no_depth_is_invented() -> None:
    depth = np.random.default_rng(0).choice(np.array([0, 4000], np.uint16), (1, 96, 128))
    sensor = sensor_of("depth", SOURCE, {"resize": [48, 64]})
    out = transformed(sensor, Delivery((96, 128), "uint16", "mm", 30.0), depth)
    assert out.shape == (1, 48, 64)
    assert set(np.unique(out)) == {0, 4000}
    averaged = sensor_of("depth", SOURCE, {"resize": [48, 64], "interpolation": "area"})
    assert len(np.unique(transformed(averaged, Delivery((96, 128), "uint16", "mm", 30.0), depth))) > 2


def test_colours_are_turned_and_greys_repeated() -> None:
    bgr = np.zeros((1, 48, 64, 3), np.uint8)
    bgr[..., 0] = 9
    assert transformed(sensor_of("rgb", SOURCE, {"colour": "bgr-to-rgb"}), CAMERA, bgr)[0, 0, 0].tolist() == [
        0,
        0,
        9,
    ]
    grey = Delivery((48, 64), "uint8", "intensity", 30.0)
    out = transformed(sensor_of("rgb", SOURCE, {"colour": "grey-to-rgb"}), grey, bgr[..., 0])
    assert out[0, 0, 0].tolist() == [9, 9, 9]


def test_units_are_converted_rounded_and_saturated() -> None:
    metres = np.array([[[0.0, 0.7004, 80.0, np.nan]]], np.float32)
    sensor = sensor_of("depth", SOURCE, {"from_unit": "m"}, sample_shape=(1, 4))
    out = transformed(sensor, Delivery((1, 4), "float32", "m", 30.0), metres)
    assert out.dtype == np.uint16
    assert out.ravel().tolist() == [0, 700, 65535, 0]
    volts = Delivery((4,), "float64", "V", 250.0)
    got = transformed(sensor_of("eeg", SOURCE, {"from_unit": "V"}), volts, np.full((3, 4), 12.5e-6))
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, 12.5, rtol=1e-6)


@pytest.mark.parametrize(("value", "expected"), [(-70000.0, -32768), (1.5, 2), (40000.0, 32767)])
def test_conversion_saturates(value: float, expected: int) -> None:
    assert converted(np.array([value]), np.dtype(np.int16)).tolist() == [expected]


def test_one_image_in_several_is_kept_with_its_own_time_and_gaps_are_not_forgotten() -> None:
    sensor = sensor_of("depth", SOURCE, {"every": 3}, sample_shape=(1, 1))
    transformer = Transformer(plan(sensor, Delivery((1, 1), "uint16", "mm", 90.0)))
    kept = []
    for n in range(10):
        image = np.full((1, 1, 1), n, np.uint16)
        out = transformer.apply(replace(samples(image, 1_000 + n, gap=n == 4), number=n))
        if out is not None:
            assert out.number is None, "numbers of the source do not count what is kept"
            kept.append((int(out.array.item()), out.capture_ns, out.gap))
    assert kept == [(0, 1000, False), (3, 1003, False), (6, 1006, True), (9, 1009, False)]


def test_one_channel_becomes_a_scalar_stream() -> None:
    stereo = np.stack([np.arange(5), -np.arange(5)], 1).astype(np.int16)
    sensor = sensor_of("audio", SOURCE, {"channels": [1]})
    out = transformed(sensor, Delivery((2,), "int16", "pcm16", 16000.0), stereo)
    assert out.tolist() == [0, -1, -2, -3, -4]


@pytest.mark.parametrize("rates", [(250.0, 256.0), (512.0, 256.0), (500.0, 128.0), (48000.0, 16000.0)])
def test_resampling_goes_on_across_messages_and_keeps_time(rates: tuple[float, float]) -> None:
    rate, target = rates
    sensor = sensor_of("eeg", SOURCE, {"resample_hz": target}, rate_hz=target)
    transformer = Transformer(plan(sensor, Delivery((4,), "float32", "uV", rate)))

    def wave(at_s: Any) -> Any:
        return 20 * np.sin(2 * np.pi * 7 * at_s)

    got: list[SampleBlock] = []
    n = 0
    for size in [10, 3, 25, 1] * 40:
        at_s = (n + np.arange(size)) / rate
        n += size
        chunk = np.repeat(wave(at_s)[:, None], 4, axis=1).astype(np.float32)
        out = transformer.apply(samples(chunk, 10**9 + round(float(at_s[-1]) * 1e9)))
        if out is not None:
            got.append(out)
    # Every sample, at the time that its message's stamp gives it, is the wave at that time.
    for s in got:
        newest_s = (s.capture_ns - 10**9) / 1e9
        at_s = newest_s - np.arange(len(s.array))[::-1] / target
        np.testing.assert_allclose(s.array[:, 2], wave(at_s), atol=0.05)
    assert abs(len(joined(got)) - n * target / rate) < (25 if target < 1000 else 70), (
        "nothing but the filter's length is missing"
    )


def test_a_gap_begins_resampling_anew() -> None:
    sensor = sensor_of("eeg", SOURCE, {"resample_hz": 125}, rate_hz=125)
    transformer = Transformer(plan(sensor, AMPLIFIER))
    before = [transformer.apply(samples(np.full((250, 4), 50, np.float32), n * 10**9)) for n in (1, 2)]
    assert before[1] is not None
    assert not before[1].gap
    after = transformer.apply(samples(np.zeros((250, 4), np.float32), 7 * 10**9, gap=True))
    assert after is not None
    assert after.gap
    assert np.abs(after.array).max() == 0, "nothing of what came before the gap"
    assert after.capture_ns <= 7 * 10**9


def test_every_message_of_what_came_after_a_gap_is_told_once() -> None:
    sensor = sensor_of("eeg", SOURCE)
    transformer = Transformer(plan(sensor, AMPLIFIER))
    outs = [transformer.apply(samples(np.zeros((5, 4), np.float32), gap=g)) for g in (False, True, False)]
    assert [o.gap for o in outs if o is not None] == [False, True, False]
