"""Sensor processes: each plays one modality at its native rate, through a fault schedule, to a node.

``python -m runtime.sensors.process SPEC`` runs one, with SPEC the JSON of a :class:`PlaySpec`;
:func:`spawn_sensors` runs one per modality and starts them on one beat. A process that is late or
restarted joins in where the others are, because what plays when is a function of the start time alone.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal

from pydantic import ValidationError

from configs.errors import AfterimageError
from configs.reading import StrictModel
from runtime.core.clock import NS_PER_S
from runtime.latency import LatencyReservoir
from runtime.sensors.publisher import SampleError, Sensor
from runtime.signals.faults import FaultInjector, FaultSchedule
from runtime.signals.moments import MomentSource, Split
from runtime.signals.playback import Playback, plan_for
from runtime.signals.sources import open_source
from runtime.stopping import stop_on_signals

__all__ = [
    "PlaySpec",
    "SampleError",
    "Sensor",
    "SensorGroup",
    "SensorProcessError",
    "run_sensor",
    "spawn_sensors",
]

_OVERRUN_NS = NS_PER_S
"""A sensor this far behind has overrun its buffer: it drops what it missed, as a driver does."""


_STOP_S = 15.0  # a process that was told to end has this long to say its counts


class SensorProcessError(AfterimageError):
    """A sensor process that did not start or died; the message names it and holds its last words."""


class PlaySpec(StrictModel):
    """Everything a sensor process needs to know, as JSON on its command line.

    Attributes:
        modality: which sensor of the source's rig to play.
        endpoint: the node's frames endpoint.
        data: recorded or synthetic.
        data_dir: folder of the packs, for recorded data.
        source_seed: of the pairing or the scenes.
        split: which moments to play.
        plan_seed: of the order of moments.
        faults: what goes wrong, and when.
        start_ns: CLOCK_MONOTONIC time at which the playback starts; None: say `ready` on stdout, read it
            from stdin.
        parent: process id to end with; None runs on its own.
    """

    modality: str
    endpoint: str
    data: Literal["recorded", "synthetic"]
    data_dir: Path | None = None
    source_seed: int = 0
    split: Split = "test"
    plan_seed: int = 0
    faults: FaultSchedule = FaultSchedule()
    start_ns: int | None = None
    parent: int | None = None


def run_sensor(
    source: MomentSource,
    spec: PlaySpec,
    start_ns: int,
    stop: threading.Event,
    *,
    until_ns: int | None = None,
) -> dict[str, Any]:
    """Play one modality until told to stop; the loop of a sensor process.

    Every message is read ahead, then published at ``start + elapsed(index)``: deadlines are absolute, so
    waiting inaccuracy does not add up. The sequence number is the message's index, so what a fault
    silences or an overrun drops is visible to the node as lost messages.

    Args:
        source: what to play.
        spec: which modality of it, to where, with what faults.
        start_ns: CLOCK_MONOTONIC time of the start of the playback.
        stop: ends the loop when set.
        until_ns: ends the loop at this time; None plays on.

    Returns:
        Counts of messages published, silenced and dropped in overruns, and how late they were published.
    """
    playback = Playback(source, spec.modality, plan_for(source, spec.split, spec.plan_seed))
    injector = FaultInjector(spec.faults, spec.modality)
    counts = {"published": 0, "silenced": 0, "overrun": 0}
    lateness = LatencyReservoir()
    with Sensor(source.rig, spec.modality, endpoint=spec.endpoint) as sensor:
        index = playback.next_index(time.monotonic_ns() - start_ns)
        while not stop.is_set() and (spec.parent is None or os.getppid() == spec.parent):
            chunk = playback.read(index)
            due_ns = start_ns + chunk.elapsed_ns
            if until_ns is not None and due_ns > until_ns:
                break
            behind_ns = time.monotonic_ns() - due_ns
            if behind_ns > _OVERRUN_NS:
                resumed = playback.next_index(time.monotonic_ns() - start_ns)
                counts["overrun"] += resumed - index
                index = resumed
                continue
            if behind_ns < 0 and stop.wait(-behind_ns / NS_PER_S):
                break
            samples = injector.apply(chunk.elapsed_ns / NS_PER_S, chunk.samples)
            if samples is None:
                counts["silenced"] += 1
            else:
                sensor.sequence = index
                sensor.publish(samples, capture_ns=due_ns)
                counts["published"] += 1
                lateness.add((time.monotonic_ns() - due_ns) / 1e6)
            index += 1
    return {"modality": spec.modality, **counts, "late_ms": lateness.summary()}


def main(arguments: list[str]) -> int:
    """A sensor process: play until SIGTERM or SIGINT, then print the counts as one line of JSON.

    Returns:
        The exit code: 0, or 2 with one line on stderr for a spec or source that cannot be used.
    """
    stop = stop_on_signals()
    if len(arguments) != 1:
        print("usage: python -m runtime.sensors.process SPEC (JSON of a PlaySpec)", file=sys.stderr)
        return 2
    try:
        spec = PlaySpec.model_validate_json(arguments[0])
    except ValidationError as e:
        print(f"sensor spec: {e}", file=sys.stderr)
        return 2
    from runtime.rig import RigError
    from runtime.signals.packs import PackError
    from runtime.transport.endpoints import EndpointError

    try:
        source = open_source(spec.data, spec.data_dir, spec.source_seed, modalities=(spec.modality,))
        spec.faults.check(source.rig)
        start_ns = spec.start_ns
        if start_ns is None:
            print("ready", flush=True)
            line = sys.stdin.readline()
            if not line.strip():
                return 0  # whoever started us is gone or changed its mind
            start_ns = int(line)
        counts = run_sensor(source, spec, start_ns, stop)
    except (PackError, RigError, EndpointError, KeyError, ValueError) as e:
        print(f"sensor {spec.modality!r}: {e}", file=sys.stderr)
        return 2
    print(json.dumps(counts), flush=True)
    return 0


class _Process:
    """One sensor process and the pipes to it."""

    def __init__(self, spec: PlaySpec) -> None:
        self.spec = spec
        # A file, not a pipe: nobody reads it while the process runs, and a full pipe would block it.
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 closed with the process
        command = [sys.executable, "-m", "runtime.sensors.process", spec.model_dump_json()]
        # One thread: a sensor's arithmetic is small, and the node needs the cores.
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self.popen = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
            # Ctrl-C in the terminal reaches the whole group; the parent stops its sensors itself, in order.
            start_new_session=True,
        )

    def wait_ready(self, timeout_s: float) -> None:
        """Wait until the process has opened its source.

        Raises:
            SensorProcessError: it died or took too long.
        """
        assert self.popen.stdout is not None
        timer = threading.Timer(timeout_s, self.popen.kill)
        timer.daemon = True
        timer.start()
        try:
            line = self.popen.stdout.readline()
        finally:
            timer.cancel()
        if line.strip() != b"ready":
            self.popen.kill()
            self.popen.wait()
            raise SensorProcessError(
                f"sensor {self.spec.modality!r} did not start within {timeout_s:.0f} s: {self.last_words()}"
            )

    def start(self, start_ns: int) -> None:
        """Tell a ready process when the playback starts."""
        assert self.popen.stdin is not None
        self.popen.stdin.write(f"{start_ns}\n".encode())
        self.popen.stdin.flush()

    def last_words(self) -> str:
        """The end of what the process wrote to stderr."""
        self._errors.seek(0)
        return self._errors.read()[-2000:].decode("utf-8", "replace").strip() or "it said nothing"

    def stop(self, number: int, timeout_s: float) -> dict[str, Any] | None:
        """Send a signal and wait; the process's counts, or None if it could not say them."""
        if self.popen.poll() is None:
            self.popen.send_signal(number)
        try:
            out, _ = self.popen.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            out, _ = self.popen.communicate()
        self._errors.close()
        try:
            counts = json.loads(out.splitlines()[-1])
        except (IndexError, json.JSONDecodeError, UnicodeDecodeError):
            return None
        return counts if isinstance(counts, dict) else None


