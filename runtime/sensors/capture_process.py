"""The process of one sensor: ``python -m runtime.sensors.capture_process RIG/MODALITY``.

Its :class:`CaptureSpec` comes on stdin; the argument only names the process in lists of processes. One thread reads the
source and publishes; the main thread watches it. On stdout it writes the line ``ready`` when its source is open, and at
its end its counts as one line of JSON. SIGTERM or SIGINT ends it within a second, whatever the source is doing.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import sys
import threading
import time
from typing import Any

from pydantic import ValidationError

from configs.reading import StrictModel
from runtime.core.clock import NS_PER_S
from runtime.latency import LatencyReservoir
from runtime.logs import configure_logging_as_parent
from runtime.rig import Rig, SensorSpec
from runtime.rig.source_options import Source, Transform
from runtime.sensors.capture import Capture
from runtime.sensors.publisher import Sensor
from runtime.sensors.sample_source import SampleBlock, SourceRefusedError
from runtime.sensors.source_kinds import make_source
from runtime.signals.faults import FaultInjector, FaultSchedule
from runtime.stopping import stop_on_signals
from runtime.transport.clock_sync import ClockSync
from runtime.transport.endpoints import EndpointError
from runtime.transport.keys import KeysError, load_keys
from runtime.wire import Clock

REFUSED, HUNG = 2, 75
"""Exit codes: 2, this source can never feed this sensor; 75, a call of the source did not return, start me again."""
READY = "ready"

_logger = logging.getLogger("afterimage.sensors")
_LOOK_S = 0.05
_OVERDUE_LOOKS = 10
"""A call counts as hung when it is overdue this many looks in a row. One look is not enough: in a process that was
itself stopped for a while (SIGSTOP), the thread that reads needs a moment to come back."""
_LAST_CHANCE_S = 0.5


class RemoteNode(StrictModel):
    """A node on another machine: where its clock is measured, and who both sides are.

    Keys are given by name, so that no secret leaves its file.

    Attributes:
        control: the node's control endpoint.
        keys: name or secret file of one's own key pair.
        server_key: the node's public key: file, name, or 40 characters.
    """

    control: str
    keys: str
    server_key: str


class CaptureSpec(StrictModel):
    """Everything that the process of a sensor needs to know.

    It comes on stdin and not on the command line, which every user of the machine can read: addresses of cameras hold
    passwords.

    Attributes:
        rig: a rig of this one sensor.
        source: where its samples come from.
        transform: what is done to them.
        start_ns: CLOCK_MONOTONIC time at which the rig's sensors began together; faults and the plan of moments count
            from there. None: the process opens its source, writes ``ready`` and reads the time from stdin.
        endpoint: the node's frames endpoint.
        remote: what else is needed to reach a node on another machine.
        faults: what goes wrong on purpose, and when.
        parent: id of the process to end with; None: this one goes on without it.
    """

    rig: Rig
    source: Source | None
    transform: Transform | None
    start_ns: int | None
    endpoint: str
    remote: RemoteNode | None = None
    faults: FaultSchedule = FaultSchedule()
    parent: int | None = None

    @classmethod
    def of(cls, rig: Rig, modality: str, start_ns: int | None, *, endpoint: str, **more: Any) -> CaptureSpec:
        """The spec of one sensor of a rig; ``more`` are further fields."""
        sensor = rig.sensor(modality)
        alone = Rig(version=1, name=rig.name, sensors=(sensor,))
        return cls(
            rig=alone,
            source=sensor.source,
            transform=sensor.transform,
            start_ns=start_ns,
            endpoint=endpoint,
            **more,
        )

    @property
    def sensor(self) -> SensorSpec:
        """The sensor, with its source and transform."""
        return self.rig.sensors[0].model_copy(update={"source": self.source, "transform": self.transform})

    @property
    def title(self) -> str:
        """``RIG/MODALITY``: the name of the process in lists of processes."""
        return f"{self.rig.name}/{self.rig.sensors[0].modality}"


class _CommonStart:
    """The common start of the rig's sensors: in the spec, or told on stdin once all sources are open."""

    def __init__(self, start_ns: int | None) -> None:
        self._start_ns = start_ns
        self._announced = False

    def ns(self) -> int:
        """CLOCK_MONOTONIC time of the start; known when the source may be read."""
        assert self._start_ns is not None, "samples are read only after the start is known"
        return self._start_ns

    def wait(self, stop: threading.Event) -> None:
        """Say that the source is open, and wait until the start is known; returns with ``stop`` set if it never is."""
        if not self._announced:  # once: nobody reads a second one, and the pipe would fill
            self._announced = True
            print(READY, flush=True)
        while self._start_ns is None and not stop.is_set():
            readable, _, _ = select.select([sys.stdin], [], [], _LOOK_S)
            if readable:
                line = sys.stdin.readline()
                if line.strip():
                    self._start_ns = int(line)
                else:  # whoever started this process is gone, or needs it no more
                    stop.set()


