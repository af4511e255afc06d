"""The processes that a benchmark starts: how it talks with them, and how it ends them."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from configs.errors import AfterimageError

ANSWER_LIMIT_S = 120.0
STOPPING_S = 15.0
"""A process that is asked to end has this long; then it is killed."""


class ProcessError(AfterimageError):
    """A process of the benchmark ended or stopped answering; the message has the last lines that it wrote."""


class BenchmarkProcess:
    """A process in a session of its own, so that Ctrl-C reaches only the benchmark, which then ends it in order.

    A process that talks reads JSON lines on stdin, answers each with one line on stdout, and ends when stdin does.
    What a process writes on stderr is kept for error messages, and so is stdout where the process does not talk.
    Processes that it starts itself end with it.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        talks: bool = True,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        """Start the process.

        Args:
            command: to run.
            talks: whether it reads and answers JSON lines.
            environment: all of its variables; this process's own where None.
            folder: to run it in; this process's own where None.
        """
        self.name = command[2] if command[0] == sys.executable and command[1] == "-m" else command[0]
        self._talks = talks
        self._written = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE if talks else subprocess.DEVNULL,
            stdout=subprocess.PIPE if talks else self._written,
            stderr=self._written,
            env=None if environment is None else dict(environment),
            cwd=folder,
            start_new_session=True,
        )

    @classmethod
    def of_module(
        cls, module: str, argument: str, environment: Mapping[str, str] | None = None
    ) -> BenchmarkProcess:
        """Start ``python -m MODULE ARGUMENT``, which talks, with these variables added to this process's own."""
        command = [sys.executable, "-m", module, argument]
        return cls(command, environment={**os.environ, **(environment or {})})

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        """Whether it is no longer there."""
        return self._process.poll() is not None

    @property
    def written(self) -> str:
        """The end of what it wrote, for people."""
        size = os.fstat(self._written.fileno()).st_size
        text = os.pread(self._written.fileno(), 1500, max(0, size - 1500))
        return text.decode(errors="replace").strip()

    def tell(self, message: Mapping[str, Any]) -> None:
        """Send it a line of JSON.

        Raises:
            ProcessError: it has ended.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError as e:
            raise self._error("ended") from e

    def answer(self, limit_s: float = ANSWER_LIMIT_S) -> dict[str, Any]:
        """Wait for its next line of JSON.

        Raises:
            ProcessError: it ended or took too long.
        """
        assert self._process.stdout is not None
        # It writes one line for each that it reads, so no second line can wait unseen in the buffer.
        with selectors.DefaultSelector() as waiting:
            waiting.register(self._process.stdout, selectors.EVENT_READ)
            if not waiting.select(limit_s):
                raise self._error(f"did not answer for {limit_s:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            raise self._error("ended")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def last_answer(self) -> dict[str, Any]:
        """Let it end, and return the report that it writes then.

        Raises:
            ProcessError: it wrote none.
        """
        assert self._process.stdin is not None
        self._process.stdin.close()
        return self.answer()

    def wait(self, limit_s: float) -> int | None:
        """Wait for its end; returns its exit code, None if it is still there after the limit."""
        try:
            return self._process.wait(limit_s)
        except subprocess.TimeoutExpired:
            return None

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to this process alone."""
        self._process.send_signal(number)

    def close(self) -> None:
        """Ask it to end, then kill it and every process that it left; may be called again."""
        if self._written.closed:
            return
        try:
            if self._process.stdin is not None:
                with contextlib.suppress(BrokenPipeError):
                    self._process.stdin.close()
            elif not self.has_ended:
                os.killpg(self.pid, signal.SIGINT)  # as a terminal does
            self.wait(STOPPING_S)
        finally:
            _kill_session(self.pid)
            self._process.wait()
            if self._process.stdout is not None:
                self._process.stdout.close()
            self._written.close()

    def __enter__(self) -> BenchmarkProcess:
        """The process itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it."""
        self.close()

    def _error(self, what: str) -> ProcessError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)  # its last words may still be on their way
        lines = self.written.splitlines() or ["nothing"]
        return ProcessError(f"{self.name} {what}; the last that it wrote: {lines[-1][:300]}")


def _kill_session(session: int) -> None:
    """Kill every process of a session, and wait until they are gone."""
    end = time.monotonic() + STOPPING_S
    while (left := _processes_of(session)) and time.monotonic() < end:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def _processes_of(session: int) -> list[int]:
    """The processes of a session that still run."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, its_session = stat.read_text().rpartition(")")[2].split()[:4]
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended meanwhile
        if int(its_session) == session and state not in "ZX":
            found.append(int(stat.parent.name))
    return found
