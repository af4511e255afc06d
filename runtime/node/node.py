"""The node: sensors in, decisions out. A thin shell around :class:`~runtime.core.pipeline.Pipeline`.

One thread does everything, so nothing needs a lock and a tick never waits for another thread. Only another bundle is
opened beside it, in a thread of its own. Each turn of the loop first receives waiting messages, a bounded number so
that a flood cannot delay a tick. Then it does *one* thing: publish the ticks that are due, or encode one batch of
windows, or make one observation that somebody subscribes to, or wait.

The methods below are in the order in which a frame passes through them: receive (and catch up after a stall), take
the due windows, encode, tick, publish, observe.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Event
from types import TracebackType
from typing import Any

import numpy as np

from engines.errors import EngineError
from engines.session import Session
from runtime.core.accounting import sum_counters
from runtime.core.pipeline import DueWindow, Rejected, TickPlan
from runtime.core.worklist import EncodeJob, Job, ObserveJob, Worklist
from runtime.node.decisions import blank_evidence, fuse_plans
from runtime.node.hosting import HostedRig, check_rigs, counters_by_rig, host
from runtime.node.interpreter import interpreter_tuned
from runtime.node.log import NodeLog
from runtime.node.sockets import NodeSockets
from runtime.node.statistics import NodeStatistics, StatisticsTimer
from runtime.node.swapping import BundleSwap
from runtime.rig import FillPolicy, Rig
from runtime.transport.control import default_control
from runtime.transport.endpoints import Endpoints, default_endpoints
from runtime.wire import JOURNAL_PREFIX, STATISTICS, Output, Statistics, encode_output

_MESSAGES_PER_TURN = 64
_SHORT_JOB_NS = 20_000_000
"""After a job shorter than this, a due tick follows without another look at the sockets."""

_STALL_NS = 250_000_000
"""After a turn longer than this (stopped, starved, a slow engine) the node catches up before it judges anybody."""
_ARRIVAL_GRACE_S = 0.02
"""How long messages have, while catching up, to come out of ZeroMQ."""
_ARRIVAL_ROUNDS = 12
"""The grace is repeated up to this often while a live sensor's messages are so old that newer ones must be coming."""
_CATCH_UP_TURNS = 64
"""In each round up to this many times :data:`_MESSAGES_PER_TURN` are received."""

_LONGEST_WAIT_NS = 100_000_000
"""However far the next tick, a request to stop is noticed this soon."""


