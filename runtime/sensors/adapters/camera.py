"""Cameras and video files, by OpenCV: RGB images.

OpenCV cannot be trusted when a device fails: it reports success after an unplug, repeats old frames, or never returns.
Its own timeouts are set where it has any; :mod:`runtime.sensors.capture` judges everything else.
"""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from runtime.core.clock import NS_PER_S
from runtime.rig import SensorSpec
from runtime.rig.source_options import CameraOptions
from runtime.sensors.playhead import Playhead
from runtime.sensors.sample_source import (
    ARRIVAL,
    PLAYBACK,
    Delivery,
    EndOfSource,
    SampleBlock,
    SourceLostError,
    SourceRefusedError,
    image_block,
)
from runtime.wire import Clock

DRIVER = Clock("v4l2")
"""This machine's CLOCK_MONOTONIC, read by the kernel's driver when the first data of the image came."""
_DRIVER_OLDEST_NS = NS_PER_S
"""A driver's stamp that is older than this when the image comes is not believed."""
_FASTEST_FPS = 1000.0
"""A higher figure is a file's time base, not its frame rate."""


class CameraSource:
    """OpenCV's VideoCapture, of a device, a stream or a file."""

    def __init__(self, options: CameraOptions, sensor: SensorSpec) -> None:
        self._options = options
        self._name = sensor.modality
        device = options.device
        # Shown in terminals and reports, so without the password.
        self._shown = re.sub(r"//[^/@]*@", "//***@", device) if isinstance(device, str) else str(device)
        self._file = Path(device) if isinstance(device, str) and Path(device).is_file() else None
        self._capture: Any = None
        self._playhead: Playhead | None = None
        self._first: npt.NDArray[Any] | None = None
        self._driver_stamps = False
        self.counts = {"loops": 0}

    def open(self) -> Delivery:
        """Open it and take one image, which shows the shape."""
        # Errors only: OpenCV would warn at every attempt to open a camera that is away.
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
        capture = self._opened()
        ok, image = capture.read()
        if not ok or image is None:
            capture.release()
            if self._file:
                raise SourceRefusedError(f"sensor {self._name!r}: {self._file}: no image can be read from it")
            raise SourceLostError("cannot_open", f"camera {self._shown} opens but gives no image")
        self._capture = capture
        self._first = self._rgb(image)
        rate = float(capture.get(cv2.CAP_PROP_FPS))
        if not 0 < rate <= _FASTEST_FPS:
            rate = 0.0
        if self._file:
            if not rate:
                raise SourceRefusedError(f"sensor {self._name!r}: {self._file}: does not say its frame rate")
            self._playhead = Playhead(rate)
        self._driver_stamps = not self._file and capture.getBackendName() == "V4L2"
        height, width = self._first.shape[:2]
        return Delivery(
            self._first.shape,
            self._first.dtype.name,
            "intensity",
            rate or None,
            live=not self._file,
            description=f"{self._shown} {width}x{height} by {capture.getBackendName()}",
        )

    def read(self, timeout_s: float) -> SampleBlock | None:
        """The next image; a live camera's read takes as long as OpenCV takes."""
        if self._playhead is not None:
            return self._play(self._playhead, timeout_s)
        self._first = None  # the image from opening is old by now
        ok, image = self._capture.read()
        now_ns = time.monotonic_ns()
        if not ok or image is None:
            raise SourceLostError("disconnected", f"camera {self._shown} gives no image any more")
        return image_block(self._rgb(image), *self._stamp(now_ns))

    def close(self) -> None:
        """Release the device."""
        capture, self._capture = self._capture, None
        if capture is not None:
            capture.release()

    def _opened(self) -> Any:
        o = self._options
        if self._file:
            capture = cv2.VideoCapture(str(self._file))
        elif isinstance(o.device, int) or o.device.startswith("/dev/"):
            capture = cv2.VideoCapture(o.device, cv2.CAP_V4L2)
        elif "://" in o.device:
            within = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, round(o.open_s * 500)]
            within += [cv2.CAP_PROP_READ_TIMEOUT_MSEC, round(o.stall_s * 1000)]
            capture = cv2.VideoCapture(o.device, cv2.CAP_FFMPEG, within)
        else:
            raise SourceRefusedError(
                f"sensor {self._name!r}: camera device {self._shown!r}: expected an index, /dev/..., an address with "
                "://, or a file that exists"
            )
        if not capture.isOpened():
            capture.release()
            if self._file:
                raise SourceRefusedError(
                    f"sensor {self._name!r}: {self._file}: not a video that OpenCV reads"
                )
            raise SourceLostError("cannot_open", f"camera {self._shown} cannot be opened")
        if not self._file:
            self._ask(capture)
        return capture

    def _ask(self, capture: Any) -> None:
        """Ask the driver for what the options say; the images show what it really gives."""
        o = self._options
        wanted: list[tuple[int, float]] = [(cv2.CAP_PROP_BUFFERSIZE, 1)]
        if o.fourcc:
            wanted.append((cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*o.fourcc)))
        if o.size:
            wanted += [(cv2.CAP_PROP_FRAME_WIDTH, o.size[0]), (cv2.CAP_PROP_FRAME_HEIGHT, o.size[1])]
        if o.fps:
            wanted.append((cv2.CAP_PROP_FPS, o.fps))
        for key, value in wanted:
            capture.set(key, value)

    def _play(self, playhead: Playhead, timeout_s: float) -> SampleBlock | None:
        if self._first is None:
            self._first = self._next_of_file()
        due = playhead.wait(1, timeout_s)
        if due is None:
            return None
        image, self._first = self._first, None
        capture_ns, missed = due
        return image_block(image, capture_ns, PLAYBACK, missed)

    def _next_of_file(self) -> npt.NDArray[Any]:
        ok, image = self._capture.read()
        if not ok and self._options.loop:
            # The file is opened again, because files that are cut short or lack an index cannot be rewound.
            self._capture.release()
            self._capture = self._opened()
            ok, image = self._capture.read()
            self.counts["loops"] += 1
        if not ok:
            raise EndOfSource
        return self._rgb(image)

    def _rgb(self, image: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if image.ndim == 3 and image.shape[2] == 3:
            return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
        return image.copy()

    def _stamp(self, now_ns: int) -> tuple[int, Clock]:
        """The driver's time of the image where it has a plausible one, else the time of arrival."""
        if self._driver_stamps:
            stamped_ns = round(self._capture.get(cv2.CAP_PROP_POS_MSEC) * 1e6)
            if 0 <= now_ns - stamped_ns < _DRIVER_OLDEST_NS:
                return stamped_ns, DRIVER
        return now_ns, ARRIVAL
