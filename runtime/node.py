"""The node: sensors in, decisions out. A thin shell around :class:`~runtime.core.pipeline.Pipeline`.

One thread does everything, so nothing needs a lock and a tick cannot wait for another thread. A turn of
its loop takes in waiting messages (a bounded number, so that a flood cannot hold up a tick), then does
*one* thing: publish the tick that is due, or encode one window, or make one observation that somebody
listens to, or wait.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from threading import Event
from types import TracebackType
from typing import Any, Literal

import numpy as np
import zmq

from engines.errors import EngineError
from engines.session import Session
from runtime.core.pipeline import Pipeline, State, TickPlan
from runtime.core.worklist import EncodeJob, Job, ObserveJob, Worklist
from runtime.decisions import DecisionMaker
from runtime.journal import JournaledPipeline
from runtime.rig import FillPolicy, Rig, check_rig_feeds_bundle
from runtime.statistics import NodeStatistics
from runtime.transport.control import ControlServer, default_control
from runtime.transport.endpoints import Endpoints, default_endpoints
from runtime.transport.sockets import DecisionSender, FrameReceiver
from runtime.wire import (
    JOURNAL_PREFIX,
    STATISTICS,
    Output,
    Statistics,
    best_topic,
    encode_output,
    imputed_topic,
)

_MESSAGES_PER_TURN = 64
_LONGEST_WAIT_NS = 100_000_000
"""However far the next tick, a request to stop is heard this soon."""

_COLLECT_EVERY_NS = 1_000_000_000
_COLLECT_SLACK_NS = 15_000_000
"""Garbage is collected about once a second, and only when the next tick is at least this far."""

_STATISTICS_EVERY_NS = 1_000_000_000
_STATISTICS_COST_NS = 2_000_000
"""What summing up is taken to cost before it was done once."""


class Node:
    """A rig's node: listens on ``endpoints.frames``, publishes on ``endpoints.decisions``.

    Made, it is bound and warm: sensors and readers may connect. :meth:`run` does the work, in the calling
    thread.
    """

    def __init__(
        self,
        rig: Rig,
        session: Session,
        endpoints: Endpoints | None = None,
        *,
        control: str | None = None,
        compare: Sequence[FillPolicy] = (),
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """Check, warm up, and bind.

        Args:
            rig: the sensors and policies.
            session: the model; the caller closes it after the node.
            endpoints: where to listen and publish; the rig's default if not given.
            control: where to answer sensors that measure their clocks; the rig's default if no endpoint is given, none
                if ``endpoints`` are given alone.
            compare: other fill policies whose decisions to publish beside the rig's own.
            clock: now in ns; must be the clock that sensors of this machine stamp their captures with.

        Raises:
            RigError: the rig does not feed the session's bundle.
            EndpointError: an endpoint that is not allowed or taken.
            EngineError: the session fails.
        """
        check_rig_feeds_bundle(rig, session.manifest)
        self.rig = rig
        self.endpoints = endpoints or default_endpoints(rig.name)
        self._session = session
        self._manifest = session.manifest
        self._compare = tuple(p for p in compare if p != rig.fill)
        self._clock = clock
        self._maker = DecisionMaker(rig, session)
        self._statistics = NodeStatistics()
        self._worklist = Worklist()
        self._plan: TickPlan | None = None
        self._pipeline: JournaledPipeline | None = None
        self._started_ns = 0
        self._cpu_ns = 0
        self._collected_ns = 0
        self._cpu_started_ns: int | None = None
        self._told_ns = 0
        self._telling_ns = _STATISTICS_COST_NS
        self._awaited: set[bytes] = set()
        session.warm_up()
        self._blank = self._encode_blank() if "zero" in (rig.fill, *self._compare) else {}
        control = default_control(rig.name) if control is None and endpoints is None else control
        with ExitStack() as opened:
            self._frames = opened.enter_context(
                FrameReceiver(self.endpoints.frames, keys=self.endpoints.keys)
            )
            self._decisions = opened.enter_context(
                DecisionSender(self.endpoints.decisions, keys=self.endpoints.keys)
            )
            self._control = (
                None
                if control is None
                else opened.enter_context(ControlServer(control, keys=self.endpoints.keys))
            )
            self._sockets = opened.pop_all()

    def run(self, stop: Event | None = None, *, until_ns: int | None = None) -> dict[str, Any]:
        """Work until told to stop.

        Args:
            stop: ends the run when set.
            until_ns: ends the run at this time of the node's clock; None runs on.

        Returns:
            :meth:`statistics` of the run.

        Raises:
            RuntimeError: the node has been run before.
        """
        if self._pipeline is not None:
            raise RuntimeError("a node runs once; make another one")
        with _collector_held_back():
            self._started_ns = self._collected_ns = self._clock()
            pipeline = JournaledPipeline(
                self.rig,
                self._manifest,
                self._started_ns,
                self._decisions,
                backend=self._session.backend,
                compare=self._compare,
            )
            for modality, evidence in self._blank.items():
                pipeline.set_blank_evidence(modality, evidence)
            self._pipeline = pipeline
            poller = zmq.Poller()
            poller.register(self._frames.socket, zmq.POLLIN)
            poller.register(self._decisions.socket, zmq.POLLIN)
            if self._control is not None:
                poller.register(self._control.socket, zmq.POLLIN)
            self._cpu_started_ns = time.thread_time_ns()
            while not (stop is not None and stop.is_set()):
                if until_ns is not None and self._clock() >= until_ns:
                    break
                self._turn(pipeline, poller)
            self._cpu_ns, self._cpu_started_ns = time.thread_time_ns() - self._cpu_started_ns, None
        return self.statistics()

    def await_subscriber(self, topic: bytes, timeout_s: float) -> bool:
        """Wait, before :meth:`run`, until somebody subscribes to a topic; False if nobody does in time."""
        end = time.monotonic() + timeout_s
        while not self._decisions.subscribed(topic):
            if time.monotonic() > end:
                return False
            time.sleep(0.01)
            self._awaited |= self._decisions.update_subscriptions()
        return True

    def statistics(self) -> dict[str, Any]:
        """Counters and latencies, ready for JSON; for the thread that runs the node, or after the run.

        ``cpu_seconds`` is the CPU time of the node's thread.
        """
        if self._cpu_started_ns is not None:
            self._cpu_ns = time.thread_time_ns() - self._cpu_started_ns
        counters = self._pipeline.counters() if self._pipeline is not None else {}
        return {
            "rig": self.rig.name,
            "bundle": self._session.bundle_hash,
            "backend": self._session.backend,
            "fill": self.rig.fill,
            "seconds": (self._clock() - self._started_ns) / 1e9 if self._pipeline is not None else 0.0,
            "cpu_seconds": self._cpu_ns / 1e9,
            "messages": counters,
            **self._statistics.summary(),
            "superseded_observations": self._worklist.superseded,
            "refused": {
                "frames": self._frames.refused(),
                "decisions": self._decisions.refused(),
                "control": {} if self._control is None else self._control.refused(),
            },
        }

    def close(self) -> None:
        """Close the sockets; may be called again. The session stays open: it is the caller's."""
        self._sockets.close()

    def __enter__(self) -> Node:
        """The node itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the sockets."""
        self.close()

    def _turn(self, pipeline: JournaledPipeline, poller: zmq.Poller) -> None:
        """Take in what waits, then do one thing."""
        fresh, self._awaited = self._awaited | self._decisions.update_subscriptions(), set()
        if any(JOURNAL_PREFIX.startswith(prefix) for prefix in fresh):
            pipeline.introduce(self._clock())
        if self._control is not None:
            self._control.answer_waiting(self._clock)
        for _ in range(_MESSAGES_PER_TURN):
            parts = self._frames.receive()
            if parts is None:
                break
            pipeline.receive(parts, self._clock())
        now = self._clock()
        deadline = pipeline.wake_ns(now)
        if now >= deadline:
            self._tick(pipeline)
            return
        if self._worklist.wants_windows:
            self._worklist.add_windows(pipeline.due_windows(now))
        self._publish_events(pipeline)
        if now - self._told_ns > _STATISTICS_EVERY_NS and deadline - now > 2 * self._telling_ns:
            self._tell_statistics(now)
            return
        job = self._worklist.next(now, deadline)
        if job is not None:
            self._do(job, pipeline)
            return
        if now - self._collected_ns > _COLLECT_EVERY_NS and deadline - now > _COLLECT_SLACK_NS:
            gc.collect()
            self._collected_ns = self._clock()
            return
        self._wait(poller, min(deadline - now, _LONGEST_WAIT_NS))

    def _wait(self, poller: zmq.Poller, remaining_ns: int) -> None:
        """Wait for a message, but not beyond a time from now."""
        # poll counts whole milliseconds; the rest is slept, so that a tick starts on its deadline and not
        # before.
        if remaining_ns >= 1_000_000:
            poller.poll(remaining_ns // 1_000_000)
        else:
            time.sleep(remaining_ns / 1e9)

    def _do(self, job: Job, pipeline: Pipeline) -> None:
        """Do one job and learn how long it took."""
        begin = self._clock()
        try:
            if isinstance(job, EncodeJob):
                evidence = self._session.encode(job.due.modality, job.due.window[np.newaxis])[0]
                pipeline.store_evidence(job.due.modality, evidence, job.due.capture_ns)
            else:
                self._observe(job, pipeline)
        except EngineError as e:
            self._statistics.failed(job.stage, e)
            if isinstance(job, EncodeJob):
                pipeline.encode_failed(job.due.modality, self._clock(), str(e))
        duration = self._clock() - begin
        self._worklist.finished(job, duration)
        self._statistics.latency[job.stage].add(duration / 1e6)

    def _tick(self, pipeline: Pipeline) -> None:
        """Fuse and publish the tick that is due."""
        begin = self._clock()
        plan = pipeline.tick(begin)
        if plan is None:
            return
        try:
            fused = self._maker.fuse(plan)
        except EngineError as e:
            self._statistics.failed("fuse", e)
            self._publish_events(pipeline)
            self._worklist.ticked(())
            return
        fused_ns = self._clock()
        fuse_ms = (fused_ns - begin) / 1e6
        self._statistics.latency["fuse"].add(fuse_ms)
        self._publish(self._maker.decision(plan, fused, published_ns=self._clock(), fuse_ms=fuse_ms))
        sent_ns = self._clock()
        latency = self._statistics.latency
        latency["tick"].add((sent_ns - begin) / 1e6)
        latency["tick_lateness"].add((sent_ns - plan.deadline_ns) / 1e6)
        if plan.capture_ns is not None:
            latency["frame_to_decision"].add((sent_ns - plan.capture_ns) / 1e6)
        self._publish_events(pipeline)
        self._plan = plan
        self._worklist.ticked(self._wanted())

    def _wanted(self) -> list[ObserveJob]:
        """The observations that somebody listens to now."""
        wanted = []
        for modality in self.rig.modality_names:
            imputed = self._decisions.subscribed(imputed_topic(modality))
            best = self._decisions.subscribed(best_topic(modality))
            if imputed or best:
                wanted.append(ObserveJob(modality, imputed, best))
        return wanted

    def _observe(self, job: ObserveJob, pipeline: Pipeline) -> None:
        """Publish what is wanted of one modality, as of the last tick."""
        plan = self._plan
        assert plan is not None  # observations are only wanted after a tick
        measured = plan.modalities[job.modality].state is State.LIVE
        window = pipeline.latest_window(job.modality) if measured else None
        streams: list[Literal["imputed", "best"]] = []
        if job.best:
            streams.append("best")
        if job.imputed:
            streams.append("imputed")
        made = self._maker.observations(plan, job.modality, window, streams, published_ns=self._clock())
        for observation in made:
            self._publish(observation)

    def _tell_statistics(self, now: int) -> None:
        """Publish the statistics if somebody reads them, and learn how long that took."""
        self._told_ns = now
        if self._decisions.subscribed(STATISTICS):
            self._publish(Statistics(self.rig.name, self._session.bundle_hash, now, self.statistics()))
            # Bounded, so that one slow time does not end it for good.
            self._telling_ns = min(self._clock() - now, 4 * _STATISTICS_COST_NS)

    def _publish(self, message: Output) -> None:
        parts = encode_output(message)
        self._decisions.send(parts)
        topic = bytes(parts[0]).decode()
        self._statistics.published[topic] += 1

    def _publish_events(self, pipeline: Pipeline) -> None:
        for event in pipeline.events():
            self._publish(event)

    def _encode_blank(self) -> dict[str, np.ndarray[Any, Any]]:
        """Evidence of an all-zero window of every modality: what a system without a presence mask feeds."""
        return {
            m.name: self._session.encode(m.name, np.zeros((1, *m.window_shape), dtype=m.dtype))[0]
            for m in self._manifest.modalities
        }


@contextmanager
def _collector_held_back() -> Iterator[None]:
    """No garbage collection by itself: what a tick leaves behind is collected between ticks, when there is time.

    What was loaded before is left out of it. Entered before the clock of the ticks starts, because a full collection
    of a large process takes longer than a tick.
    """
    was_enabled = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if was_enabled:
            gc.enable()