class Node:
    """The node of a rig, or of several: listens on ``endpoints.frames``, publishes on ``endpoints.decisions``.

    Once constructed, it is bound and warm, so sensors and readers may connect; :meth:`run` does the work, in the
    calling thread. Several rigs share the bundle, the sockets and the ticks: windows of one modality that are due
    together are encoded in one batch, and ticks that are due together are fused in one.
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
            session: the model; the caller closes it after the node. A session that the node changes to later, on
                command, is closed by the node.
            endpoints: where to listen and publish; the (first) rig's default if not given.
            control: where to answer sensors that measure their clocks, and commands; the rig's default if neither
                this nor ``endpoints`` is given, none if only ``endpoints`` are.
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
        self._log = NodeLog(clock)
        self._statistics = NodeStatistics()
        self._statistics_timer = StatisticsTimer()
        self._worklist = Worklist(session.maximum_batch)
        self._hosted: list[HostedRig] = []
        self._by_topic: dict[bytes, HostedRig] = {}
        self._turn_ns = 0
        needs_blank = "zero" in (*(r.fill for r in self.rigs), *self._compare)
        session.warm_up()
        self._blank = blank_evidence(session) if needs_blank else {}
        self._swap = BundleSwap(self.rigs, with_blank=needs_blank, on_failure=self._swap_failed)
        self._control = default_control(name) if control is None and endpoints is None else control
        self._sockets = NodeSockets(self.endpoints, self._control)
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
        self._log.started(self.rigs, self._session, self.endpoints, self._control)
        with interpreter_tuned(self._clock) as self._garbage:
            start_ns = self._turn_ns = self._clock()
            self._hosted = host(self.rigs, self._session, self._decisions, start_ns, compare=self._compare)
            for hosted in self._hosted:
                self._by_topic |= dict.fromkeys(hosted.topics, hosted)
                hosted.set_blank_evidence(self._blank)
            with self._statistics.run_measured(start_ns):
                yield

    def turn(self) -> int:
        """Receive what waits, then do one thing; within :meth:`running`.

        Returns:
            0 if there may be more to do, else for how many nanoseconds there is nothing to do unless a message comes.
        """
        self.receive()
        # The clock is read after receiving, which may be where a stall happened; the rest of the turn uses this time.
        if self._clock() - self._turn_ns > _STALL_NS:
            self._catch_up()
        now = self._turn_ns = self._clock()
        deadline = min(hosted.pipeline.wake_ns(now) for hosted in self._hosted)
        if now >= deadline:
            self._tick(now)
            return 0
        self._take_due_windows(now)
        self._publish_events()
        if self._statistics_timer.is_due(now, deadline):
            self._publish_statistics(now)
            return 0
        job = self._worklist.next(now, deadline)
        if job is not None:
            self._do(job)
            # A window that causes a tick causes it at once, unless the engine took so long that messages wait again.
            if self._clock() - now < _SHORT_JOB_NS:
                self._tick(self._clock())
            return 0
        if self._garbage.is_due(now, deadline):
            self._garbage.collect()
            return 0
        return min(deadline - now, _LONGEST_WAIT_NS)

    def receive(self) -> int:
        """Receive what waits in every socket, and do nothing else; :meth:`turn` does it first, within :meth:`running`.

        Returns:
            How many messages of sensors came, a bounded number.
        """
        new_subscriptions, commands = self._sockets.poll(self._clock)
        if any(JOURNAL_PREFIX.startswith(prefix) for prefix in new_subscriptions):
            self._hosted[0].begin_journal(self._clock())
        for command in commands:
            assert self._sockets.control is not None
            self._swap.start(command, self._sockets.control, self._session.manifest)
        first = self._hosted[0]
        count = 0
        for count, parts in enumerate(self._sockets.receive_frames(_MESSAGES_PER_TURN), 1):  # noqa: B007
            # What belongs to no rig is counted by the first one.
            hosted = first if len(self._hosted) == 1 else self._by_topic.get(bytes(parts[0][:512]), first)
            result = hosted.receive(parts, self._clock())
            if isinstance(result, Rejected):
                self._log.message_refused(hosted.rig.name, result)
        return count

    def wait(self, remaining_ns: int) -> None:
        """Wait for a message, but no longer than this many nanoseconds; between two calls of :meth:`turn`."""
        self._sockets.wait(remaining_ns)

    def await_subscriber(self, topic: bytes, timeout_s: float) -> bool:
        """Wait, before :meth:`run`, until somebody subscribes to a topic; False if nobody does in time."""
        return self._sockets.await_subscriber(topic, timeout_s)

    def statistics(self) -> dict[str, Any]:
        """Counters and latencies, ready for JSON; for the thread that runs the node, or after the run.

        ``cpu_seconds`` is the CPU time of the node's thread. Of several rigs, ``messages`` is the sum and ``rigs`` has
        each one's.
        """
        each = counters_by_rig(self._hosted)
        return {
            "rig": "+".join(rig.name for rig in self.rigs),
            "bundle": self._session.bundle_hash,
            "backend": self._session.backend,
            "fill": self.rig.fill,
            **self._statistics.run_time(self._clock()),
            "messages": sum_counters(each.values()),
            **({"rigs": each} if len(each) > 1 else {}),
            **self._statistics.summary(),
            "superseded_observations": self._worklist.superseded,
            "refused": self._sockets.refused(),
        }

    def counters(self) -> dict[str, Any]:
        """``messages`` of :meth:`statistics`: where every message went, in all rigs together."""
        return sum_counters(counters_by_rig(self._hosted).values())

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
        """After a stall: receive all that came meanwhile, encode the newest of it, and only then judge."""
        for _ in range(_ARRIVAL_ROUNDS):
            # ZeroMQ's own thread may have stalled too: until it has read them, messages that wait look like silence.
            # What its sockets cannot hold waits at the sensors, which may have to wait for a core.
            time.sleep(_ARRIVAL_GRACE_S)
            for _ in range(_CATCH_UP_TURNS):
                if not self.receive():
                    break
            if not any(hosted.pipeline.is_behind for hosted in self._hosted):
                break
        self._worklist.drop_windows()
        for hosted in self._hosted:
            self._encode_at_once(hosted, hosted.due_windows(self._clock()))

    def _take_due_windows(self, now: int) -> None:
        if self._worklist.wants_windows:
            for hosted in self._hosted:
                self._worklist.add_windows(hosted.due_windows(now), hosted.number)

    def _do(self, job: Job) -> None:
        """Do one job and learn how long it took."""
        begin = self._clock()
        if isinstance(job, EncodeJob):
            self._encode(job)
        else:
            self._observe(job, begin)
        duration = self._clock() - begin
        self._worklist.finished(job, duration)
        self._statistics.latency[job.stage].add(duration / 1e6)

    def _encode(self, job: EncodeJob) -> None:
        try:
            windows = [due.window for _, due in job.windows]
            batch = windows[0][np.newaxis] if len(windows) == 1 else np.stack(windows)
            evidence = self._session.encode(job.modality, batch)
        except EngineError as e:
            if job.rows > 1:  # one rig's window must not cost the others theirs
                for each in job.windows:
                    self._encode(EncodeJob(job.modality, (each,)))
                return
            self._engine_failed(job.stage, e)
            ((rig, _),) = job.windows
            self._hosted[rig].encode_failed(job.modality, self._clock(), str(e))
            return
        for (rig, due), row in zip(job.windows, evidence, strict=True):
            self._hosted[rig].store_evidence(job.modality, row, due.capture_ns)

    def _encode_at_once(self, hosted: HostedRig, windows: Sequence[DueWindow]) -> None:
        for due in windows:
            self._encode(EncodeJob(due.modality, ((hosted.number, due),)))

    def _tick(self, begin: int) -> None:
        """Fuse and publish the ticks that are due."""
        plans: list[tuple[HostedRig, TickPlan]] = []
        for hosted in self._hosted:
            if hosted.pipeline.wake_ns(begin) <= begin and (plan := hosted.tick(begin)) is not None:
                plans.append((hosted, plan))
                self._log.tick_planned(hosted.rig.name, plan.number)
        # Even if no tick is due; and before the decision that shows the change.
        self._publish_events()
        if not plans:
            return
        try:
            fused = fuse_plans(self._session, [plan for _, plan in plans])
        except EngineError as e:
            self._engine_failed("fuse", e)
            for hosted, _ in plans:
                hosted.pipeline.tick_failed()
            self._worklist.begin_interval(())
            return
        fuse_ms = (self._clock() - begin) / 1e6
        self._statistics.latency["fuse"].add(fuse_ms)
        observations: list[ObserveJob] = []
        for (hosted, plan), each in zip(plans, fused, strict=True):
            decision = hosted.maker.decision(plan, each, published_ns=self._clock(), fuse_ms=fuse_ms)
            self._publish(decision)
            self._statistics.tick_published(plan, begin, self._clock())
            hosted.pipeline.store_cross_checks(plan, each.cross_checks)
            observations += hosted.published(plan, self._decisions.subscribed)
        self._worklist.begin_interval(observations)
        self._adopt_successor()

    def _publish(self, message: Output) -> None:
        parts = encode_output(message)
        self._decisions.send(parts)
        topic = bytes(parts[0]).decode()
        self._statistics.published[topic] += 1

    def _publish_events(self) -> None:
        for hosted in self._hosted:
            for event in hosted.pipeline.events():
                self._publish(event)
                self._log.state_changed(event)

    def _observe(self, job: ObserveJob, begin: int) -> None:
        try:
            for observation in self._hosted[job.rig].observe(job, begin):
                self._publish(observation)
        except EngineError as e:
            self._engine_failed(job.stage, e)

    def _adopt_successor(self) -> None:
        """Between two ticks, let a bundle that is ready take over, and encode again what is live at once."""
        successor = self._swap.poll()
        if successor is None:
            return
        previous, self._session = self._session.bundle_hash, successor.session
        session = self._session
        self._worklist = Worklist(session.maximum_batch, superseded=self._worklist.superseded)
        for hosted in self._hosted:
            windows = hosted.replace_session(session, self._clock())
            hosted.set_blank_evidence(successor.blank)
            self._encode_at_once(hosted, windows)
        self._log.bundle_swapped(previous, session)
        self._swap.adopted(successor)

    def _publish_statistics(self, now: int) -> None:
        """Publish the statistics if somebody subscribes to them."""
        self._statistics_timer.restart(now)
        if self._decisions.subscribed(STATISTICS):
            self._publish(Statistics(self.rig.name, self._session.bundle_hash, now, self.statistics()))
            self._statistics_timer.published(self._clock() - now)

    def _engine_failed(self, stage: str, error: EngineError) -> None:
        self._statistics.failed(stage, str(error))
        self._log.engine_failed(stage, error)

    def _swap_failed(self, path: str, detail: str) -> None:
        self._statistics.failed("swap", detail)
        self._log.swap_failed(path, detail)
