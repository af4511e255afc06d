"""The supervisor: one process per sensor of a rig, started again when it dies.

Restarts are limited in rate, not in number: a device that is away for a night is back in the morning. A process that
refuses its source ends the whole group, because the rig is wrong. One whose file has been played is left alone.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal

from configs.errors import AfterimageError
from runtime.core.clock import nanoseconds
from runtime.rig import Rig
from runtime.sensors.capture_process import REFUSED, CaptureSpec, RemoteNode
from runtime.sensors.sensor_process import SensorProcess
from runtime.signals.faults import FaultSchedule

_logger = logging.getLogger("afterimage.sensors")
_FIRST_PAUSE_S, _LONGEST_PAUSE_S, _SETTLED_S = 0.1, 10.0, 10.0
_STOP_S = 5.0
"""A process that was told to end has this long to write its counts."""
_LEAD_S = 0.25
"""A common start is set this far ahead, so that every process hears of it in time."""
_LOOK_S = 0.01


class SensorProcessError(AfterimageError):
    """A sensor process that did not start, refused its source or died; the message names the sensor and the reason."""


@dataclass
class _Supervised:
    """One sensor: its present process, and its history.

    ``killed``: on purpose, by :meth:`Supervisor.kill`, or being restored; only :meth:`Supervisor.restart` starts it.
    """

    spec: CaptureSpec
    environment: Mapping[str, str]
    process: SensorProcess
    started_ns: int
    state: Literal["running", "pausing", "killed", "ended"] = "running"
    restarts: int = 0
    pause_s: float = _FIRST_PAUSE_S
    again_ns: int = 0
    counts: list[dict[str, Any]] = field(default_factory=list)

    def start_again(self) -> None:
        """A new process in place of one that has ended."""
        self.process = SensorProcess(self.spec, self.environment)
        self.started_ns = time.monotonic_ns()
        self.restarts += 1

    def collect(self) -> dict[str, Any] | None:
        """Wait for the end of the process, and keep its counts."""
        counts = self.process.collect(_STOP_S)
        if counts is not None:
            self.counts.append(counts)
        return counts


class Supervisor:
    """The sensor processes of a rig; a context manager, for any thread.

    :meth:`look` has to be called now and then: it starts again what died.

    Attributes:
        start_ns: CLOCK_MONOTONIC time at which the sensors begin; faults and the plan of moments count from there. None
            while the sensors that begin together are not all open.
    """

    def __init__(
        self,
        rig: Rig,
        endpoint: str,
        *,
        modalities: Iterable[str] | None = None,
        remote: RemoteNode | None = None,
        faults: FaultSchedule | None = None,
        restart: bool = True,
        together: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start a process per sensor.

        Args:
            rig: whose sensors.
            endpoint: the node's frames endpoint.
            modalities: which of them; all by default.
            remote: what else is needed to reach a node on another machine.
            faults: what goes wrong on purpose, counted from the start.
            restart: start a process again when it dies.
            together: publish nothing until all sources are open, then begin at one time (see :meth:`start`). By default
                every sensor begins as soon as its own source is open.
            environment: variables for the processes, beside those of this process.

        Raises:
            RigError: an unknown modality.
            FaultError: a schedule that does not fit the rig.
        """
        if faults is not None:
            faults.check(rig)
        self.start_ns = None if together else time.monotonic_ns()
        self._restart = restart
        self._lock = threading.RLock()
        names = [
            rig.sensor(m).modality
            for m in dict.fromkeys(rig.modality_names if modalities is None else modalities)
        ]
        self._sensors: dict[str, _Supervised] = {}
        try:
            for name in names:
                spec = CaptureSpec.of(
                    rig,
                    name,
                    self.start_ns,
                    endpoint=endpoint,
                    remote=remote,
                    faults=faults or FaultSchedule(),
                    parent=os.getpid(),
                )
                process = SensorProcess(spec, environment or {})
                self._sensors[name] = _Supervised(spec, environment or {}, process, time.monotonic_ns())
        except BaseException:
            self.stop()
            raise

    @property
    def modalities(self) -> tuple[str, ...]:
        """The sensors of this group."""
        return tuple(self._sensors)

    def pid(self, modality: str) -> int:
        """Process id of a sensor's present process."""
        return self._sensors[modality].process.pid

    def restarts(self, modality: str) -> int:
        """How often a sensor's process was started again."""
        return self._sensors[modality].restarts

    def start(self, timeout_s: float = 120.0) -> int:
        """Wait until all sources are open and the sensors that begin ``together`` have their common start.

        Returns:
            CLOCK_MONOTONIC time of the start, ns; it may lie a moment ahead.

        Raises:
            SensorProcessError: a sensor refused its source, died, or took longer than ``timeout_s`` to open it.
        """
        end = time.monotonic() + timeout_s
        while self.start_ns is None:
            self.look()
            with self._lock:
                for modality, sensor in self._sensors.items():
                    if sensor.state != "running":
                        raise SensorProcessError(_died_opening(modality, sensor))
                waiting = [m for m, s in self._sensors.items() if not s.process.is_ready()]
            if time.monotonic() > end:
                raise SensorProcessError(
                    f"sensors {waiting} did not open their sources within {timeout_s:g} s"
                )
            time.sleep(_LOOK_S)
        return self.start_ns

    def look(self) -> bool:
        """See which processes died, start again those whose pause is over, and set the common start when all are open.

        Returns:
            Whether anything runs or may run again.

        Raises:
            SensorProcessError: a sensor refused its source; all are stopped.
        """
        with self._lock:
            now_ns = time.monotonic_ns()
            for modality, sensor in self._sensors.items():
                if sensor.state == "pausing" and now_ns >= sensor.again_ns:
                    sensor.start_again()
                    sensor.state = "running"
                elif sensor.state == "running" and (code := sensor.process.exit_code()) is not None:
                    self._died(modality, sensor, code, now_ns)
            if self.start_ns is None:
                self._begin_if_all_are_ready()
            return any(s.state != "ended" for s in self._sensors.values())

    def check(self) -> None:
        """Raise SensorProcessError if the present process of a sensor died that was not killed on purpose."""
        with self._lock:
            for modality, sensor in self._sensors.items():
                code = sensor.process.exit_code()
                if sensor.state != "killed" and code:
                    raise SensorProcessError(f"sensor {modality!r} died with code {code}")

    def kill(self, modality: str) -> None:
        """End one process at once (SIGKILL), as when a driver crashes; it stays dead until :meth:`restart`."""
        with self._lock:
            self._sensors[modality].state = "killed"
            self._sensors[modality].process.kill()

    def restart(self, modality: str, timeout_s: float = 120.0) -> None:
        """Start the process of a sensor again and wait until its source is open.

        A sensor that plays moments joins in where the others are.

        Raises:
            SensorProcessError: it refused its source, died, or took longer than ``timeout_s`` to open it.
            ValueError: the sensors have not begun.
        """
        with self._lock:
            if self.start_ns is None:
                raise ValueError(f"restart({modality!r}) before the sensors began; call start() first")
            sensor = self._sensors[modality]
            sensor.state = "killed"
            sensor.process.ask_to_end()
            sensor.collect()
            sensor.start_again()
        end = time.monotonic() + timeout_s
        while True:
            with self._lock:
                if sensor.state == "killed" and sensor.process.is_ready():
                    sensor.state = "running"
                    return
                if sensor.state != "killed" or sensor.process.exit_code() is not None:
                    raise SensorProcessError(_died_opening(modality, sensor))
                if time.monotonic() > end:
                    sensor.process.kill()
                    raise SensorProcessError(
                        f"sensor {modality!r} did not open its source within {timeout_s:g} s"
                    )
            time.sleep(_LOOK_S)

    def stop(self) -> dict[str, dict[str, Any]]:
        """Stop all processes and wait for them; may be called again.

        Returns:
            Modality -> ``restarts`` and ``processes``, the counts of each process that could write them; one that was
            killed could not.
        """
        with self._lock:
            for sensor in self._sensors.values():
                sensor.process.ask_to_end()
            for sensor in self._sensors.values():
                sensor.collect()
                sensor.state = "ended"
            return {m: {"restarts": s.restarts, "processes": s.counts} for m, s in self._sensors.items()}

    def __enter__(self) -> Supervisor:
        """The supervisor itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop all processes."""
        self.stop()

    def _begin_if_all_are_ready(self) -> None:
        sensors = [s for s in self._sensors.values() if s.state != "ended"]
        if not sensors or not all(s.state == "running" and s.process.is_ready() for s in sensors):
            return
        self.start_ns = time.monotonic_ns() + nanoseconds(_LEAD_S)
        for sensor in sensors:
            sensor.spec = sensor.spec.model_copy(update={"start_ns": self.start_ns})
            sensor.process.begin(self.start_ns)

    def _died(self, modality: str, sensor: _Supervised, code: int, now_ns: int) -> None:
        counts = sensor.collect()
        if code == REFUSED:
            self.stop()
            raise SensorProcessError(_refusal(modality, counts))
        fields = {"modality": modality, "code": code}
        if code == 0 or not self._restart:
            sensor.state = "ended"
            text = f"{modality}: ended" + (f" with code {code}" if code else "")
            _logger.log(logging.WARNING if code else logging.INFO, text, extra={"fields": fields})
            return
        if now_ns - sensor.started_ns > nanoseconds(_SETTLED_S):
            sensor.pause_s = _FIRST_PAUSE_S
        text = f"{modality}: died with code {code}; starts again in {sensor.pause_s:g} s"
        _logger.warning(text, extra={"fields": fields})
        sensor.state = "pausing"
        sensor.again_ns = now_ns + nanoseconds(sensor.pause_s)
        sensor.pause_s = min(2 * sensor.pause_s, _LONGEST_PAUSE_S)


def _refusal(modality: str, counts: dict[str, Any] | None) -> str:
    return (counts or {}).get("refused") or f"sensor {modality!r} refused its source"


def _died_opening(modality: str, sensor: _Supervised) -> str:
    code, counts = sensor.process.exit_code(), sensor.collect()
    if code == REFUSED:
        return _refusal(modality, counts)
    return f"sensor {modality!r} died with code {code} before its source was open"
