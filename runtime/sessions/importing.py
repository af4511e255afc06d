"""Importing: files of other programs as sessions, with their own times, their gaps and their markers as labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from configs.errors import import_extra
from runtime.core.clock import NS_PER_S
from runtime.record.writer import RecordingError
from runtime.rig import Rig, SensorSpec
from runtime.sensors.chunking import Chunker
from runtime.sensors.eeg_units import common_unit
from runtime.sensors.sample_source import PLAYBACK, Delivery, SampleBlock
from runtime.sensors.transform import Transformer, plan
from runtime.sessions.markers import Marker, MarkerMap, MarkerReport, labels_of_markers
from runtime.sessions.session import START_NS, SessionWriter

_BLOCK_S = 1.0


@dataclass(frozen=True)
class Signal:
    """A stream of a file.

    Attributes:
        name: of the stream, for messages.
        kind: what the file calls it: EEG, Accelerometer, ...
        samples: (n, channels) or (n,).
        times_s: (n,) when each was captured, on the file's clock.
        rate_hz: nominal.
        channels: their names; empty where the file gives none.
        units: of the channels, as written.
    """

    name: str
    kind: str
    samples: npt.NDArray[Any]
    times_s: npt.NDArray[np.float64]
    rate_hz: float
    channels: tuple[str, ...] = ()
    units: tuple[str | None, ...] = ()


@dataclass(frozen=True)
class ForeignRecording:
    """What a file of another program holds: signals, and marks by who made them."""

    path: Path
    signals: tuple[Signal, ...]
    markers: Mapping[str, tuple[tuple[float, str, float | None], ...]]
    """Author -> time in s on the file's clock, text, and duration where there is one."""


@dataclass
class Imported:
    """What an import made.

    Attributes:
        path: of the session.
        samples: modality -> samples of the session.
        gaps: modality -> holes of more than two periods in the file's times.
        markers: author -> what became of its markers.
        unused: streams of the file that no sensor took.
    """

    path: Path
    samples: dict[str, int] = field(default_factory=dict)
    gaps: dict[str, int] = field(default_factory=dict)
    markers: dict[str, MarkerReport] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)


def import_recording(
    file: Path,
    out: Path,
    rig: Rig,
    *,
    streams: Mapping[str, str] | None = None,
    meanings: MarkerMap | None = None,
    events: Sequence[Marker] = (),
    tags: Mapping[str, str] | None = None,
) -> Imported:
    """Write an XDF file, or any that MNE reads (FIF, EDF, BDF, BrainVision), as a session of a rig.

    Each sensor's ``transform`` in the rig is applied, as when it is played live: channels, unit, rate. Times are the
    file's own; where two samples are further apart than two periods and a half, the session has a gap.

    Args:
        file: to read.
        out: the session, or a folder for it; named like the file.
        rig: whose sensors the streams become.
        streams: modality -> name or type of its stream; where it is not given, the stream of the sensor's own name, or
            the one that ``source.stream`` or ``source.name`` of the rig names, or the only one.
        meanings: of the markers; None takes those that have a duration by their own texts.
        events: further marks, in ns since the file's first sample.
        tags: what holds for the whole session.

    Returns:
        What was made of what, with everything that was left out.

    Raises:
        RecordingError: the file cannot be read, or no stream of it is a sensor's.
        SourceRefusedError: a stream does not fit its sensor; says what to declare.
        MarkerError: the map fits no marker.
        MissingExtraError: pyxdf or mne is not installed.
    """
    foreign = read_xdf(file) if file.suffix.lower() == ".xdf" else read_by_mne(file)
    chosen = {s.modality: _chosen(foreign, rig, s, (streams or {}).get(s.modality)) for s in rig.sensors}
    used = {m: signal for m, signal in chosen.items() if signal is not None}
    if not used:
        raise RecordingError(
            f"{file}: none of its streams {[s.name for s in foreign.signals]} is a sensor of rig {rig.name!r} "
            f"({', '.join(rig.modality_names)}); say which, as in --stream {rig.modality_names[0]}=NAME"
        )
    # Before the file is made: what does not fit leaves nothing behind.
    transformers = {
        m: Transformer(plan(rig.sensor(m), _delivery(foreign, rig.sensor(m), s))) for m, s in used.items()
    }
    origin_s = min(float(s.times_s[0] - 1 / s.rate_hz) for s in used.values())
    last_s = max(float(s.times_s[-1]) for s in used.values())
    path = out if out.suffix == ".mcap" else out / f"{file.stem}.mcap"
    span_ns = START_NS, START_NS + round((last_s - origin_s) * NS_PER_S)
    imported = Imported(path, unused=[s.name for s in foreign.signals if s not in used.values()])
    labels = []
    marks = {a: [_marker(m, origin_s) for m in found] for a, found in foreign.markers.items()}
    if events:
        marks["events"] = [Marker(START_NS + e.at_ns, e.text, e.duration_ns) for e in events]
    for author, markers in marks.items():
        made, imported.markers[author] = labels_of_markers(
            markers, meanings, rig=rig.name, author=author, span_ns=span_ns
        )
        labels += made
    with SessionWriter(path, rig, **{str(k): v for k, v in (tags or {}).items()}) as session:
        for modality, signal in used.items():
            _write(session, rig.sensor(modality), signal, transformers[modality], origin_s, imported)
        session.add_labels(labels)
    return imported


