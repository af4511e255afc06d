"""Reading and writing sessions: one recording of a rig with its labels, as an MCAP file or made of arrays."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from runtime.core.clock import NS_PER_S, node_time
from runtime.record.reader import read_recording
from runtime.record.schemas import IMPORTED
from runtime.record.writer import RecordingError, RecordingWriter
from runtime.rig import Rig
from runtime.sessions.stream import Stream, StreamBuilder
from runtime.wire import JournalEntry, WireError, decode_frame, encode_entry, encode_frame
from runtime.wire.labels import Label, encode_label, standing

START_NS = NS_PER_S
"""A session that is written from arrays starts here on its own clock: late enough that no time in it is negative."""


@dataclass(frozen=True)
class Session:
    """One recording of a rig, with its labels.

    Attributes:
        name: unique in its data set; of a file, its name without the suffix.
        rig: the sensors that were recorded.
        streams: modality -> its samples; a sensor that never delivered has an empty one.
        labels: in order of onset.
        tags: what was said of the whole session: ``person``, ``day``, ...
        lost: modality -> messages that were published and are not in it.
    """

    name: str
    rig: Rig
    streams: Mapping[str, Stream]
    labels: tuple[Label, ...]
    tags: Mapping[str, str] = field(default_factory=dict)
    lost: Mapping[str, int] = field(default_factory=dict)

    @property
    def span_ns(self) -> tuple[int, int]:
        """From the first sample of any sensor to the last; (0, 0) where there is none."""
        spans = [span for stream in self.streams.values() if (span := stream.span_ns) is not None]
        return (min(s for s, _ in spans), max(e for _, e in spans)) if spans else (0, 0)


def read_session(path: Path) -> Session:
    """Read a session, whole or cut short.

    Args:
        path: an MCAP file of ``afterimage record``, ``afterimage import`` or :class:`SessionWriter`.

    Raises:
        RecordingError: no recording, one without its rig, or one whose frames are not its rig's.
        MissingExtraError: mcap is not installed.
    """
    rig: Rig | None = None
    tags: dict[str, str] = {}
    builders: dict[str, StreamBuilder] = {}
    sequences: dict[str, int] = {}
    lost: dict[str, int] = {}
    labels: list[Label] = []
    for message in read_recording(path):
        entry = message.content
        if isinstance(entry, Label):
            labels.append(entry)
        elif not isinstance(entry, JournalEntry):
            continue
        elif entry.call == "begin" and rig is None:
            rig, tags = _begun(path, entry)
            builders = {s.modality: StreamBuilder(s.sample_shape, s.dtype, s.rate_hz) for s in rig.sensors}
        elif entry.call == "frame":
            if rig is None:
                raise RecordingError(f"{path}: has frames before it names its rig; record it again")
            try:
                frame = decode_frame(entry.parts)
            except WireError:
                continue  # was refused when it came
            if frame.modality not in builders:
                continue
            sensor = rig.sensor(frame.modality)
            if frame.samples.shape[1:] != sensor.sample_shape or frame.samples.dtype.name != sensor.dtype:
                raise RecordingError(
                    f"{path}: sensor {frame.modality!r}: expected samples {sensor.sample_shape} of {sensor.dtype} as "
                    f"in its rig, got {frame.samples.shape[1:]} of {frame.samples.dtype.name}"
                )
            before = sequences.get(frame.modality)
            gap = 0 if before is None else max(0, frame.sequence - before - 1)
            lost[frame.modality] = lost.get(frame.modality, 0) + gap
            sequences[frame.modality] = frame.sequence
            captured_ns = node_time(frame.capture_ns, frame.clock)
            builders[frame.modality].add(
                frame.samples, captured_ns, contiguous=before is not None and frame.sequence == before + 1
            )
    if rig is None:
        raise RecordingError(f"{path}: does not name its rig; expected a recording of `afterimage record`")
    streams = {modality: builder.stream() for modality, builder in builders.items()}
    return Session(path.stem, rig, streams, tuple(standing(labels)), tags, lost)


def _begun(path: Path, entry: JournalEntry) -> tuple[Rig, dict[str, str]]:
    try:
        rig = Rig.model_validate(entry.settings["rig"])
    except (KeyError, ValueError) as e:
        raise RecordingError(f"{path}: its begin entry does not describe a rig: {e}") from e
    tags = entry.settings.get("tags", {})
    if not isinstance(tags, dict):
        raise RecordingError(f"{path}: tags: expected a map of words, got {type(tags).__name__}")
    return rig, {str(k): str(v) for k, v in tags.items()}


def begin_entry(rig: Rig, start_ns: int, tags: Mapping[str, str], wall_ns: int | None = None) -> JournalEntry:
    """The entry that begins a session which no node decided on."""
    settings = {
        "rig": rig.model_dump(mode="json"),
        "bundle": "",
        "bundle_name": "",
        "backend": IMPORTED,
        "start_ns": start_ns,
        "wall_ns": time.time_ns() if wall_ns is None else wall_ns,
        "compare": [],
        "tags": dict(tags),
    }
    return JournalEntry("begin", 0, start_ns, settings=settings)


class _Message(NamedTuple):
    capture_ns: int
    modality: str
    samples: npt.NDArray[Any]
    gap: bool


class SessionWriter:
    """Turns arrays into a session; a context manager.

    Times are seconds from the session's start. Signals of one sensor are added in order; a pause between two of them is
    a gap in the session, and no window bridges it::

        with SessionWriter("sessions/monday.mcap", rig, person="ada") as session:
            session.add("emg", emg, start_s=0.0)          # (samples, channels), in the rig's unit
            session.add("imu", imu, start_s=0.0)
            session.label("fist", 1.0, 3.0)
    """

    def __init__(self, path: str | Path, rig: Rig, **tags: str) -> None:
        """Create the file.

        Args:
            path: of the session, which must not be there yet; its folder is made.
            rig: its sensors.
            tags: what holds for the whole session: ``person``, ``day``, ...

        Raises:
            RecordingError: the file is there, or cannot be made.
            MissingExtraError: mcap is not installed.
        """
        self.path, self.rig = Path(path), rig
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._pending: list[_Message] = []
        self._ends: dict[str, int] = {}
        self._labels: list[Label] = []
        self._writer = RecordingWriter(self.path)
        self._writer.add(encode_entry(begin_entry(rig, START_NS, tags)))

    def add(self, modality: str, samples: npt.ArrayLike, start_s: float | None = None) -> None:
        """Add consecutive samples of one sensor.

        Args:
            modality: which sensor of the rig.
            samples: (n, *sample_shape) in the rig's dtype and unit, time first.
            start_s: when the first one began; None: right after what was added before, or 0.

        Raises:
            RigError: an unknown modality.
            RecordingError: another shape or dtype than the rig's, values that are not finite, or a start before the end
                of what was added before.
        """
        sensor = self.rig.sensor(modality)
        array = np.asarray(samples)
        if array.shape[1:] != sensor.sample_shape or not array.size:
            raise RecordingError(
                f"{self.path}: sensor {modality!r}: expected samples of shape (n, "
                f"{', '.join(map(str, sensor.sample_shape))}), got {array.shape}"
            )
        if not np.can_cast(array.dtype, sensor.dtype, "same_kind"):
            raise RecordingError(
                f"{self.path}: sensor {modality!r}: expected dtype {sensor.dtype}, got {array.dtype}; convert it, and "
                "mind the unit"
            )
        if not np.isfinite(array).all():
            raise RecordingError(
                f"{self.path}: sensor {modality!r}: expected finite samples; leave the hole out"
            )
        start_ns = (
            self._ends.get(modality, START_NS) if start_s is None else START_NS + round(start_s * NS_PER_S)
        )
        if start_ns < self._ends.get(modality, START_NS):
            raise RecordingError(
                f"{self.path}: sensor {modality!r}: expected a start at or after "
                f"{(self._ends.get(modality, START_NS) - START_NS) / NS_PER_S:.6f} s, where its samples end so far, "
                f"got {start_s} s"
            )
        array = array.astype(sensor.dtype)
        paused = start_ns - self._ends.get(modality, start_ns) > NS_PER_S / sensor.rate_hz
        for first in range(0, len(array), sensor.chunk):
            block = array[first : first + sensor.chunk]
            captured_ns = start_ns + round((first + len(block)) * NS_PER_S / sensor.rate_hz)
            self.add_message(modality, block, captured_ns, gap=paused and not first)
        self._ends[modality] = start_ns + round(len(array) * NS_PER_S / sensor.rate_hz)

    def add_message(self, modality: str, samples: npt.NDArray[Any], capture_ns: int, *, gap: bool) -> None:
        """Add one message as it is: samples of the rig's shape and dtype, and when the last of them was captured.

        Args:
            modality: which sensor of the rig.
            samples: (n, *sample_shape).
            capture_ns: on the session's clock, which is at :data:`START_NS` when the session starts.
            gap: samples were lost since the message before.
        """
        self._pending.append(_Message(capture_ns, modality, samples, gap))

    def add_labels(self, labels: Iterable[Label]) -> None:
        """Add labels that were made before, on the session's clock."""
        self._labels.extend(labels)

    def label(self, name: str, onset_s: float, end_s: float, author: str = "arrays") -> None:
        """Say that a class holds from an onset to an end, in seconds from the session's start.

        Raises:
            ValueError: it ends before it begins, or has no name.
        """
        onset_ns, end_ns = (START_NS + round(t * NS_PER_S) for t in (onset_s, end_s))
        number = sum(label.author == author for label in self._labels)
        self._labels.append(Label(self.rig.name, name, onset_ns, end_ns, author, number))

    def close(self) -> None:
        """Write everything in order of time and finish the file; may be called again.

        Raises:
            RecordingError: the disk is full; what was written before can be read.
        """
        sequences: dict[str, int] = {}
        pending, self._pending = sorted(self._pending, key=lambda m: m.capture_ns), []
        for order, message in enumerate(pending):
            # A number that is left out says that something is missing.
            sequence = sequences.get(message.modality, -1) + (2 if message.gap else 1)
            sequences[message.modality] = sequence
            parts = encode_frame(
                self.rig.name,
                message.modality,
                sequence,
                message.samples,
                capture_ns=message.capture_ns,
                unit=self.rig.sensor(message.modality).unit,
            )
            entry = JournalEntry(
                "frame", order, message.capture_ns, sequence, message.modality, parts=tuple(parts)
            )
            self._writer.add(encode_entry(entry))
        labels, self._labels = self._labels, []
        for label in labels:
            self._writer.add(encode_label(label))
        self._writer.close()

    def __enter__(self) -> Self:
        """The writer itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish the file."""
        self.close()


def read_sessions(folder: Path) -> Iterable[Session]:
    """The sessions of a folder, in order of their names.

    Raises:
        RecordingError: no such folder, none in it, or one that cannot be read.
    """
    paths = sorted(folder.glob("*.mcap")) if folder.is_dir() else []
    if not paths:
        raise RecordingError(f"{folder}: expected a folder with sessions (*.mcap), found none")
    return (read_session(path) for path in paths)
