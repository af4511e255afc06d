"""The node: sensors in, decisions out. A thin shell around :class:`~runtime.core.pipeline.Pipeline`.

One thread does everything, so nothing needs a lock and a tick cannot wait for another thread. A turn of
its loop takes in waiting messages (a bounded number, so that a flood cannot hold up a tick), then does
*one* thing: publish the ticks that are due, or encode one batch of windows, or make one observation that somebody
listens to, or wait. Only another bundle is opened beside it, in a thread of its own.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Event
from types import TracebackType
from typing import Any

import numpy as np

from engines.errors import EngineError
from engines.session import Session
from runtime.core.accounting import add_counters
from runtime.core.clock import NS_PER_S
from runtime.core.pipeline import Pipeline, TickPlan
from runtime.core.worklist import EncodeJob, Job, Worklist
from runtime.node.decisions import blank_evidence, fuse_plans
from runtime.node.hosting import HostedRig, check_rigs, host
from runtime.node.interpreter import interpreter_held_back
from runtime.node.journal import JournaledPipeline
from runtime.node.sockets import NodeSockets
from runtime.node.statistics import NodeStatistics
from runtime.node.swapping import BundleSwap
from runtime.rig import FillPolicy, Rig
from runtime.transport.control import default_control
from runtime.transport.endpoints import Endpoints, default_endpoints
from runtime.wire import JOURNAL_PREFIX, STATISTICS, Output, Statistics, encode_output

_MESSAGES_PER_TURN = 64
_HEARD_NS = 20_000_000
"""A tick may follow a job that was shorter than this without another look at the sockets."""

_HELD_UP_NS = 250_000_000
_ARRIVAL_GRACE_S = 0.02
"""After being held up (stopped, starved, a slow engine) this long, messages have this long to come out of ZeroMQ."""
_ARRIVAL_ROUNDS = 12
"""And again, up to so many times, while those of a live sensor that came are so old that newer ones must be coming."""
_CATCH_UP_TURNS = 64
"""What came meanwhile is taken in before anything else, up to this many times :data:`_MESSAGES_PER_TURN`."""

_LONGEST_WAIT_NS = 100_000_000
"""However far the next tick, a request to stop is heard this soon."""

_COLLECT_EVERY_NS = NS_PER_S
_COLLECT_SLACK_NS = 15_000_000
"""Garbage is collected about once a second, and only when the next tick is at least this far."""

_STATISTICS_EVERY_NS = NS_PER_S
_STATISTICS_COST_NS = 2_000_000
"""What summing up is taken to cost before it was done once."""


class Node:
    """The node of a rig, or of several: listens on ``endpoints.frames``, publishes on ``endpoints.decisions``.

    Made, it is bound and warm: sensors and readers may connect. :meth:`run` does the work, in the calling
    thread. Several rigs share the bundle, the sockets and the ticks: windows of one modality that are due together are
    encoded in one batch, and ticks that are due together are fused in one.
    """

    def __init__(
        self,
        rig: Rig | Sequence[Rig],
        session: Session,
        endpoints: Endpoints | None = None,
        *,
        control: str | None = None,
        compare: Sequence[FillPolicy] = (),
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """Check, warm up, and bind.

        Args:
            rig: the sensors and policies; or several rigs of different names that the bundle fits.
            session: the model; the caller closes it after the node. One that the node was told to go on with later is
                the node's own.
            endpoints: where to listen and publish; the (first) rig's default if not given.
            control: where to answer sensors that measure their clocks and whoever commands; the rig's default if no
                endpoint is given, none if ``endpoints`` are given alone.
            compare: other fill policies whose decisions to publish beside the rig's own.
            clock: now in ns; must be the clock that sensors of this machine stamp their captures with.

        Raises:
            RigError: a rig does not feed the session's bundle, or two have one name.
            EndpointError: an endpoint that is not allowed or taken.
            EngineError: the session fails.
        """
        self.rigs: tuple[Rig, ...] = (rig,) if isinstance(rig, Rig) else tuple(rig)
        check_rigs(self.rigs, session.manifest)
        name = self.rigs[0].name
        self.endpoints = endpoints or default_endpoints(name)
        self._session = session
        self._compare = tuple(compare)
        self._clock = clock
        self._statistics = NodeStatistics()
        self._worklist = Worklist(session.maximum_batch)
        self._hosted: list[HostedRig] = []
        self._by_topic: dict[bytes, Pipeline] = {}
        self._started_ns = 0
        self._cpu_ns = 0
        self._collected_ns = 0
        self._cpu_started_ns: int | None = None
        self._told_ns = 0
        self._turned_ns = 0
        self._telling_ns = _STATISTICS_COST_NS
        needs_blank = "zero" in (*(r.fill for r in self.rigs), *self._compare)
        session.warm_up()
        self._blank = blank_evidence(session) if needs_blank else {}
        self._swap = BundleSwap(self.rigs, with_blank=needs_blank)
        control = default_control(name) if control is None and endpoints is None else control
        self._sockets = NodeSockets(self.endpoints, control)
        self._decisions = self._sockets.decisions

    @property
    def rig(self) -> Rig:
        """The rig; the first one of several."""
        return self.rigs[0]

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
        with self.running():
            while not (stop is not None and stop.is_set()):
                if until_ns is not None and self._clock() >= until_ns:
                    break
                wait_ns = self.turn()
                if wait_ns:
                    self.wait(wait_ns)
        return self.statistics()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Start the clock of the ticks; for callers that take :meth:`turn` after turn and :meth:`wait` themselves.

        Raises:
            RuntimeError: the node has been run before.
        """
        if self._hosted:
            raise RuntimeError("a node runs once; make another one")
        with interpreter_held_back():
            self._started_ns = self._collected_ns = self._turned_ns = self._clock()
            self._hosted = host(
                self.rigs, self._session, self._decisions, self._started_ns, compare=self._compare
            )
            for hosted in self._hosted:
                self._by_topic |= dict.fromkeys(hosted.topics, hosted.pipeline)
                for modality, evidence in self._blank.items():
                    hosted.pipeline.set_blank_evidence(modality, evidence)
            self._cpu_started_ns = time.thread_time_ns()
            try:
                yield
            finally:
                self._cpu_ns, self._cpu_started_ns = time.thread_time_ns() - self._cpu_started_ns, None

    def turn(self) -> int:
        """Take in what waits, then do one thing; for :meth:`running`.

        Returns:
            0 if there may be more to do, else how many nanoseconds nothing needs doing unless a message comes.
        """
        self._hear()
        # Asked after hearing, which may be where it was held up; from here on nothing looks at another time than this.
        if self._clock() - self._turned_ns > _HELD_UP_NS:
            self._catch_up()
        now = self._turned_ns = self._clock()
        deadline = min(hosted.pipeline.wake_ns(now) for hosted in self._hosted)
        if now >= deadline:
            self._tick(now)
            return 0
        if self._worklist.wants_windows:
            for hosted in self._hosted:
                self._worklist.add_windows(hosted.pipeline.due_windows(now), hosted.number)
        self._publish_events()
        if now - self._told_ns > _STATISTICS_EVERY_NS and deadline - now > 2 * self._telling_ns:
            self._tell_statistics(now)
            return 0
        job = self._worklist.next(now, deadline)
        if job is not None:
            self._do(job)
            # A window that brings a tick brings it at once, unless the engine took so long that messages wait again.
            if self._clock() - now < _HEARD_NS:
                self._tick(self._clock())
            return 0
        if now - self._collected_ns > _COLLECT_EVERY_NS and deadline - now > _COLLECT_SLACK_NS:
            gc.collect()
            self._collected_ns = self._clock()
            return 0
        return min(deadline - now, _LONGEST_WAIT_NS)

    def wait(self, remaining_ns: int) -> None:
        """Wait for a message, but not beyond a time from now; between two calls of :meth:`turn`."""
        self._sockets.wait(remaining_ns)

    def await_subscriber(self, topic: bytes, timeout_s: float) -> bool:
        """Wait, before :meth:`run`, until somebody subscribes to a topic; False if nobody does in time."""
        return self._sockets.await_subscriber(topic, timeout_s)

    def statistics(self) -> dict[str, Any]:
        """Counters and latencies, ready for JSON; for the thread that runs the node, or after the run.

        ``cpu_seconds`` is the CPU time of the node's thread. Of several rigs, ``messages`` is the sum and ``rigs`` has
        each one's.
        """
        if self._cpu_started_ns is not None:
            self._cpu_ns = time.thread_time_ns() - self._cpu_started_ns
        each = self._counters_by_rig()
        return {
            "rig": "+".join(rig.name for rig in self.rigs),
            "bundle": self._session.bundle_hash,
            "backend": self._session.backend,
            "fill": self.rig.fill,
            "seconds": (self._clock() - self._started_ns) / 1e9 if self._hosted else 0.0,
            "cpu_seconds": self._cpu_ns / 1e9,
            "messages": _summed(each),
            **({"rigs": each} if len(each) > 1 else {}),
            **self._statistics.summary(),
            "superseded_observations": self._worklist.superseded,
            "refused": self._sockets.refused(),
        }

    def counters(self) -> dict[str, Any]:
        """``messages`` of :meth:`statistics`: where every message went, in all rigs together."""
        return _summed(self._counters_by_rig())

    def _counters_by_rig(self) -> dict[str, dict[str, Any]]:
        return {hosted.rig.name: hosted.pipeline.counters() for hosted in self._hosted}

    def durations_ms(self, stage: str) -> list[float]:
        """The durations of one stage in milliseconds: all of them, in order, up to the reservoir's capacity."""
        return self._statistics.latency[stage].kept()

    def close(self) -> None:
        """Close the sockets; may be called again. The caller's session stays open."""
        self._sockets.close()
        self._swap.close()

    def __enter__(self) -> Node:
        """The node itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the sockets."""
        self.close()

    def _catch_up(self) -> None:
        """After being held up: take in all that came meanwhile, encode the newest of it, and only then judge."""
        for _ in range(_ARRIVAL_ROUNDS):
            # ZeroMQ's own thread may have been held up too: until it has read them, messages that wait look like
            # silence. What its sockets cannot hold waits at the sensors, which may have to wait for a core.
            time.sleep(_ARRIVAL_GRACE_S)
            for _ in range(_CATCH_UP_TURNS):
                if not self._hear():
                    break
            if not any(hosted.pipeline.is_behind for hosted in self._hosted):
                break
        self._worklist.drop_windows()
        for hosted in self._hosted:
            for due in hosted.pipeline.due_windows(self._clock()):
                self._encode(EncodeJob(due.modality, ((hosted.number, due),)))

    def _hear(self) -> int:
        """Take in what waits in every socket; gives how many messages of sensors came."""
        fresh, commands = self._sockets.news(self._clock)
        if any(JOURNAL_PREFIX.startswith(prefix) for prefix in fresh):
            self._introduce()
        for command in commands:
            assert self._sockets.control is not None
            self._swap.begin(command, self._sockets.control, self._session.manifest)
        first = self._hosted[0].pipeline
        count = 0
        for count, parts in enumerate(self._sockets.frames_waiting(_MESSAGES_PER_TURN), 1):  # noqa: B007
            # What is no rig's is the first one's to count.
            pipeline = first if len(self._hosted) == 1 else self._by_topic.get(bytes(parts[0][:512]), first)
            pipeline.receive(parts, self._clock())
        return count

    def _introduce(self) -> None:
        pipeline = self._hosted[0].pipeline
        if isinstance(pipeline, JournaledPipeline):
            pipeline.introduce(self._clock())

    def _do(self, job: Job) -> None:
        """Do one job and learn how long it took."""
        begin = self._clock()
        if isinstance(job, EncodeJob):
            self._encode(job)
        else:
            try:
                for observation in self._hosted[job.rig].observe(job, begin):
                    self._publish(observation)
            except EngineError as e:
                self._statistics.failed(job.stage, e)
        duration = self._clock() - begin
        self._worklist.finished(job, duration)
        self._statistics.latency[job.stage].add(duration / 1e6)

    def _encode(self, job: EncodeJob) -> None:
        try:
            windows = [due.window for _, due in job.dues]
            batch = windows[0][np.newaxis] if len(windows) == 1 else np.stack(windows)
            evidence = self._session.encode(job.modality, batch)
        except EngineError as e:
            if job.rows > 1:  # one rig's window must not cost the others theirs
                for each in job.dues:
                    self._encode(EncodeJob(job.modality, (each,)))
                return
            self._statistics.failed(job.stage, e)
            ((rig, _),) = job.dues
            self._hosted[rig].pipeline.encode_failed(job.modality, self._clock(), str(e))
            return
        for (rig, due), row in zip(job.dues, evidence, strict=True):
            self._hosted[rig].pipeline.store_evidence(job.modality, row, due.capture_ns)

    def _tick(self, begin: int) -> None:
        """Fuse and publish the ticks that are due."""
        due: list[tuple[HostedRig, TickPlan]] = []
        for hosted in self._hosted:
            if hosted.pipeline.wake_ns(begin) <= begin and (plan := hosted.pipeline.tick(begin)) is not None:
                due.append((hosted, plan))
        # Also where no tick is due; and before the decision that shows the change.
        self._publish_events()
        if not due:
            return
        try:
            fused = fuse_plans(self._session, [plan for _, plan in due])
        except EngineError as e:
            self._statistics.failed("fuse", e)
            for hosted, _ in due:
                hosted.pipeline.tick_failed()
            self._worklist.ticked(())
            return
        fuse_ms = (self._clock() - begin) / 1e6
        self._statistics.latency["fuse"].add(fuse_ms)
        wanted = []
        for (hosted, plan), each in zip(due, fused, strict=True):
            decision = hosted.maker.decision(plan, each, published_ns=self._clock(), fuse_ms=fuse_ms)
            self._publish(decision)
            self._note_latency(plan, begin)
            hosted.pipeline.witnessed(plan, each.said)
            wanted += hosted.ticked(plan, self._decisions.subscribed)
        self._worklist.ticked(wanted)
        self._go_on_with_successor()

    def _note_latency(self, plan: TickPlan, begin: int) -> None:
        sent_ns, latency = self._clock(), self._statistics.latency
        latency["tick"].add((sent_ns - begin) / 1e6)
        latency["tick_lateness"].add((sent_ns - plan.deadline_ns) / 1e6)
        if plan.capture_ns is not None:
            latency["frame_to_decision"].add((sent_ns - plan.capture_ns) / 1e6)

    def _go_on_with_successor(self) -> None:
        """Between two ticks, let a bundle that is ready take over: what is live is encoded again at once."""
        successor = self._swap.take(self._statistics.failed)
        if successor is None:
            return
        session = self._session = successor.session
        self._worklist = Worklist(session.maximum_batch, superseded=self._worklist.superseded)
        for hosted in self._hosted:
            windows = hosted.replace_session(session, self._clock())
            for modality, evidence in successor.blank.items():
                hosted.pipeline.set_blank_evidence(modality, evidence)
            for due in windows:
                self._encode(EncodeJob(due.modality, ((hosted.number, due),)))
        self._swap.made(successor)

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

    def _publish_events(self) -> None:
        for hosted in self._hosted:
            for event in hosted.pipeline.events():
                self._publish(event)


def _summed(counters_by_rig: dict[str, dict[str, Any]]) -> dict[str, Any]:
    total: dict[str, Any] = {}
    for counters in counters_by_rig.values():
        add_counters(total, counters)
    return total