def _write(
    session: SessionWriter,
    sensor: SensorSpec,
    signal: Signal,
    transformer: Transformer,
    origin_s: float,
    imported: Imported,
) -> None:
    chunker = Chunker(sensor)
    imported.samples[sensor.modality] = imported.gaps[sensor.modality] = 0
    for begin, end in _segments(signal):
        imported.gaps[sensor.modality] += begin > 0
        for block, until in _blocks(signal, begin, end):
            captured_ns = START_NS + round((signal.times_s[until - 1] - origin_s) * NS_PER_S)
            given = SampleBlock(block, captured_ns, PLAYBACK, gap=until - len(block) == begin and begin > 0)
            transformed = transformer.apply(given)
            for message in chunker.cut(transformed) if transformed is not None else ():
                session.add_message(sensor.modality, message.array, message.capture_ns, gap=message.gap)
                imported.samples[sensor.modality] += len(message.array)


def _segments(signal: Signal) -> list[tuple[int, int]]:
    """Stretches of samples without a hole in their times."""
    breaks = np.flatnonzero(np.diff(signal.times_s) > 2.5 / signal.rate_hz) + 1
    edges = [0, *breaks.tolist(), len(signal.samples)]
    return list(pairwise(edges))


def _blocks(signal: Signal, begin: int, end: int) -> Iterator[tuple[npt.NDArray[Any], int]]:
    size = max(1, round(_BLOCK_S * signal.rate_hz))
    for first in range(begin, end, size):
        until = min(first + size, end)
        yield signal.samples[first:until], until


def _marker(mark: tuple[float, str, float | None], origin_s: float) -> Marker:
    at_s, text, duration_s = mark
    duration_ns = None if not duration_s else round(duration_s * NS_PER_S)
    return Marker(START_NS + round((at_s - origin_s) * NS_PER_S), text, duration_ns)


def _chosen(foreign: ForeignRecording, rig: Rig, sensor: SensorSpec, named: str | None) -> Signal | None:
    """The stream of a sensor; None where the file has none for it.

    Raises:
        RecordingError: a named stream is not there, or several fit.
    """
    declared = named or getattr(sensor.source, "stream", None) or getattr(sensor.source, "name", None)
    wanted = declared or sensor.modality
    fitting = [s for s in foreign.signals if wanted.lower() in (s.name.lower(), s.kind.lower())]
    if not declared and not fitting and len(foreign.signals) == len(rig.sensors) == 1:
        fitting = list(foreign.signals)
    if len(fitting) == 1:
        return fitting[0]
    if fitting or declared:
        raise RecordingError(
            f"{foreign.path}: sensor {sensor.modality!r}: expected one stream {wanted!r}, got {len(fitting)} "
            f"among (name, type) {[(s.name, s.kind) for s in foreign.signals]}; "
            f"name it, as in --stream {sensor.modality}=NAME"
        )
    return None


