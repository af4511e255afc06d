"""Depth images from a folder of 16-bit PNG or TIFF files, by OpenCV."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from runtime.rig import SensorSpec
from runtime.rig.source_options import DepthImagesOptions
from runtime.sensors.playhead import Player
from runtime.sensors.sample_source import PLAYBACK, Delivery, SampleBlock, SourceRefusedError, image_block

_ENDINGS = (".png", ".tif", ".tiff")


class DepthImagesSource:
    """The images of a folder in the order of their names. The files do not state a unit, so the rig has to."""

    def __init__(self, options: DepthImagesOptions, sensor: SensorSpec) -> None:
        self._options = options
        self._sensor = sensor
        self._files: list[Path] = []
        self._player: Player | None = None
        self._shape: tuple[int, ...] = ()
        self._gap = False
        self.counts = {"unreadable": 0}

    def open(self) -> Delivery:
        """List the folder and look at the first image."""
        folder = self._options.folder
        if folder.is_dir():
            self._files = sorted(p for p in folder.iterdir() if p.suffix.lower() in _ENDINGS)
        if not self._files:
            raise SourceRefusedError(
                f"sensor {self._sensor.modality!r}: {folder}: expected a folder with {', '.join(_ENDINGS)} images"
            )
        image = _read(self._files[0])
        if image is None or image.dtype != np.uint16 or image.ndim != 2:
            got = "no image" if image is None else f"{image.dtype} of shape {image.shape}"
            raise SourceRefusedError(
                f"sensor {self._sensor.modality!r}: {self._files[0]}: expected 16 bits, one channel, got {got}"
            )
        self._shape = image.shape
        rate = self._options.rate_hz or self._sensor.rate_hz * (
            self._sensor.transform.every if self._sensor.transform else 1
        )
        self._player = Player(len(self._files), rate, loop=self._options.loop)
        return Delivery(
            self._shape,
            "uint16",
            None,
            rate,
            live=False,
            description=f"{len(self._files)} images in {folder}",
        )

    def read(self, timeout_s: float) -> SampleBlock | None:
        """The next image; one that cannot be read, or has another form than the first, is counted and left out."""
        assert self._player is not None
        due = self._player.next(1, timeout_s)
        if due is None:
            return None
        at, capture_ns, missed = due
        image = _read(self._files[at.start])
        self._gap = self._gap or missed
        if image is None or image.dtype != np.uint16 or image.shape != self._shape:
            self.counts["unreadable"] += 1
            self._gap = True
            return None
        gap, self._gap = self._gap, False
        return image_block(image, capture_ns, PLAYBACK, gap)

    def close(self) -> None:
        """Nothing is held open."""


def _read(path: Path) -> npt.NDArray[Any] | None:
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    return None if image is None else np.asarray(image)
