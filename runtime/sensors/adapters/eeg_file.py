"""EEG files: XDF by pyxdf, everything else by MNE."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.rig import SensorSpec
from runtime.rig.source_options import EegFileOptions
from runtime.sensors.eeg_units import common_unit
from runtime.sensors.playhead import Player
from runtime.sensors.sample_source import (
    PLAYBACK,
    Delivery,
    SampleBlock,
    SourceRefusedError,
    import_library,
)


class EegFileSource:
    """A recorded EEG, played at its own rate; an XDF file is read whole, other files while they play."""

    def __init__(self, options: EegFileOptions, sensor: SensorSpec) -> None:
        self._options = options
        self._sensor = sensor
        self._read: Callable[[slice], npt.NDArray[Any]] = lambda _: np.empty((0, 0))
        self._player: Player | None = None
        self._count = 1

    def open(self) -> Delivery:
        """Open the file and look at its header."""
        path = self._options.file
        if not path.exists():
            raise SourceRefusedError(f"sensor {self._sensor.modality!r}: {path}: no such file")
        length, delivery = self._open_xdf() if path.suffix == ".xdf" else self._open_mne()
        rate = delivery.rate_hz
        if not rate or not length:
            raise SourceRefusedError(
                f"sensor {self._sensor.modality!r}: {path}: expected samples at a regular rate, got {length} at "
                f"{rate or 0:g} Hz"
            )
        self._player = Player(length, rate, loop=self._options.loop)
        self._count = max(1, round(self._sensor.period_s * rate))
        return delivery

    def read(self, timeout_s: float) -> SampleBlock | None:
        """The next samples, about one message of them."""
        assert self._player is not None
        due = self._player.next(self._count, timeout_s)
        if due is None:
            return None
        at, capture_ns, missed = due
        return SampleBlock(self._read(at), capture_ns, PLAYBACK, missed)

    def all_samples(self) -> npt.NDArray[Any]:
        """Every sample of the open file at once, (n, channels), for an import."""
        return self._read(slice(None))

    def close(self) -> None:
        """Let go of the samples."""
        self._read = lambda _: np.empty((0, 0))

    def _open_xdf(self) -> tuple[int, Delivery]:
        pyxdf = import_library("pyxdf", f"sensor {self._sensor.modality!r}: eeg-file")
        with self._options.file.open("rb") as file:
            if file.read(4) != b"XDF:":
                raise SourceRefusedError(f"sensor {self._sensor.modality!r}: {self._options.file}: not XDF")
        try:
            streams, _ = pyxdf.load_xdf(str(self._options.file), dejitter_timestamps=False)
        except (OSError, ValueError, EOFError) as e:
            raise SourceRefusedError(
                f"sensor {self._sensor.modality!r}: {self._options.file}: not XDF: {e}"
            ) from e
        stream = self._chosen([s for s in streams if isinstance(s["time_series"], np.ndarray)])
        data: npt.NDArray[Any] = stream["time_series"]
        self._read = lambda at: data[at]
        information = stream["info"]
        channels = _xdf_channels(information)
        names = tuple(_first(c, "label") or "" for c in channels)
        named = len(names) == data.shape[1] and all(names)
        unit = common_unit(self._sensor, names, [_first(c, "unit") for c in channels])
        rate = float(_first(information, "nominal_srate") or 0)
        described = f"{_first(information, 'name')} of {self._options.file}"
        return len(data), Delivery(
            data.shape[1:], data.dtype.name, unit, rate, names if named else None, False, described
        )

    def _chosen(self, streams: list[dict[str, Any]]) -> dict[str, Any]:
        wanted = self._options.stream
        titles = [(_first(s["info"], "name"), _first(s["info"], "type")) for s in streams]
        matching = [s for s, t in zip(streams, titles, strict=True) if wanted is None or wanted in t]
        if len(matching) != 1:
            raise SourceRefusedError(
                f"sensor {self._sensor.modality!r}: {self._options.file} holds the streams (name, type) {titles}, "
                f"{len(matching)} of them fit; give one as source.stream, got {wanted!r}"
            )
        return matching[0]

    def _open_mne(self) -> tuple[int, Delivery]:
        mne = import_library("mne", f"sensor {self._sensor.modality!r}: eeg-file")
        path = self._options.file
        try:
            raw = mne.io.read_raw(path, preload=False, verbose="error")
        except (OSError, ValueError, RuntimeError) as e:
            raise SourceRefusedError(
                f"sensor {self._sensor.modality!r}: {path}: MNE cannot read it: {e}"
            ) from e
        self._read = lambda at: raw.get_data(start=at.start or 0, stop=at.stop, verbose="error").T
        names, kinds = tuple(raw.ch_names), raw.get_channel_types()
        # MNE converts every voltage to volts.
        units = ["V" if k in ("eeg", "eog", "ecg", "emg", "seeg", "ecog", "dbs") else None for k in kinds]
        return raw.n_times, Delivery(
            (len(names),),
            "float64",
            common_unit(self._sensor, names, units),
            float(raw.info["sfreq"]),
            names,
            False,
            str(path),
        )


def _first(mapping: Any, key: str) -> str | None:
    """A text out of pyxdf's header, where every element is a list."""
    value = (mapping.get(key) if isinstance(mapping, dict) else None) or [None]
    return None if value[0] is None else str(value[0])


def _xdf_channels(information: dict[str, Any]) -> list[Any]:
    description = (information.get("desc") or [None])[0] or {}
    channels = (description.get("channels") or [None])[0] or {}
    found: list[Any] = channels.get("channel") or []
    return found
