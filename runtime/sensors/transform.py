"""Bringing what a source delivers to what the rig promises.

:func:`plan` runs once, when the source is opened: it follows shape, dtype, unit and rate through the declared steps,
compares the result with the sensor, and refuses a rig that is wrong before anything is published.
:class:`Transformer` then applies the plan to every sample.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.core.clock import NS_PER_S, nanoseconds
from runtime.rig import SensorSpec
from runtime.rig.source_options import Transform
from runtime.sensors.resampling import Resampler
from runtime.sensors.sample_source import Delivery, SampleBlock, SourceRefusedError

_RATE_TOLERANCE = 0.005
"""29.97 frames a second feed a rig of 30; 250 samples a second do not feed one of 256."""

_FACTORS = {
    ("V", "uV"): 1e6, ("mV", "uV"): 1e3, ("nV", "uV"): 1e-3,
    ("m", "mm"): 1e3, ("cm", "mm"): 10.0,
    ("full-scale", "pcm16"): 32767.0,
}  # fmt: skip

_IMAGES = ("rgb", "depth")


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps that bring every sample to the rig's form; made by :func:`plan`.

    Attributes:
        sensor: the form that samples must have.
        delivery: the form in which they come.
        channels: indices that are kept of the last axis; None keeps all.
        squeeze: drop the last axis: one channel is left, and the rig's samples are scalars.
        factor: samples are multiplied by this; None leaves them alone.
        transform: the other steps.
    """

    sensor: SensorSpec
    delivery: Delivery
    channels: tuple[int, ...] | None
    squeeze: bool
    factor: float | None
    transform: Transform


def plan(sensor: SensorSpec, delivery: Delivery) -> Plan:
    """Work out how a source's samples become the sensor's.

    Raises:
        SourceRefusedError: they cannot; the message names the first field that does not fit, what the rig needs, what
            comes, and what to declare.
    """
    transform = sensor.transform or Transform()
    channels = _channels(sensor, transform, delivery)
    shape, squeeze = _shape(sensor, transform, delivery, channels)
    if shape != sensor.sample_shape:
        raise _mismatch(sensor, "sample_shape", sensor.sample_shape, shape, _shape_advice(sensor, shape))
    factor = _factor(sensor, transform, delivery)
    _check_dtype(sensor, transform, delivery, computed=factor is not None)
    _check_rate(sensor, transform, delivery)
    return Plan(sensor, delivery, channels, squeeze, factor, transform)


def _mismatch(sensor: SensorSpec, field: str, needed: object, got: object, advice: str) -> SourceRefusedError:
    return SourceRefusedError(
        f"sensor {sensor.modality!r}: {field} is {needed} in the rig, its source gives {got}; {advice}"
    )


def _channels(sensor: SensorSpec, transform: Transform, delivery: Delivery) -> tuple[int, ...] | None:
    if transform.channels is None:
        return None
    count = delivery.shape[-1] if delivery.shape else 0
    names = delivery.channels or ()
    found = []
    for wanted in transform.channels:
        if isinstance(wanted, str) and wanted in names:
            found.append(names.index(wanted))
        elif isinstance(wanted, int) and 0 <= wanted < count:
            found.append(wanted)
        else:
            known = f"{list(names)} or " if names else ""
            raise SourceRefusedError(
                f"sensor {sensor.modality!r}: transform.channels: no channel {wanted!r}; its source has "
                f"{known}0 to {count - 1}"
            )
    return tuple(found)


def _shape(
    sensor: SensorSpec, transform: Transform, delivery: Delivery, channels: tuple[int, ...] | None
) -> tuple[tuple[int, ...], bool]:
    """Shape of a sample after all steps, and whether its one channel is dropped."""
    shape = delivery.shape
    if channels is not None:
        shape = (*shape[:-1], len(channels))
    squeeze = channels is not None and len(channels) == 1 and shape[:-1] == sensor.sample_shape
    if squeeze:
        shape = shape[:-1]
    if (transform.crop or transform.resize or transform.colour) and len(shape) < 2:
        raise SourceRefusedError(
            f"sensor {sensor.modality!r}: crop, resize and colour are for images, its samples have shape {shape}"
        )
    if transform.crop:
        top, left, height, width = transform.crop
        if top + height > shape[0] or left + width > shape[1]:
            raise SourceRefusedError(
                f"sensor {sensor.modality!r}: transform.crop {list(transform.crop)} reaches beyond the image of "
                f"{shape[0]} x {shape[1]} (height x width) that its source gives"
            )
        shape = (height, width, *shape[2:])
    if transform.resize:
        shape = (*transform.resize, *shape[2:])
    if transform.colour == "grey-to-rgb":
        if len(shape) != 2:
            raise SourceRefusedError(
                f"sensor {sensor.modality!r}: transform.colour grey-to-rgb needs images (height, width), got {shape}"
            )
        shape = (*shape, 3)
    elif transform.colour == "bgr-to-rgb" and (len(shape) != 3 or shape[2] != 3):
        raise SourceRefusedError(
            f"sensor {sensor.modality!r}: transform.colour bgr-to-rgb needs images (height, width, 3), got {shape}"
        )
    return shape, squeeze


