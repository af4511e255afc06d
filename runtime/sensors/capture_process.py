"""The process of one real sensor: ``python -m runtime.sensors.capture_process``, with a :class:`CaptureSpec` on stdin.

One thread reads the source and publishes; the main thread watches it. SIGTERM or SIGINT ends the process within a
second whatever the source is doing, with its counts as one line of JSON on stdout; what a person should know goes to
stderr.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from typing import Any

from pydantic import ValidationError

from configs.reading import StrictModel
from runtime.core.clock import NS_PER_S
from runtime.latency import LatencyReservoir
from runtime.rig import Rig, SensorSpec
from runtime.rig.source_options import Source, Transform
from runtime.sensors.capture import Capture
from runtime.sensors.publisher import Sensor
from runtime.sensors.sample_source import Samples, SourceRefusedError, make_source
from runtime.signals.faults import FaultInjector, FaultSchedule
from runtime.stopping import stop_on_signals
from runtime.transport.clock_sync import ClockSync
from runtime.transport.endpoints import EndpointError
from runtime.transport.keys import KeysError, load_keys
from runtime.wire import Clock

REFUSED, HUNG = 2, 75
"""Exit codes: this will never work; a call never returned, so start me again."""
_LOOK_S = 0.05
_LAST_CHANCE_S = 0.5


class RemoteNode(StrictModel):
    """A node on another machine: where its clock is measured, and who both sides are.

    Keys go by name, so that no secret leaves its file.

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
        epoch_ns: CLOCK_MONOTONIC time at which the rig's sensors began; faults and the synthetic plan count from there.
        endpoint: the node's frames endpoint.
        remote: what else is needed of a node on another machine.
        faults: what goes wrong on purpose, and when.
        parent: process id to end with; None runs on its own.
    """

    rig: Rig
    source: Source | None
    transform: Transform | None
    epoch_ns: int
    endpoint: str
    remote: RemoteNode | None = None
    faults: FaultSchedule = FaultSchedule()
    parent: int | None = None

    @classmethod
    def of(cls, rig: Rig, modality: str, epoch_ns: int, *, endpoint: str, **more: Any) -> CaptureSpec:
        """The spec of one sensor of a rig; ``more`` are further fields."""
        sensor = rig.sensor(modality)
        alone = Rig(version=1, name=rig.name, sensors=(sensor,))
        return cls(
            rig=alone,
            source=sensor.source,
            transform=sensor.transform,
            epoch_ns=epoch_ns,
            endpoint=endpoint,
            **more,
        )

    @property
    def sensor(self) -> SensorSpec:
        """The sensor, with its source and transform."""
        return self.rig.sensors[0].model_copy(update={"source": self.source, "transform": self.transform})


class _Publishing:
    """Publishes what a capture delivers, through the fault schedule."""

    def __init__(self, spec: CaptureSpec, publisher: Sensor, node_clock: ClockSync | None) -> None:
        self._publisher = publisher
        self._node_clock = node_clock
        self._epoch_ns = spec.epoch_ns
        self._injector = FaultInjector(spec.faults, spec.sensor.modality)
        self.counts = {"published": 0, "silenced": 0, "clock_unknown": 0}
        self.age = LatencyReservoir()

    def __call__(self, message: Samples) -> None:
        here_ns = message.capture_ns - message.clock.offset_ns
        samples = self._injector.apply((here_ns - self._epoch_ns) / NS_PER_S, message.array)
        # A number that is left out tells the node that something is missing.
        self._publisher.sequence += message.gap
        if samples is None:
            self._publisher.sequence += 1
            self.counts["silenced"] += 1
            return
        clock = self._on_node_clock(message.clock)
        if clock is None:
            # The node could not tell when this was captured: better a message less than one at a wrong time.
            self._publisher.sequence += 1
            self.counts["clock_unknown"] += 1
            return
        self._publisher.publish(samples, message.capture_ns, clock)
        self.counts["published"] += 1
        self.age.add((time.monotonic_ns() - here_ns) / 1e6)

    def _on_node_clock(self, clock: Clock) -> Clock | None:
        """A source's clock, known against this machine's, against the node's; None while that is not known."""
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
        Exit code (0, REFUSED or HUNG) and the counts, with ``refused`` where that is the reason. After HUNG, or where a
        source did not let go in time, a thread is left in the source's call: the process has to end.
    """
    modality = spec.sensor.modality

    def say(text: str) -> None:
        print(f"{modality}: {text}", file=sys.stderr, flush=True)

    try:
        source = make_source(spec.sensor, spec.epoch_ns)
        publishing = _connect(spec)
    except (SourceRefusedError, EndpointError, KeysError) as e:
        return REFUSED, {"modality": modality, "refused": str(e)}
    capture = Capture(spec.sensor, source, publishing, say=say)
    failure: list[BaseException] = []

    def read() -> None:
        try:
            capture.run(stop)
        except BaseException as e:  # noqa: BLE001 carried to the main thread, which raises it
            failure.append(e)
        finally:
            publishing.close()

    thread = threading.Thread(target=read, name="capture", daemon=True)
    thread.start()
    code = 0
    while thread.is_alive() and not stop.wait(_LOOK_S):
        if spec.parent is not None and os.getppid() != spec.parent:
            stop.set()
        elif capture.overdue:
            code = HUNG
            say("hung: the source did not return from a call; ending the process")
            stop.set()
    thread.join(_LAST_CHANCE_S)
    counts: dict[str, Any] = {"modality": modality, **publishing.counts, **capture.counts()}
    counts["age_ms"] = publishing.age.summary()
    counts["left_in_source"] = thread.is_alive()
    if failure:
        if not isinstance(failure[0], SourceRefusedError):
            raise failure[0]
        return REFUSED, {**counts, "refused": str(failure[0])}
    return code, counts


def _connect(spec: CaptureSpec) -> _Publishing:
    modality, remote = spec.sensor.modality, spec.remote
    if remote is None:
        return _Publishing(spec, Sensor(spec.rig, modality, endpoint=spec.endpoint), None)
    keys = load_keys(remote.keys, remote.server_key)
    publisher = Sensor(spec.rig, modality, endpoint=spec.endpoint, keys=keys)
    return _Publishing(spec, publisher, ClockSync(remote.control, "monotonic of this machine", keys=keys))


def main() -> int:
    """A sensor process: capture until SIGTERM or SIGINT, then print the counts as one line of JSON.

    Returns:
        The exit code.
    """
    stop = stop_on_signals()
    try:
        spec = CaptureSpec.model_validate_json(sys.stdin.readline())
    except ValidationError as e:
        print(f"sensor spec: {e}", file=sys.stderr)
        return REFUSED
    code, counts = run_capture(spec, stop)
    if "refused" in counts:
        print(counts["refused"], file=sys.stderr)
    print(json.dumps(counts), flush=True)
    if counts.get("left_in_source"):
        # A thread sits in a call of the library: leaving in order would wait for it, or crash in it.
        with contextlib.suppress(OSError):
            sys.stderr.flush()
        os._exit(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
