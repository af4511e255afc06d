"""A recorder beside a node: started before the node runs, so that it records the run from the first message."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from configs.errors import import_extra
from runtime.node.node import Node
from runtime.record.writer import RecordingError
from runtime.wire import JOURNAL_PREFIX

_START_S = 20.0
_STOP_S = 10.0


@contextmanager
def recording(node: Node, rig: str, path: Path, keys: str | None = None) -> Iterator[None]:
    """Record a node that has not run yet, in a process of its own, until the block ends.

    Args:
        node: bound, not running.
        rig: name or file of its rig.
        path: of the recording, which must not exist yet.
        keys: name or file of the node's keys, which the recorder uses as well.

    Raises:
        RecordingError: the file exists, the recorder does not start, or it ended before the node; the end of its output
            is in the message.
        MissingExtraError: mcap is not installed.
    """
    import_extra("mcap.writer", "recordings")
    if path.exists():
        raise RecordingError(f"{path}: exists already; name another file or remove it")
    command = [sys.executable, "-m", "afterimage", "record", str(path), "--rig", rig]
    command += ["--endpoint", node.endpoints.decisions]
    if keys is not None:  # the name of the files; what is secret stays in them
        command += ["--keys", keys, "--server-key", keys]
    # In a session of its own, so that Ctrl-C reaches only the node, which ends first and then ends its recorder.
    recorder = subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True)
    try:
        if not node.await_subscriber(JOURNAL_PREFIX, _START_S):
            recorder.kill()
            _, output = recorder.communicate()
            raise RecordingError(
                f"{path}: the recorder did not start: {output.decode(errors='replace').strip()[-500:]}"
            )
        yield
    finally:
        recorder.send_signal(signal.SIGTERM)
        try:
            _, output = recorder.communicate(timeout=_STOP_S)
        except subprocess.TimeoutExpired:
            recorder.kill()
            _, output = recorder.communicate()
    if recorder.returncode != 0:
        # The node rightly went on without it, but the user must know that the recording is incomplete.
        raise RecordingError(
            f"{path}: the recorder ended with {recorder.returncode} before the node did: "
            f"{output.decode(errors='replace').strip()[-500:] or 'it printed nothing'}"
        )
