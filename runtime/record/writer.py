"""Writing a recording: an MCAP file of msgpack messages, readable up to its last chunk whatever ends the process."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import msgpack

from configs.errors import AfterimageError, import_extra
from runtime.record.schemas import RECORDER_TOPIC, SCHEMAS, schema_of, to_record
from runtime.wire import JOURNAL_PREFIX, JournalEntry, WireError, decode_entry

CHUNK_BYTES = 256 * 1024
"""A chunk is written when it holds this much; no more is lost when the process is killed."""


class RecordingError(AfterimageError):
    """A recording that cannot be written or read; names the file, what is wrong and what to do."""


class RecordingWriter:
    """One MCAP file of messages that a node publishes (three parts each); for one thread.

    A killed process leaves a file without an index, which readers of MCAP accept up to the last whole chunk.

    Attributes:
        path: of the file.
        received: messages by topic.
    """

    def __init__(self, path: Path) -> None:
        """Create the file.

        Raises:
            RecordingError: it exists, or cannot be created.
            MissingExtraError: mcap is not installed.
        """
        mcap = import_extra("mcap.writer", "recordings")
        self.path = path
        self.received: Counter[str] = Counter()
        self._lost: Counter[str] = Counter()
        try:
            # Unbuffered: the writer hands over whole chunks.
            self._file = path.open("xb", buffering=0)
        except FileExistsError as e:
            raise RecordingError(f"{path}: exists already; name another file or remove it") from e
        except OSError as e:
            raise RecordingError(f"{path}: cannot be created: {e.strerror}") from e
        self._writer = mcap.Writer(_CompleteWrites(self._file), chunk_size=CHUNK_BYTES)
        self._writer.start(profile="", library="afterimage")
        self._schemas: dict[str, int] = {}
        self._channels: dict[str, int] = {}
        self._numbers: Counter[str] = Counter()
        self._order: int | None = None
        self._missing_orders = 0
        self._expected: dict[str, int] = {}
        self._latest_ns = 0
        self._from_start = False

    def add(self, parts: Sequence[Any]) -> None:
        """Write one message; one whose header is no msgpack map is counted as lost.

        Raises:
            RecordingError: the disk is full, or the file is gone.
        """
        try:
            entry = decode_entry(parts) if bytes(parts[0]).startswith(JOURNAL_PREFIX) else None
            topic, data, at_ns = to_record(parts)
        except WireError:
            self._lost["unreadable"] += 1
            return
        self.received[topic] += 1
        if entry is not None:
            self._count(entry)
        self._write(topic, data, at_ns)

    def add_counts(self) -> None:
        """Write what was received and lost so far into the file itself.

        Raises:
            RecordingError: as for :meth:`add`.
        """
        counts = {"received": dict(self.received), "lost": self.lost, "from_start": self._from_start}
        self._write(RECORDER_TOPIC, msgpack.packb(counts), None)

    def close(self) -> None:
        """Finish the file: counts, index and footer. May be called again.

        Raises:
            RecordingError: the disk is full; what was written before can be read.
        """
        if self._file.closed:
            return
        try:
            self.add_counts()
            self._writer.finish()
        except OSError as e:
            raise RecordingError(f"{self.path}: cannot be finished: {e.strerror}; free some space") from e
        finally:
            self._file.close()

    def __enter__(self) -> RecordingWriter:
        """The writer itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish the file."""
        self.close()

    @property
    def lost(self) -> dict[str, int]:
        """Inputs of the node that were published but did not arrive, by topic, as their numbers show.

        ``unattributed``: lost by the common order numbers, but no later message of their topic shows which topic.
        ``unreadable``: messages that arrived and could not be read.
        """
        lost = dict(self._lost)
        if (rest := self._missing_orders - sum(self._lost.values()) + self._lost["unreadable"]) > 0:
            lost["unattributed"] = rest
        return lost

    def _count(self, entry: JournalEntry) -> None:
        """Follow the order of the node's inputs, and the numbers of their topics."""
        if entry.call == "begin":
            if self._order is None:
                self._from_start, self._order = entry.order == 0, entry.order
            return
        topic = f"frame/{entry.modality}" if entry.call == "frame" else f"journal/{entry.call}"
        if self._order is not None:
            self._missing_orders += max(0, entry.order - self._order)
        # If the run began earlier, the first number of a topic may be any.
        expected = self._expected.get(topic, 0 if self._from_start else entry.number)
        if entry.number > expected:
            self._lost[topic] += entry.number - expected
        self._order, self._expected[topic] = entry.order + 1, entry.number + 1

    def _write(self, topic: str, data: bytes, at_ns: int | None) -> None:
        self._latest_ns = max(self._latest_ns, at_ns if at_ns is not None else self._latest_ns)
        try:
            if topic not in self._channels:
                self._channels[topic] = self._writer.register_channel(
                    topic=topic, message_encoding="msgpack", schema_id=self._schema(schema_of(topic))
                )
            self._writer.add_message(
                channel_id=self._channels[topic],
                log_time=self._latest_ns,
                publish_time=at_ns if at_ns is not None else self._latest_ns,
                sequence=self._numbers[topic] & 0xFFFFFFFF,
                data=data,
            )
        except OSError as e:
            raise RecordingError(f"{self.path}: cannot be written: {e.strerror}; free some space") from e
        self._numbers[topic] += 1

    def _schema(self, name: str) -> int:
        if name not in self._schemas:
            self._schemas[name] = self._writer.register_schema(
                name=name, encoding="jsonschema", data=json.dumps(SCHEMAS[name]).encode()
            )
        return self._schemas[name]


class _CompleteWrites:
    """A raw file whose ``write`` writes all bytes that it is given."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, data: bytes | bytearray | memoryview) -> int:
        left = memoryview(data).cast("B")
        while left:
            left = left[self._file.write(left) :]
        return len(data)

    def tell(self) -> int:
        return int(self._file.tell())

    def flush(self) -> None:
        """Nothing is buffered."""


def default_name(rig: str) -> Path:
    """A file name of the rig and the time: ``commands-4-20260131-174500.mcap``."""
    return Path(f"{rig}-{time.strftime('%Y%m%d-%H%M%S')}.mcap")
