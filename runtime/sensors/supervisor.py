"""The supervisor: one process per sensor of a rig, started again when it dies.

Restarts are bounded in how often, not in how many: a device that is away for a night is back in the morning. A process
that refuses its source ends the whole group, because the rig is wrong; one whose file has been played is left alone.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from runtime.core.clock import nanoseconds
from runtime.rig import Rig
from runtime.sensors.capture_process import REFUSED, CaptureSpec, RemoteNode
from runtime.sensors.process import SensorProcessError
from runtime.signals.faults import FaultSchedule

_FIRST_PAUSE_S, _LONGEST_PAUSE_S, _SETTLED_S = 0.1, 10.0, 10.0
_STOP_S = 1.5


@dataclass
class _Running:
    """One sensor's process, and its history."""

    spec: CaptureSpec
    popen: subprocess.Popen[bytes]
    started_ns: int
    restarts: int = 0
    pause_s: float = _FIRST_PAUSE_S
    again_ns: int | None = None
    ended: bool = False
    counts: list[dict[str, Any]] = field(default_factory=list)


def _spawn(spec: CaptureSpec) -> subprocess.Popen[bytes]:
    popen = subprocess.Popen(
        [sys.executable, "-m", "runtime.sensors.capture_process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # One thread: a sensor's arithmetic is small, and the node needs the cores.
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        # Ctrl-C in the terminal reaches the whole group; the supervisor stops its sensors itself.
        start_new_session=True,
    )
    assert popen.stdin is not None
    try:
        popen.stdin.write(spec.model_dump_json().encode() + b"\n")
        popen.stdin.close()
    except BrokenPipeError:
        popen.wait()  # it died at once: the next look sees that
    return popen


class Supervisor:
    """The sensor processes of a rig; a context manager. :meth:`look` has to be called now and then."""

    def __init__(
        self,
        rig: Rig,
        endpoint: str,
        *,
        modalities: Iterable[str] | None = None,
        remote: RemoteNode | None = None,
        faults: FaultSchedule | None = None,
        restart: bool = True,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Start a process per sensor.

        Args:
            rig: whose sensors.
            endpoint: the node's frames endpoint.
            modalities: which of them; all by default.
            remote: what else is needed of a node on another machine.
            faults: what goes wrong on purpose, counted from now.
            restart: start a process again that dies.
            say: told, for a person, when one dies.

        Raises:
            RigError: an unknown modality.
            FaultError: a schedule that does not fit the rig.
        """
        if faults is not None:
            faults.check(rig)
        self.epoch_ns = time.monotonic_ns()
        self._restart = restart
        self._say = say
        sensors = [rig.sensor(m) for m in (rig.modality_names if modalities is None else modalities)]
        self._running: dict[str, _Running] = {}
        try:
            for sensor in sensors:
                spec = CaptureSpec.of(
                    rig,
                    sensor.modality,
                    self.epoch_ns,
                    endpoint=endpoint,
                    remote=remote,
                    faults=faults or FaultSchedule(),
                    parent=os.getpid(),
                )
                self._running[sensor.modality] = _Running(spec, _spawn(spec), time.monotonic_ns())
        except BaseException:
            self.stop()
            raise

    @property
    def modalities(self) -> tuple[str, ...]:
        """The sensors of this group."""
        return tuple(self._running)

    def pid(self, modality: str) -> int:
        """Process id of a sensor's present process."""
        return self._running[modality].popen.pid

    def restarts(self, modality: str) -> int:
        """How often a sensor's process was started again."""
        return self._running[modality].restarts

    def look(self) -> bool:
        """See who died, start again whose pause is over.

        Returns:
            Whether anything runs or will run again.

        Raises:
            SensorProcessError: a sensor refused its source; all are stopped.
        """
        now_ns = time.monotonic_ns()
        for modality, running in self._running.items():
            if running.ended:
                continue
            if running.again_ns is not None:
                if now_ns >= running.again_ns:
                    running.popen, running.started_ns = _spawn(running.spec), now_ns
                    running.again_ns = None
                    running.restarts += 1
                continue
            code = running.popen.poll()
            if code is not None:
                self._died(modality, running, code, now_ns)
        return not all(r.ended for r in self._running.values())

    def stop(self) -> dict[str, dict[str, Any]]:
        """Stop all processes and wait for them; may be called again.

        Returns:
            Modality -> ``restarts`` and ``processes``, the counts of each process that could say them.
        """
        for running in self._running.values():
            if running.popen.poll() is None:
                running.popen.send_signal(signal.SIGTERM)
        for running in self._running.values():
            self._collect(running)
            running.ended = True
        return {m: {"restarts": r.restarts, "processes": r.counts} for m, r in self._running.items()}

    def __enter__(self) -> Supervisor:
        """The supervisor itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop all processes."""
        self.stop()

    def _died(self, modality: str, running: _Running, code: int, now_ns: int) -> None:
        counts = self._collect(running)
        if code == REFUSED:
            running.ended = True
            self.stop()
            raise SensorProcessError(
                (counts or {}).get("refused") or f"sensor {modality!r} refused its source"
            )
        if code == 0 or not self._restart:
            running.ended = True
            self._say(f"{modality}: ended" + (f" with code {code}" if code else ""))
            return
        if now_ns - running.started_ns > nanoseconds(_SETTLED_S):
            running.pause_s = _FIRST_PAUSE_S
        self._say(f"{modality}: died with code {code}; starts again in {running.pause_s:g} s")
        running.again_ns = now_ns + nanoseconds(running.pause_s)
        running.pause_s = min(2 * running.pause_s, _LONGEST_PAUSE_S)

    def _collect(self, running: _Running) -> dict[str, Any] | None:
        """Wait for a process's end and its counts; None if it could not say them, or has before."""
        if running.popen.stdout is None or running.popen.stdout.closed:
            return None
        try:
            running.popen.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            running.popen.kill()
            running.popen.wait()
        with running.popen.stdout as out:
            lines = out.read().splitlines()
        try:
            counts = json.loads(lines[-1])
        except (IndexError, json.JSONDecodeError, UnicodeDecodeError):
            return None
        if not isinstance(counts, dict):
            return None
        running.counts.append(counts)
        return counts
