"""Recording a session: the rig's sensors and labels into a file, without a bundle and without a node.

The recorder listens where the rig's node would, so sensors and labellers need not know the difference. It decides
nothing: health and rates are :mod:`runtime.sessions.monitor`'s, cues :mod:`runtime.sessions.cues`'.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from runtime.core.clock import NS_PER_S
from runtime.record.writer import RecordingError, RecordingWriter, default_name
from runtime.rig import Rig
from runtime.sessions.cues import CueSchedule, CueView
from runtime.sessions.monitor import RecordingMonitor, SensorDigest
from runtime.sessions.session import begin_entry
from runtime.transport.endpoints import default_endpoints
from runtime.transport.sockets import FrameReceiver
from runtime.wire import JournalEntry, WireError, encode_entry, encode_output
from runtime.wire.labels import LABEL_PREFIX, Label, decode_label, encode_label, standing

_MESSAGES_PER_TURN = 256
_COUNTS_EVERY_NS = NS_PER_S


@dataclass
class Progress:
    """Where a recording stands.

    Attributes:
        path: of the session.
        messages: frames so far.
        labels: every label so far, as told.
        digest: of the last second, or of the last trial, sensor by sensor.
        cue: what is asked for; None without cues.
        states: modality -> health.
        refused_labels: label messages that could not be read or are another rig's.
    """

    path: Path
    messages: int = 0
    labels: list[Label] = field(default_factory=list)
    digest: list[SensorDigest] = field(default_factory=list)
    cue: CueView | None = None
    states: dict[str, str] = field(default_factory=dict)
    refused_labels: int = 0

    @property
    def counts(self) -> dict[str, int]:
        """How many labels that count and have ended each class has."""
        found: dict[str, int] = {}
        for label in standing(self.labels):
            if label.end_ns is not None:
                found[label.name] = found.get(label.name, 0) + 1
        return found


class SessionRecorder:
    """Records one session; a context manager. Made, it listens; call :meth:`turn` again and again."""

    def __init__(
        self,
        rig: Rig,
        folder: Path,
        *,
        tags: Mapping[str, str] | None = None,
        endpoint: str | None = None,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """Listen for the rig's sensors.

        Args:
            rig: whose sensors.
            folder: where the session goes, as ``RIG-DATE-TIME.mcap``; made if it is not there. The file is made when
                the first message comes, so a start that fails leaves nothing.
            tags: what holds for the whole session.
            endpoint: in place of the rig's frames endpoint.
            clock: now in ns; that of the sensors of this machine.

        Raises:
            EndpointError: an address that is taken, by a node or another recorder, or not allowed.
            RecordingError: the folder cannot be made.
        """
        self.rig, self._tags, self._clock = rig, dict(tags or {}), clock
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise RecordingError(f"{folder}: cannot be made: {e.strerror}") from e
        self.progress = Progress(folder / default_name(rig.name))
        self._opened = ExitStack()
        self._frames = self._opened.enter_context(
            FrameReceiver(endpoint or default_endpoints(rig.name).frames)
        )
        self._start_ns = clock()
        self._monitor = RecordingMonitor(rig, self._start_ns)
        self._writer: RecordingWriter | None = None
        self._order = 0
        self._numbers: dict[str, int] = {}
        self._counted_ns = self._start_ns

    def turn(self, wait_ms: int = 20) -> bool:
        """Take in what waits; gives whether anything came.

        Raises:
            RecordingError: the disk is full; what was written before can be read.
        """
        if not self._frames.socket.poll(wait_ms):
            self._judge()
            return False
        for _ in range(_MESSAGES_PER_TURN):
            parts = self._frames.receive()
            if parts is None:
                break
            if bytes(parts[0][: len(LABEL_PREFIX)]) == LABEL_PREFIX:
                self._hear_label(parts)
            else:
                self._hear_frame(parts)
        self._judge()
        return True

    def add_labels(self, labels: list[Label]) -> None:
        """Write labels of this process: keys or cues."""
        for label in labels:
            self.progress.labels.append(label)
            self._file().add(encode_label(label))

    def take_digest(self) -> list[SensorDigest]:
        """What came since the last digest; also kept in :attr:`progress`."""
        self.progress.digest = self._monitor.digest(self._clock())
        return self.progress.digest

    def follow(self, cues: CueSchedule) -> None:
        """Move cues on to now, and write the labels that began or ended."""
        now_ns = self._clock()
        self.add_labels(cues.advance(now_ns))
        self.progress.cue = cues.view(now_ns)

    def close(self) -> None:
        """End labels that hold, and finish the file; may be called again.

        Raises:
            RecordingError: the disk is full; what was written before can be read.
        """
        self._opened.close()
        writer, self._writer = self._writer, None
        if writer is None:
            return
        now_ns = self._clock()
        for x in standing(self.progress.labels):
            if x.end_ns is None:
                ended = Label(x.rig, x.name, x.onset_ns, max(now_ns, x.onset_ns), x.author, x.number, x.clock)
                self.progress.labels.append(ended)
                writer.add(encode_label(ended))
        writer.close()

    def _hear_frame(self, parts: list[memoryview]) -> None:
        now_ns = self._clock()
        modality = self._monitor.receive(parts, now_ns)
        if not modality:
            return
        number = self._numbers.get(modality, 0)
        self._numbers[modality] = number + 1
        entry = JournalEntry("frame", self._order, now_ns, number, modality, parts=tuple(parts))
        self._file().add(encode_entry(entry))
        self._order += 1
        self.progress.messages += 1

    def _hear_label(self, parts: list[memoryview]) -> None:
        try:
            label = decode_label(parts)
        except WireError:
            self.progress.refused_labels += 1
            return
        if label.rig != self.rig.name:
            self.progress.refused_labels += 1
            return
        self.add_labels([label])

    def _judge(self) -> None:
        now_ns = self._clock()
        for event in self._monitor.check(now_ns):
            self.progress.states[event.modality] = str(event.state)
            if self._writer is not None:
                self._writer.add(encode_output(event))
        if self._writer is not None and now_ns - self._counted_ns > _COUNTS_EVERY_NS:
            self._counted_ns = now_ns
            self._writer.add_counts()

    def _file(self) -> RecordingWriter:
        if self._writer is None:
            self._writer = RecordingWriter(self.progress.path)
            self._writer.add(encode_entry(begin_entry(self.rig, self._start_ns, self._tags)))
        return self._writer

    def __enter__(self) -> SessionRecorder:
        """The recorder itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Finish the file."""
        self.close()
