"""Reading a recording, complete or truncated, in the order in which it was written."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.errors import import_extra
from runtime.record.schemas import from_record
from runtime.record.writer import RecordingError
from runtime.wire import JournalEntry, WireError
from runtime.wire.labels import Label


@dataclass(frozen=True, slots=True)
class Recorded:
    """One message of a recording.

    Attributes:
        topic: of its channel.
        at_ns: when the node received or published it, node clock.
        content: an input of the pipeline; a label; a map for everything that was published.
    """

    topic: str
    at_ns: int
    content: JournalEntry | Label | dict[str, Any]


def read_recording(path: Path) -> Iterator[Recorded]:
    """Every message of a file, as written; of a file whose writer was killed, every one up to its last whole chunk.

    Raises:
        RecordingError: the file cannot be read, is no recording of Afterimage, or is damaged before its end.
        MissingExtraError: mcap is not installed.
    """
    streams = import_extra("mcap.stream_reader", "recordings")
    errors = import_extra("mcap.exceptions", "recordings")
    records = import_extra("mcap.records", "recordings")
    topics: dict[int, str] = {}
    try:
        with path.open("rb") as file:
            try:
                for record in streams.StreamReader(file, validate_crcs=True).records:
                    if isinstance(record, records.Channel):
                        topics[record.id] = record.topic
                    elif isinstance(record, records.Message):
                        topic = topics[record.channel_id]
                        yield Recorded(topic, record.log_time, from_record(topic, record.data))
            except (errors.EndOfFile, struct.error):
                # The library raises one of these where a file ends within a record: truncated, but valid so far.
                if file.read(1):
                    raise
    except OSError as e:
        raise RecordingError(f"{path}: cannot be read: {e.strerror}") from e
    except (errors.McapError, struct.error, streams.CRCValidationError, WireError, KeyError, ValueError) as e:
        raise RecordingError(
            f"{path}: expected a recording of `afterimage record`, got something else: {type(e).__name__}: {e}"
        ) from e