def _shape_advice(sensor: SensorSpec, got: tuple[int, ...]) -> str:
    needed = sensor.sample_shape
    if len(got) >= 2 and len(got) == len(needed) and got[2:] == needed[2:]:
        return f"add `transform: {{resize: {list(needed[:2])}}}`"
    if len(needed) == 3 and len(got) == 2:
        return "add `transform: {colour: grey-to-rgb}`"
    if len(got) == 1:
        count = needed[0] if needed else 1
        if count <= got[0]:
            return f"add `transform: {{channels: {list(range(count))}}}` with the {count} that you mean"
    return "no transform makes one of the other"


def _factor(sensor: SensorSpec, transform: Transform, delivery: Delivery) -> float | None:
    """The factor that brings samples to the rig's unit; None where they already are in it."""
    if transform.scale is not None:
        return transform.scale
    stated, declared = delivery.unit, transform.from_unit
    if stated is not None and declared is not None and stated != declared:
        raise SourceRefusedError(
            f"sensor {sensor.modality!r}: transform.from_unit is {declared!r}, its source says {stated!r}; leave "
            "from_unit out, or give scale"
        )
    unit = declared or stated
    if unit == sensor.unit:
        return None
    if unit is None:
        raise _mismatch(
            sensor,
            "unit",
            sensor.unit,
            "none",
            f"add `transform: {{from_unit: {sensor.unit}}}` if that is it",
        )
    factor = _FACTORS.get((unit, sensor.unit))
    if factor is None:
        raise _mismatch(sensor, "unit", sensor.unit, unit, "add `transform: {scale: ...}`")
    if declared is None:
        raise _mismatch(sensor, "unit", sensor.unit, unit, f"add `transform: {{from_unit: {unit}}}`")
    return factor


def _check_dtype(sensor: SensorSpec, transform: Transform, delivery: Delivery, *, computed: bool) -> None:
    if transform.dtype is not None and transform.dtype != sensor.dtype:
        raise _mismatch(
            sensor, "dtype", sensor.dtype, f"transform.dtype {transform.dtype}", "make them the same"
        )
    computed = computed or transform.resample_hz is not None or transform.dtype is not None
    if delivery.dtype != sensor.dtype and not computed:
        raise _mismatch(
            sensor, "dtype", sensor.dtype, delivery.dtype, f"add `transform: {{dtype: {sensor.dtype}}}`"
        )


def _check_rate(sensor: SensorSpec, transform: Transform, delivery: Delivery) -> None:
    image = sensor.kind in _IMAGES
    if image and transform.resample_hz is not None:
        raise SourceRefusedError(
            f"sensor {sensor.modality!r}: transform.resample_hz is for audio and EEG; images take `every`"
        )
    if not image and transform.every != 1:
        raise SourceRefusedError(
            f"sensor {sensor.modality!r}: transform.every is for images; audio and EEG take `resample_hz`"
        )
    rate = delivery.rate_hz
    if transform.resample_hz is not None:
        if rate is None:
            raise SourceRefusedError(
                f"sensor {sensor.modality!r}: transform.resample_hz needs a source that says its rate"
            )
        rate = transform.resample_hz
    elif rate is not None:
        rate /= transform.every
    if rate is not None and abs(rate - sensor.rate_hz) > _RATE_TOLERANCE * sensor.rate_hz:
        times = rate / sensor.rate_hz
        if image and abs(times - round(times)) < _RATE_TOLERANCE * times and round(times) > 1:
            advice = f"add `transform: {{every: {round(times) * transform.every}}}`"
        elif image:
            advice = "ask the source for another rate, or change the rig's"
        else:
            advice = f"add `transform: {{resample_hz: {sensor.rate_hz:g}}}`"
        raise _mismatch(sensor, "rate_hz", f"{sensor.rate_hz:g}", f"{rate:g}", advice)


