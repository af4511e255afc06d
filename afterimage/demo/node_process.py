"""The demo's node: the command that users run, in a process."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from configs.errors import AfterimageError
from runtime.rig import Rig
from runtime.transport.endpoints import Endpoints

_START_TIMEOUT_S = 60.0


class NodeError(AfterimageError):
    """The node process did not start or died; the message holds the end of its log."""


class NodeProcess:
    """A running ``afterimage run``; a context manager that ends it."""

    def __init__(
        self, model: Path, rig: Rig, endpoints: Endpoints, folder: Path, *, compare: Sequence[str] = ()
    ) -> None:
        """Start the node and wait until its endpoints are bound.

        Args:
            model: bundle or engine folder.
            rig: a shipped one.
            endpoints: where it listens and publishes.
            folder: for its log and statistics.
            compare: other fill policies.

        Raises:
            NodeError: it did not start.
        """
        self._log = folder / "node.log"
        self._statistics = folder / "statistics.json"
        command = [
            sys.executable, "-m", "afterimage", "run", str(model), "--rig", rig.name, "--compare", ",".join(compare),
            "--frames", endpoints.frames, "--decisions", endpoints.decisions, "--json", str(self._statistics),
        ]  # fmt: skip
        with self._log.open("wb") as sink:
            self._process = subprocess.Popen(command, stdout=sink, stderr=sink, start_new_session=True)
        deadline = time.monotonic() + _START_TIMEOUT_S
        while f"decisions {endpoints.decisions}" not in self._log.read_text():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._process.kill()
                self._process.wait()
                raise NodeError(f"the node did not start: {self._end_of_log()}")
            time.sleep(0.05)

    def check(self) -> None:
        """Raise NodeError, with the end of its log, if the node died."""
        if self._process.poll() is not None:
            raise NodeError(f"the node died: {self._end_of_log()}")

    def stop(self) -> dict[str, Any]:
        """Stop the node; its statistics.

        Raises:
            NodeError: it left none.
        """
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(10)
            statistics: dict[str, Any] = json.loads(self._statistics.read_text())
        except (subprocess.TimeoutExpired, OSError, json.JSONDecodeError) as e:
            raise NodeError(f"the node ended without its statistics ({e}): {self._end_of_log()}") from e
        return statistics

    def __enter__(self) -> NodeProcess:
        """The process itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the process."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()

    def _end_of_log(self) -> str:
        return self._log.read_text(errors="replace")[-2000:].strip() or "its log is empty"
