"""What every peer of the latency benchmark has to do, whatever carries its messages.

Peers share the description of a turn, the windowing, the engine's calls and the client's result file, so that they
differ in their transport alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from engines.bundle import load_manifest
from engines.opening import open_session
from runtime.rig import Rig

_IMAGES = ("rgb", "depth")


class PeerSpec(BaseModel):
    """One turn.

    Attributes:
        bundle: path of the bundle.
        rig: its sensors.
        modality: the sensor that plays.
        skip_s: seconds at the beginning that do not count.
        seconds: seconds that count.
        result: file that the client writes its latencies to, JSON list of nanoseconds.
    """

    bundle: str
    rig: Rig
    modality: str
    skip_s: float
    seconds: float
    result: str

    @property
    def period_s(self) -> float:
        """Seconds between two messages of the sensor."""
        return self.rig.sensor(self.modality).period_s

    @property
    def messages(self) -> int:
        """How many messages the sensor sends in a turn."""
        return int((self.skip_s + self.seconds) / self.period_s)


@dataclass(frozen=True)
class PeerDecision:
    """What the engine says of a window.

    Attributes:
        label: the likeliest class.
        classes: of the bundle.
        probabilities: one per class, float32.
    """

    label: str
    classes: Sequence[str]
    probabilities: npt.NDArray[np.float32]

    def by_class(self) -> dict[str, float]:
        """Class -> probability."""
        return dict(zip(self.classes, map(float, self.probabilities), strict=True))


class Decider:
    """Windows, encodes and fuses one sensor's messages."""

    def __init__(self, spec: PeerSpec) -> None:
        """Open the engine and warm it up.

        Args:
            spec: the turn.

        Raises:
            BundleError: the bundle is broken.
            EngineError: the engine cannot be used here.
        """
        self._session = open_session(spec.bundle)
        self._session.warm_up()
        self._modality = self._session.manifest.modality(spec.modality)
        names = self._session.manifest.modality_names
        self._presence = np.array([[float(n == spec.modality) for n in names]], np.float32)
        self._buffer: npt.NDArray[Any] | None = None
        self._fresh = 0

    def decide(self, samples: npt.NDArray[Any]) -> PeerDecision | None:
        """A decision if the message completes a window, else None.

        Args:
            samples: (n, *sample_shape) of the message.
        """
        needed = self._modality
        if needed.kind in _IMAGES:
            window = samples[-1]
        else:
            both = samples if self._buffer is None else np.concatenate([self._buffer, samples])
            self._buffer = both[-needed.window :]
            self._fresh += len(samples)
            if len(self._buffer) < needed.window or self._fresh < needed.hop:
                return None
            self._fresh = 0
            window = self._buffer
        evidence = self._session.encode(needed.name, window[np.newaxis])
        row = self._session.fuse({needed.name: evidence}, self._presence).probabilities[0]
        classes = self._session.manifest.classes
        return PeerDecision(classes[int(row.argmax())], classes, row)


def write_latencies(spec: PeerSpec, arrivals: Sequence[tuple[int, int]]) -> None:
    """Write what the client measured to the turn's result file, without the turn's beginning.

    Args:
        spec: the turn.
        arrivals: (when the message that completed the window was published, when its decision arrived) of every
            decision in order, nanoseconds of the monotonic clock.
    """
    needed = load_manifest(Path(spec.bundle)).modality(spec.modality)
    window_s = 0.0 if needed.kind in _IMAGES else needed.window / spec.rig.sensor(spec.modality).rate_hz
    first = arrivals[0][0] if arrivals else 0  # a whole window after the sensor began
    counted = [arrived - sent for sent, arrived in arrivals if sent - first >= (spec.skip_s - window_s) * 1e9]
    Path(spec.result).write_text(json.dumps(counted))
