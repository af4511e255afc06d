"""The recorder: a process of its own that writes what a node publishes, so that a slow disk does not delay the node."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from runtime.record.writer import RecordingWriter
from runtime.rig import Rig
from runtime.transport.endpoints import default_endpoints
from runtime.transport.keys import Keys
from runtime.transport.sockets import DecisionReceiver
from runtime.wire import BEST_PREFIX, FUSED, HEALTH, IMPUTED_PREFIX, JOURNAL_PREFIX

_COUNTS_EVERY_S = 1.0
_POLL_MS = 100
_QUEUE = 1024
"""Messages that may wait for the disk. Further ones are lost; the order numbers of the journal show how many."""


def record(
    rig: Rig,
    path: Path,
    stop: threading.Event,
    *,
    endpoint: str | None = None,
    observations: bool = False,
    until_s: float | None = None,
    report: Callable[[RecordingWriter], None] | None = None,
    keys: Keys | None = None,
) -> RecordingWriter:
    """Record a node until told to stop: its inputs (frames and the calls between them), decisions and health.

    Args:
        rig: of the node.
        path: of the file, which must not exist yet.
        stop: ends the recording when set.
        endpoint: the node's decisions endpoint; the rig's default if not given.
        observations: record observations too; the node then decodes on every tick.
        until_s: ends the recording after this many seconds.
        report: called about once a second.
        keys: own pair and the node's public key; needed for a node on another machine.

    Returns:
        the writer, closed, with its counts.

    Raises:
        RecordingError: the file cannot be created or written; what was written before can be read.
        EndpointError: an address that is not allowed, or keys that cannot be used.
        MissingExtraError: mcap is not installed.
    """
    topics: Sequence[bytes] = (JOURNAL_PREFIX, FUSED, HEALTH)
    if observations:
        topics = (*topics, IMPUTED_PREFIX, BEST_PREFIX)
    with (
        RecordingWriter(path) as writer,
        DecisionReceiver(
            endpoint or default_endpoints(rig.name).decisions, topics, keys=keys, high_water_mark=_QUEUE
        ) as node,
    ):
        started_s = counted_s = time.monotonic()
        while not stop.is_set() and (until_s is None or time.monotonic() - started_s < until_s):
            parts = node.receive(_POLL_MS)
            if parts is not None:
                writer.add(parts)
            if time.monotonic() - counted_s >= _COUNTS_EVERY_S:
                counted_s = time.monotonic()
                writer.add_counts()
                if report is not None:
                    report(writer)
    return writer