def _delivery(foreign: ForeignRecording, sensor: SensorSpec, signal: Signal) -> Delivery:
    return Delivery(
        signal.samples.shape[1:],
        signal.samples.dtype.name,
        common_unit(sensor, signal.channels, signal.units),
        signal.rate_hz,
        signal.channels or None,
        False,
        f"{signal.name} of {foreign.path}",
    )


def read_xdf(path: Path) -> ForeignRecording:
    """Read all streams of an XDF file: signals as they are, streams of texts and irregular numbers as markers.

    Raises:
        RecordingError: it cannot be read, or is no XDF.
        MissingExtraError: pyxdf is not installed.
    """
    pyxdf = import_extra("pyxdf", f"{path}: XDF")
    try:
        with path.open("rb") as file:
            magic = file.read(4)
        if magic != b"XDF:":
            raise RecordingError(f"{path}: expected an XDF file, got one that begins with {magic!r}")
        streams, _ = pyxdf.load_xdf(str(path))
    except OSError as e:
        raise RecordingError(f"{path}: cannot be read: {e.strerror or e}") from e
    except (ValueError, EOFError, KeyError, IndexError) as e:
        raise RecordingError(
            f"{path}: expected an XDF file, got something else: {type(e).__name__}: {e}"
        ) from e
    signals, markers = [], {}
    for stream in streams:
        information, times = stream["info"], np.asarray(stream["time_stamps"], np.float64)
        name, rate = _text(information, "name"), float(_text(information, "nominal_srate") or 0)
        if not len(times):
            continue
        if rate > 0 and isinstance(stream["time_series"], np.ndarray):
            channels = _channels(information)
            names = tuple(_text(c, "label") for c in channels)
            samples = stream["time_series"]
            named = len(names) == samples.shape[1] and all(names)
            units = tuple(_text(c, "unit") or None for c in channels)
            signals.append(
                Signal(name, _text(information, "type"), samples, times, rate, names if named else (), units)
            )
        else:
            texts = (_marker_text(value) for value in stream["time_series"])
            markers[f"lsl:{name}"] = tuple(
                (float(t), text, None) for t, text in zip(times, texts, strict=True)
            )
    return ForeignRecording(path, tuple(signals), markers)


def _marker_text(value: Any) -> str:
    """Markers are lists of one text, or arrays of one number; a whole number is written without its point."""
    first = value[0] if isinstance(value, (list, tuple, np.ndarray)) else value
    if isinstance(first, (float, np.floating)) and float(first).is_integer():
        return str(int(first))
    return str(first)


def read_by_mne(path: Path) -> ForeignRecording:
    """Read a file by MNE: one signal of all channels, annotations as markers with durations.

    Raises:
        RecordingError: MNE cannot read it.
        MissingExtraError: mne is not installed.
    """
    mne = import_extra("mne", f"{path}: files other than XDF")
    try:
        raw = mne.io.read_raw(path, preload=True, verbose="error")
    except (OSError, ValueError, RuntimeError) as e:
        raise RecordingError(f"{path}: MNE cannot read it: {e}") from e
    rate, samples = float(raw.info["sfreq"]), raw.get_data(verbose="error").T
    voltages = ("eeg", "eog", "ecg", "emg", "seeg", "ecog", "dbs")
    # MNE brings everything that is a voltage to volts.
    units = tuple("V" if kind in voltages else None for kind in raw.get_channel_types())
    times = raw.first_time + (np.arange(len(samples)) + 1) / rate
    offset = 0.0 if raw.annotations.orig_time is not None else raw.first_time
    marks = tuple(
        (float(a["onset"]) + offset, str(a["description"]), float(a["duration"]) or None)
        for a in raw.annotations
    )
    signal = Signal(path.stem, "eeg", samples, times, rate, tuple(raw.ch_names), units)
    return ForeignRecording(path, (signal,), {"annotations": marks} if marks else {})


def _text(mapping: Any, key: str) -> str:
    """A text out of pyxdf's header, where every element is a list."""
    value = (mapping.get(key) if isinstance(mapping, dict) else None) or [None]
    return "" if value[0] is None else str(value[0])


def _channels(information: dict[str, Any]) -> list[Any]:
    description = (information.get("desc") or [None])[0] or {}
    channels = (description.get("channels") or [None])[0] or {}
    found: list[Any] = channels.get("channel") or []
    return found