class _Publishing:
    """Publishes what a capture delivers, through the fault schedule."""

    def __init__(
        self, spec: CaptureSpec, publisher: Sensor, node_clock: ClockSync | None, start: _CommonStart
    ) -> None:
        self._publisher = publisher
        self._node_clock = node_clock
        self._start = start
        self._injector = FaultInjector(spec.faults, spec.sensor.modality)
        self.counts = {"published": 0, "silenced": 0, "clock_unknown": 0}
        self.age = LatencyReservoir()

    def __call__(self, message: SampleBlock) -> None:
        here_ns = message.capture_ns - message.clock.offset_ns
        samples = self._injector.apply((here_ns - self._start.ns()) / NS_PER_S, message.array)
        # A sequence number that is left out tells the node that something is missing.
        if message.number is not None:
            self._publisher.sequence = message.number
        else:
            self._publisher.sequence += message.gap
        if samples is None:
            self._publisher.sequence += 1
            self.counts["silenced"] += 1
            return
        clock = self._on_node_clock(message.clock)
        if clock is None:
            # The node could not tell when this was captured: one message less is better than one at a wrong time.
            self._publisher.sequence += 1
            self.counts["clock_unknown"] += 1
            return
        self._publisher.publish(samples, message.capture_ns, clock)
        self.counts["published"] += 1
        self.age.add((time.monotonic_ns() - here_ns) / 1e6)

    def _on_node_clock(self, clock: Clock) -> Clock | None:
        """A clock with its offset to the node's clock instead of this machine's; None while that is not known."""
        if self._node_clock is None:
            return clock
        here = self._node_clock.clock()
        if here is None:
            return None
        return Clock(clock.id, clock.offset_ns + here.offset_ns, clock.uncertainty_ns + here.uncertainty_ns)

    def close(self) -> None:
        """Disconnect."""
        self._publisher.close()
        if self._node_clock is not None:
            self._node_clock.close()


def run_capture(spec: CaptureSpec, stop: threading.Event) -> tuple[int, dict[str, Any]]:
    """Capture until told to stop; the body of a sensor process.

    Returns:
        Exit code (0, REFUSED or HUNG) and the counts, with ``refused`` where that is the reason, and
        ``left_in_source`` where the reading thread is still in a call of the source: then the process has to end.
    """
    modality = spec.sensor.modality
    start, ending = _CommonStart(spec.start_ns), threading.Event()
    try:
        source = make_source(spec.sensor, start.ns)
        publishing = _connect(spec, start)
    except (SourceRefusedError, EndpointError, KeysError) as e:
        return REFUSED, {"modality": modality, "refused": str(e)}
    capture = Capture(spec.sensor, source, publishing, opened=lambda: start.wait(ending))
    failure: list[BaseException] = []

    def read() -> None:
        try:
            capture.run(ending)
        except BaseException as e:  # noqa: BLE001 carried to the main thread, which raises it
            failure.append(e)
        finally:
            publishing.close()

    thread = threading.Thread(target=read, name="capture", daemon=True)
    thread.start()
    hung = _watch(capture, thread, stop, spec.parent)
    if hung:
        text = f"{modality}: hung, the source did not return from a call; its process ends"
        _logger.warning(text, extra={"fields": {"modality": modality, "event": "hung"}})
    ending.set()
    thread.join(_LAST_CHANCE_S)
    counts: dict[str, Any] = {"modality": modality, **publishing.counts, **capture.counts()}
    counts["age_ms"] = publishing.age.summary()
    counts["left_in_source"] = thread.is_alive()
    if failure:
        if not isinstance(failure[0], SourceRefusedError):
            raise failure[0]
        return REFUSED, {**counts, "refused": str(failure[0])}
    return HUNG if hung else 0, counts


def _watch(capture: Capture, thread: threading.Thread, stop: threading.Event, parent: int | None) -> bool:
    """Wait for a reason to end: told to stop, the source was played, the parent is gone, or (True) a call hangs."""
    overdue = 0
    while thread.is_alive() and not stop.wait(_LOOK_S):
        if parent is not None and os.getppid() != parent:
            return False
        overdue = overdue + 1 if capture.overdue else 0
        if overdue >= _OVERDUE_LOOKS:
            return True
    return False


def _connect(spec: CaptureSpec, start: _CommonStart) -> _Publishing:
    modality, remote = spec.sensor.modality, spec.remote
    if remote is None:
        return _Publishing(spec, Sensor(spec.rig, modality, endpoint=spec.endpoint), None, start)
    keys = load_keys(remote.keys, remote.server_key)
    publisher = Sensor(spec.rig, modality, endpoint=spec.endpoint, keys=keys)
    node_clock = ClockSync(remote.control, "monotonic of this machine", keys=keys)
    return _Publishing(spec, publisher, node_clock, start)


def main() -> int:
    """A sensor process: capture until SIGTERM or SIGINT, then print the counts as one line of JSON.

    Returns:
        The exit code.
    """
    stop = stop_on_signals()
    configure_logging_as_parent()
    try:
        spec = CaptureSpec.model_validate_json(sys.stdin.readline())
    except ValidationError as e:
        print(f"sensor spec: {e}", file=sys.stderr)
        return REFUSED
    code, counts = run_capture(spec, stop)
    print(json.dumps(counts), flush=True)
    if counts.get("left_in_source"):
        # A thread is in a call of the library: an orderly exit would wait for it, or crash in it.
        with contextlib.suppress(OSError):
            sys.stderr.flush()
        os._exit(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
