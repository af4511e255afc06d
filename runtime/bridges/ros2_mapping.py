"""Converting a node's messages to ROS 2 messages, and ROS 2 messages to samples: pure functions that need no ROS.

A ROS message is a :class:`RosMessage`: the name of its type, and its fields. Bytes and floats are ``array.array``,
which rclpy takes without a copy. ``docs/ros2.md`` describes the same mapping.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from configs.errors import AfterimageError
from runtime.rig import SensorSpec
from runtime.wire import Decision, HealthEvent, ModalityReport, Observation

_OK, _WARN, _ERROR = b"\x00", b"\x01", b"\x02"
_LEVELS = {"live": _OK, "waiting": _WARN, "late": _WARN}
"""DiagnosticStatus levels of the states; all others are errors."""


class RosMessageError(AfterimageError, ValueError):
    """A ROS message does not fit its sensor; the text names both."""


@dataclass(frozen=True)
class RosMessage:
    """One message, or a part of one.

    Attributes:
        type: such as ``sensor_msgs/msg/Image``.
        fields: name -> a number, text, bytes, array, RosMessage, or list of RosMessage.
    """

    type: str
    fields: dict[str, Any]


def topic_base(rig: str) -> str:
    """The namespace of a rig's topics; ROS names have no hyphens."""
    return f"/afterimage/{rig.replace('-', '_')}"


def decision_messages(decision: Decision, stamp_ns: int) -> list[tuple[str, RosMessage]]:
    """A decision as topics below the rig's namespace.

    Args:
        decision: the decision.
        stamp_ns: its deadline in ROS time.

    Returns:
        ``label`` (std_msgs/String), ``probabilities`` (std_msgs/Float32MultiArray, classes in the label of its
        dimension), ``decision`` (std_msgs/String: the whole decision as JSON) and ``/diagnostics``.
    """
    classes = ",".join(decision.probabilities)
    full = asdict(decision) | {"stamp_ns": stamp_ns}
    statuses = [_status(decision.rig, name, report) for name, report in decision.modalities.items()]
    return [
        ("label", RosMessage("std_msgs/msg/String", {"data": decision.label})),
        ("probabilities", _floats([(classes, len(decision.probabilities))], decision.probabilities.values())),
        ("decision", RosMessage("std_msgs/msg/String", {"data": json.dumps(full)})),
        ("/diagnostics", _diagnostics(statuses, stamp_ns)),
    ]


def health_message(event: HealthEvent, stamp_ns: int) -> RosMessage:
    """A change of a sensor's state as diagnostic_msgs/DiagnosticArray, for ``/diagnostics``."""
    values = {"previous": event.previous, "reason": event.reason, "detail": event.detail}
    return _diagnostics([_diagnostic(event.rig, event.modality, event.state, event.reason, values)], stamp_ns)


def observation_message(observation: Observation, stamp_ns: int) -> RosMessage:
    """An observation as sensor_msgs/Image, or as std_msgs/Float32MultiArray if it is no image.

    Every message tells whether the model made it: the image's frame_id, or the label of the array's first dimension, is
    the modality's name, followed by ``_imputed`` if it is not a measurement.
    """
    frame = f"{observation.modality}{'_imputed' if observation.imputed else ''}"
    values = observation.values
    if observation.unit == "intensity" and values.ndim == 3 and values.shape[2] == 3:
        pixels = np.clip(np.rint(values), 0, 255).astype(np.uint8)
        return _image(frame, stamp_ns, "rgb8", pixels)
    if observation.unit == "mm" and values.ndim == 2:
        return _image(frame, stamp_ns, "32FC1", values.astype("<f4") / np.float32(1000))  # metres, by REP 118
    labels = [f"{frame} ({observation.unit})", *("" for _ in values.shape[1:])]
    return _floats(list(zip(labels, values.shape, strict=True)), values.reshape(-1))