class SensorGroup:
    """The sensor processes of a rig, playing on one beat. Made by :func:`spawn_sensors`; a context manager."""

    def __init__(self, specs: Iterable[PlaySpec], *, timeout_s: float = 120.0) -> None:
        """Start the processes and wait until all have opened their source; nothing plays yet.

        Raises:
            SensorProcessError: one of them died or took longer than ``timeout_s``; the others are stopped.
        """
        self.start_ns: int | None = None
        self._timeout_s = timeout_s
        self._processes: dict[str, _Process] = {}
        self._counts: dict[str, list[dict[str, Any]]] = {}
        try:
            for spec in specs:
                self._processes[spec.modality] = _Process(spec)
            for process in self._processes.values():
                process.wait_ready(timeout_s)
        except BaseException:
            self.stop()
            raise

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities that this group plays."""
        return tuple(self._processes)

    def start(self, lead_s: float = 0.25) -> int:
        """Start playing on all sensors together.

        Args:
            lead_s: how far ahead the start is set, so that every process hears of it in time.

        Returns:
            CLOCK_MONOTONIC time of the start, in ns; fault schedules and the truth count from there.
        """
        self.start_ns = time.monotonic_ns() + round(lead_s * NS_PER_S)
        for process in self._processes.values():
            process.start(self.start_ns)
        return self.start_ns

    def alive(self, modality: str) -> bool:
        """Whether the process of a modality runs."""
        return self._processes[modality].popen.poll() is None

    def check(self) -> None:
        """Raise SensorProcessError, with its last words, if a process died that was not killed on purpose."""
        for modality, process in self._processes.items():
            code = process.popen.poll()
            if code is not None and code not in (-signal.SIGKILL, -signal.SIGTERM, 0):
                raise SensorProcessError(f"sensor {modality!r} died with code {code}: {process.last_words()}")

    def kill(self, modality: str) -> None:
        """End one process at once (SIGKILL), as when a driver crashes."""
        self._processes[modality].popen.kill()
        self._processes[modality].popen.wait()

    def restart(self, modality: str) -> None:
        """Start the process of a modality again, after it was killed; it joins in where the others are.

        Raises:
            SensorProcessError: it does not start.
            ValueError: the group has not been started.
        """
        if self.start_ns is None:
            raise ValueError("restart() needs a group that has been started")
        old = self._processes[modality]
        self._collect(modality, old.stop(signal.SIGTERM, _STOP_S))
        fresh = _Process(old.spec)
        self._processes[modality] = fresh
        fresh.wait_ready(self._timeout_s)
        fresh.start(self.start_ns)

    def stop(self) -> dict[str, list[dict[str, Any]]]:
        """Stop all processes and wait for them; may be called again.

        Returns:
            Modality -> the counts of each of its processes; those that were killed left none.
        """
        for process in self._processes.values():
            if process.popen.poll() is None:
                process.popen.terminate()
        for modality, process in self._processes.items():
            self._collect(modality, process.stop(signal.SIGTERM, _STOP_S))
        self._processes = {}
        return self._counts

    def _collect(self, modality: str, counts: dict[str, Any] | None) -> None:
        if counts is not None:
            self._counts.setdefault(modality, []).append(counts)

    def __enter__(self) -> SensorGroup:
        """The group itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop all processes."""
        self.stop()


def spawn_sensors(
    modalities: Iterable[str],
    endpoint: str,
    *,
    data: Literal["recorded", "synthetic"],
    data_dir: Path | None = None,
    source_seed: int = 0,
    split: Split = "test",
    plan_seed: int = 0,
    faults: FaultSchedule | None = None,
    timeout_s: float = 120.0,
) -> SensorGroup:
    """Start one sensor process per modality and wait until they are ready; then call ``start()``.

    Args:
        modalities: which sensors to play.
        endpoint: the node's frames endpoint.
        data: recorded or synthetic.
        data_dir: folder of the packs, for recorded data.
        source_seed: of the pairing or the scenes.
        split: which moments to play.
        plan_seed: of the order of moments.
        faults: what goes wrong, and when, counted from the start; nothing if not given.
        timeout_s: how long opening the source may take.

    Raises:
        SensorProcessError: a process died or took too long.
    """
    schedule = faults or FaultSchedule()
    specs = [
        PlaySpec(
            modality=modality,
            endpoint=endpoint,
            data=data,
            data_dir=data_dir.resolve() if data_dir is not None else None,
            source_seed=source_seed,
            split=split,
            plan_seed=plan_seed,
            faults=schedule,
            parent=os.getpid(),
        )
        for modality in modalities
    ]
    return SensorGroup(specs, timeout_s=timeout_s)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
