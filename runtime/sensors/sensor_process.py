"""One sensor's process as its supervisor handles it: started, ready, told to begin, ended, its counts collected."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from runtime.sensors.capture_process import READY, CaptureSpec

ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""Environment of sensor processes: their arithmetic is small, and the node needs the cores."""


class SensorProcess:
    """A running :mod:`~runtime.sensors.capture_process` and the pipes to it; for one thread at a time."""

    def __init__(self, spec: CaptureSpec, environment: Mapping[str, str]) -> None:
        """Start the process and hand it its spec; ``environment`` adds to this process's own."""
        self._ready = False
        self._lines: list[bytes] = []
        self._popen = subprocess.Popen(
            [sys.executable, "-m", "runtime.sensors.capture_process", spec.title],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **ONE_THREAD, **environment},
            # Ctrl-C in the terminal reaches the whole group; the supervisor stops its sensors itself.
            start_new_session=True,
        )
        self._write(spec.model_dump_json(), last=spec.start_ns is not None)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._popen.pid

    def exit_code(self) -> int | None:
        """How it ended: its exit code, or minus the number of the signal; None while it runs."""
        return self._popen.poll()

    def is_ready(self) -> bool:
        """Whether its source is open; does not wait."""
        out = self._popen.stdout
        assert out is not None
        if not self._ready and not out.closed and select.select([out], [], [], 0)[0]:
            line = out.readline()
            self._ready = line.strip() == READY.encode()
            self._lines.append(line)
        return self._ready

    def begin(self, start_ns: int) -> None:
        """Tell a ready process when the sensors of the rig begin together."""
        self._write(str(start_ns), last=True)

    def kill(self) -> None:
        """End it at once (SIGKILL), and wait."""
        self._popen.kill()
        self._popen.wait()

    def ask_to_end(self) -> None:
        """Send SIGTERM if it runs; :meth:`collect` waits for its end."""
        if self._popen.poll() is None:
            self._popen.send_signal(signal.SIGTERM)

    def collect(self, timeout_s: float) -> dict[str, Any] | None:
        """Wait for its end, killing it after ``timeout_s``, and take its counts.

        Returns:
            The counts; None if it wrote none (it was killed), or if they were collected before.
        """
        stdin, out = self._popen.stdin, self._popen.stdout
        assert stdin is not None
        assert out is not None
        if out.closed:
            return None
        try:
            self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
        with contextlib.suppress(BrokenPipeError):
            stdin.close()
        with out:
            lines = [*self._lines, *out.read().splitlines()]
        try:
            counts = json.loads(lines[-1])
        except (IndexError, json.JSONDecodeError, UnicodeDecodeError):
            return None
        return counts if isinstance(counts, dict) else None

    def _write(self, line: str, *, last: bool) -> None:
        stdin = self._popen.stdin
        assert stdin is not None
        try:
            stdin.write(line.encode() + b"\n")
            stdin.flush()
        except BrokenPipeError:
            return  # it has died; its exit code tells
        if last:
            stdin.close()