def image_samples(message: Any, sensor: SensorSpec) -> npt.NDArray[Any]:
    """One sample of an RGB or depth sensor from a sensor_msgs/Image: (1, *sample_shape) in the rig's dtype.

    Encodings: rgb8, bgr8, rgba8, bgra8 and mono8 for RGB; 16UC1 and mono16 (mm) and 32FC1 (metres; a value that is not
    finite becomes 0, no reading) for depth. An image of another size is scaled to the rig's: RGB by area, depth by
    nearest neighbour.

    Raises:
        RosMessageError: another encoding, or fewer data than the image's size needs.
    """
    encodings = _DEPTH_ENCODINGS if sensor.kind == "depth" else _RGB_ENCODINGS
    name = str(message.encoding)
    if name not in encodings:
        raise RosMessageError(
            f"{sensor.modality}: image encoding {name!r}, expected one of {', '.join(encodings)}"
        )
    scalar, channels = encodings[name]
    pixels = _pixels(
        message, np.dtype(scalar).newbyteorder(">" if message.is_bigendian else "<"), channels, sensor
    )
    height, width = sensor.sample_shape[:2]
    if sensor.kind == "depth":
        if name == "32FC1":
            pixels = np.clip(np.nan_to_num(pixels * np.float32(1000), nan=0, posinf=0, neginf=0), 0, 65535)
        depth = np.rint(pixels[..., 0]).astype(np.uint16)
        resized = cv2.resize(depth, (width, height), interpolation=cv2.INTER_NEAREST)
        return np.asarray(resized, np.uint16)[np.newaxis]
    colour = pixels[..., [2, 1, 0]] if name.startswith("bgr") else pixels[..., :3]
    colour = np.repeat(colour, 3, axis=-1) if channels == 1 else colour
    resized = cv2.resize(np.ascontiguousarray(colour), (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(resized, np.uint8)[np.newaxis]


def array_samples(message: Any, sensor: SensorSpec) -> npt.NDArray[Any]:
    """Samples of an audio or EEG sensor from a std_msgs/Int16MultiArray or Float32MultiArray: (n, *sample_shape).

    The data must be in the rig's unit and at its rate, time first; the layout of the message is ignored.

    Raises:
        RosMessageError: the data are not a whole number of samples, or not finite.
    """
    data = np.asarray(message.data)
    size = int(np.prod(sensor.sample_shape))
    if not len(data) or len(data) % size:
        raise RosMessageError(
            f"{sensor.modality}: {len(data)} numbers, expected a multiple of {size} for samples of "
            f"shape {sensor.sample_shape}"
        )
    if not np.isfinite(data).all():
        raise RosMessageError(f"{sensor.modality}: numbers that are not finite")
    return data.reshape(-1, *sensor.sample_shape).astype(sensor.dtype)


_RGB_ENCODINGS = {
    "rgb8": ("u1", 3),
    "bgr8": ("u1", 3),
    "rgba8": ("u1", 4),
    "bgra8": ("u1", 4),
    "mono8": ("u1", 1),
}
_DEPTH_ENCODINGS = {"16UC1": ("u2", 1), "mono16": ("u2", 1), "32FC1": ("f4", 1)}
"""Encoding -> type of a number, and numbers per pixel."""


def _pixels(message: Any, scalar: np.dtype[Any], channels: int, sensor: SensorSpec) -> npt.NDArray[Any]:
    """(height, width, channels) of an image whose rows may be padded."""
    height, width, step = int(message.height), int(message.width), int(message.step)
    row = width * channels * scalar.itemsize
    data = np.frombuffer(memoryview(message.data).cast("B"), np.uint8)
    if height < 1 or width < 1 or step < row or len(data) < height * step:
        raise RosMessageError(
            f"{sensor.modality}: an image of {width} x {height} with rows of {step} bytes in {len(data)} bytes, "
            f"expected rows of at least {row} bytes and {height * row} in all"
        )
    rows = np.ascontiguousarray(data[: height * step].reshape(height, step)[:, :row])
    return rows.view(scalar).reshape(height, width, channels)


def _status(rig: str, modality: str, report: ModalityReport) -> RosMessage:
    age = "" if report.age_ms is None else f"{report.age_ms:.1f}"
    values = {"imputed": str(report.imputed).lower(), "age_ms": age, "reason": report.reason}
    return _diagnostic(rig, modality, report.state, report.reason, values)


def _diagnostic(rig: str, modality: str, state: str, reason: str, values: dict[str, str]) -> RosMessage:
    return RosMessage(
        "diagnostic_msgs/msg/DiagnosticStatus",
        {
            "level": _LEVELS.get(state, _ERROR),
            "name": f"afterimage: {rig}/{modality}",
            "message": f"{state} ({reason})" if reason else state,
            "hardware_id": modality,
            "values": [
                RosMessage("diagnostic_msgs/msg/KeyValue", {"key": key, "value": value})
                for key, value in values.items()
            ],
        },
    )


def _diagnostics(statuses: list[RosMessage], stamp_ns: int) -> RosMessage:
    return RosMessage(
        "diagnostic_msgs/msg/DiagnosticArray", {"header": _header("", stamp_ns), "status": statuses}
    )


def _header(frame: str, stamp_ns: int) -> RosMessage:
    seconds, nanoseconds = divmod(max(0, stamp_ns), 1_000_000_000)
    stamp = RosMessage("builtin_interfaces/msg/Time", {"sec": seconds, "nanosec": nanoseconds})
    return RosMessage("std_msgs/msg/Header", {"stamp": stamp, "frame_id": frame})


def _image(frame: str, stamp_ns: int, encoding: str, pixels: npt.NDArray[Any]) -> RosMessage:
    height, width = pixels.shape[:2]
    data = np.ascontiguousarray(pixels).tobytes()
    return RosMessage(
        "sensor_msgs/msg/Image",
        {
            "header": _header(frame, stamp_ns),
            "height": height,
            "width": width,
            "encoding": encoding,
            "is_bigendian": 0,
            "step": len(data) // height,
            "data": array("B", data),
        },
    )


def _floats(dimensions: list[tuple[str, int]], values: Iterable[Any]) -> RosMessage:
    """A Float32MultiArray; as in ROS, a dimension's stride is the product of its size and all later ones."""
    strides = np.cumprod([size for _, size in reversed(dimensions)])[::-1]
    dim = [
        RosMessage("std_msgs/msg/MultiArrayDimension", {"label": label, "size": size, "stride": int(stride)})
        for (label, size), stride in zip(dimensions, strides, strict=True)
    ]
    layout = RosMessage("std_msgs/msg/MultiArrayLayout", {"dim": dim, "data_offset": 0})
    return RosMessage("std_msgs/msg/Float32MultiArray", {"layout": layout, "data": array("f", values)})