class Transformer:
    """Applies a plan to a stream of samples; holds what a resampler has to remember."""

    def __init__(self, plan: Plan) -> None:
        """Begin a stream."""
        self._plan = plan
        self._dtype = np.dtype(plan.sensor.dtype)
        self._skipped = 0
        self._gap = False
        rate, target = plan.delivery.rate_hz, plan.transform.resample_hz
        self._resampler = _Resampling(plan.sensor, rate, target) if rate and target else None

    def apply(self, samples: SampleBlock) -> SampleBlock | None:
        """Samples in the form of the rig; None where none is complete yet."""
        p, t = self._plan, self._plan.transform
        array = samples.array
        if p.channels is not None:
            array = array[..., p.channels[0] : p.channels[0] + 1] if p.squeeze else array[..., p.channels]
        if p.squeeze:
            array = array[..., 0]
        if t.crop:
            top, left, height, width = t.crop
            array = array[:, top : top + height, left : left + width]
        if t.every > 1:
            array, samples = self._thinned(array, samples)
            if not len(array):
                return None
        if t.resize:
            array = np.stack([_resized(image, t, p.sensor.kind) for image in array])
        if t.colour == "bgr-to-rgb":
            array = array[..., ::-1]
        elif t.colour == "grey-to-rgb":
            array = np.repeat(array[..., np.newaxis], 3, axis=-1)
        if p.factor is not None:
            array = array.astype(np.float32) * np.float32(p.factor)
        result = replace(samples, array=array)
        if self._resampler is not None:
            resampled = self._resampler.apply(result)
            if resampled is None:
                return None
            result = resampled
        return replace(result, array=np.ascontiguousarray(converted(result.array, self._dtype)))

    def _thinned(self, array: npt.NDArray[Any], samples: SampleBlock) -> tuple[npt.NDArray[Any], SampleBlock]:
        """Keep one image in `every`; a gap before an image that is left out is reported with the next one kept."""
        every = self._plan.transform.every
        first = -self._skipped % every
        kept = array[first::every]
        newest = first + (len(kept) - 1) * every
        self._skipped = (self._skipped + len(array)) % every
        self._gap = self._gap or samples.gap
        if not len(kept):
            return kept, samples
        rate = self._plan.delivery.rate_hz
        older_s = (len(array) - 1 - newest) / rate if rate else 0.0
        gap, self._gap = self._gap, False
        return kept, replace(
            samples, capture_ns=samples.capture_ns - nanoseconds(older_s), gap=gap, number=None
        )


def _resized(image: npt.NDArray[Any], transform: Transform, kind: str) -> npt.NDArray[Any]:
    import cv2

    assert transform.resize is not None
    height, width = transform.resize
    name = transform.interpolation or ("nearest" if kind == "depth" else "area")
    # Not INTER_NEAREST, whose sampling points are half a pixel off.
    how = {"area": cv2.INTER_AREA, "linear": cv2.INTER_LINEAR, "nearest": cv2.INTER_NEAREST_EXACT}[name]
    resized: npt.NDArray[Any] = cv2.resize(np.ascontiguousarray(image), (width, height), interpolation=how)
    return resized


def converted(array: npt.NDArray[Any], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """The array in another dtype; for integers values are rounded and saturated, and NaN becomes 0."""
    if array.dtype == dtype:
        return array
    if dtype.kind == "f":
        return array.astype(dtype)
    limits = np.iinfo(dtype)
    if array.dtype.kind == "f":
        array = np.rint(np.nan_to_num(array, nan=0.0, posinf=limits.max, neginf=limits.min))
    saturated: npt.NDArray[Any] = np.clip(array, limits.min, limits.max).astype(dtype)
    return saturated


class _Resampling:
    """Resamples a stream of blocks, keeping their times; a gap begins a new stream."""

    def __init__(self, sensor: SensorSpec, rate_hz: float, target_hz: float) -> None:
        self._rates = rate_hz, target_hz
        self._width = int(np.prod(sensor.sample_shape, dtype=np.int64))
        self._shape = sensor.sample_shape
        self._gap = False
        self._resampler = Resampler(rate_hz, target_hz, self._width)

    def apply(self, samples: SampleBlock) -> SampleBlock | None:
        if samples.gap:
            self._resampler = Resampler(*self._rates, self._width)
            self._gap = True
        out, behind = self._resampler.push(samples.array.astype(np.float32).reshape(-1, self._width))
        if not len(out):
            return None
        capture_ns = samples.capture_ns - round(behind / self._rates[0] * NS_PER_S)
        gap, self._gap = self._gap, False
        return SampleBlock(out.reshape(-1, *self._shape), capture_ns, samples.clock, gap)
