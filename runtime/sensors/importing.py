"""Importing: an EEG file becomes a recording, as if a node had received its samples as frames.

Any MCAP reader opens the recording, and a free replay runs it.
"""

from __future__ import annotations

import time
from pathlib import Path

from runtime.core.clock import NS_PER_S
from runtime.record.schemas import IMPORTED
from runtime.record.writer import RecordingWriter
from runtime.rig import Rig
from runtime.rig.source_options import EegFileOptions
from runtime.sensors.adapters.eeg_file import EegFileSource
from runtime.sensors.chunking import Chunker
from runtime.sensors.sample_source import PLAYBACK, SampleBlock
from runtime.sensors.transform import Transformer, plan
from runtime.wire import JournalEntry, encode_entry, encode_frame

_BLOCK_S = 1.0
START_NS = NS_PER_S
"""An imported run starts at this time of its own clock: late enough that no time in it is negative."""


def import_eeg_file(file: Path, out: Path, rig: Rig, modality: str, *, stream: str | None = None) -> int:
    """Write an XDF, FIF, EDF, BDF or BrainVision file as frames of one sensor of a rig.

    The sensor's `transform` in the rig is applied as when the file is played live: channels, unit, rate. Samples
    follow each other at the file's nominal rate, and every frame arrives at the moment of its capture.

    Args:
        file: to read.
        out: the recording, which must not exist yet.
        rig: whose sensor it becomes.
        modality: which sensor.
        stream: XDF: name or type of the stream; needed if there are several.

    Returns:
        How many frames were written.

    Raises:
        SourceRefusedError: the file cannot be read, or does not fit the sensor; the message says what to declare.
        RigError: an unknown modality.
        RecordingError, MissingExtraError: see :class:`~runtime.record.writer.RecordingWriter`.
    """
    sensor = rig.sensor(modality)
    source = EegFileSource(EegFileOptions(kind="eeg-file", file=file, stream=stream), sensor)
    delivery = source.open()
    transformer, chunker = Transformer(plan(sensor, delivery)), Chunker(sensor)
    samples, rate_hz = source.all_samples(), delivery.rate_hz or sensor.rate_hz
    size, sequence = max(1, round(_BLOCK_S * rate_hz)), 0
    with RecordingWriter(out) as writer:
        writer.add(encode_entry(_begin(rig)))
        for start in range(0, len(samples), size):
            block = samples[start : start + size]
            captured_ns = START_NS + round((start + len(block)) * NS_PER_S / rate_hz)
            transformed = transformer.apply(SampleBlock(block, captured_ns, PLAYBACK))
            for message in chunker.cut(transformed) if transformed is not None else ():
                parts = encode_frame(
                    rig.name,
                    modality,
                    sequence,
                    message.array,
                    capture_ns=message.capture_ns,
                    unit=sensor.unit,
                )
                entry = JournalEntry(
                    "frame", sequence, message.capture_ns, sequence, modality, parts=tuple(parts)
                )
                writer.add(encode_entry(entry))
                sequence += 1
    return sequence


def _begin(rig: Rig) -> JournalEntry:
    settings = {
        "rig": rig.model_dump(mode="json"),
        "bundle": "",
        "bundle_name": "",
        "backend": IMPORTED,
        "start_ns": START_NS,
        "wall_ns": time.time_ns(),
        "compare": [],
    }
    return JournalEntry("begin", 0, START_NS, settings=settings)
