"""Commands of afterimage as processes of their own, ended by signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from runtime.transport.endpoints import Endpoints

PATIENCE_S = 60.0


def run_arguments(bundle: Path, rig: str, endpoints: Endpoints) -> list[str]:
    """Of a node that listens and publishes there."""
    control = endpoints.frames.replace("frames", "control")
    sockets = ["--frames", endpoints.frames, "--decisions", endpoints.decisions, "--control", control]
    return ["run", str(bundle), "--rig", rig, *sockets]


class Command:
    """One ``afterimage`` command in a session of its own; what it writes goes to files."""

    def __init__(self, *arguments: str, before: str = "") -> None:
        """Start it; ``before`` is Python that runs in its process first."""
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 closed with the command
        self.arguments = arguments
        begin = "import sys; sys.argv = ['afterimage', *sys.argv[1:]]"
        code = f"{before}\n{begin}\nfrom afterimage.cli import main; main()"
        # A shell starts background jobs with SIGINT ignored, and children inherit that: not here.
        inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            self.popen = subprocess.Popen(
                [sys.executable, "-c", code, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=self._said,
                stderr=self._said,
                start_new_session=True,
                env={**os.environ, "COLUMNS": "300"},
            )
        finally:
            signal.signal(signal.SIGINT, inherited)

    @property
    def said(self) -> str:
        """Everything on stdout and stderr so far."""
        size = os.fstat(self._said.fileno()).st_size
        return os.pread(self._said.fileno(), size, 0).decode(errors="replace")

    def wait_said(self, text: str) -> None:
        """Wait until it has written a text."""
        end = time.monotonic() + PATIENCE_S
        while text not in self.said:
            assert self.popen.poll() is None, (
                f"{self.arguments} ended with {self.popen.returncode}: {self.said}"
            )
            assert time.monotonic() < end, f"{self.arguments} did not say {text!r}: {self.said}"
            time.sleep(0.01)

    def wait_file(self, path: Path, size: int = 1) -> None:
        """Wait until a file is there and has grown to a size."""
        end = time.monotonic() + PATIENCE_S
        while not path.exists() or path.stat().st_size < size:
            assert self.popen.poll() is None, (
                f"{self.arguments} ended with {self.popen.returncode}: {self.said}"
            )
            assert time.monotonic() < end, f"{path} did not grow: {self.said}"
            time.sleep(0.01)

    def end(self, *numbers: signal.Signals) -> tuple[int, float]:
        """Send signals one after the other; the exit code, and the seconds until then."""
        begin = time.monotonic()
        for number in numbers:
            self.popen.send_signal(number)
        code = self.popen.wait(PATIENCE_S)
        return code, time.monotonic() - begin

    def children(self) -> Sequence[int]:
        """Processes that it started."""
        import psutil

        return [child.pid for child in psutil.Process(self.popen.pid).children(recursive=True)]

    def __enter__(self) -> Command:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.popen.poll() is None:
            # Its whole session: nothing of a failed test may stay behind, nor stay stopped.
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait()
        self._said.close()
