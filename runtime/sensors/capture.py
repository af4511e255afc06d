"""Capture: reading a source until told to stop, whatever the source does; what it cannot survive, its process does.

A source may fail (it is closed, and opened again after a pause that grows), go silent, repeat itself, run wild, or
never return from a call. The last cannot be helped from inside: :attr:`Capture.overdue` tells the process, which ends
itself so that the operating system takes the device back, and a fresh one begins (:mod:`runtime.sensors.supervisor`).
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from runtime.core.clock import NS_PER_S, nanoseconds
from runtime.rig import SensorSpec
from runtime.rig.source_options import SyntheticOptions
from runtime.sensors.chunking import Chunker
from runtime.sensors.sample_source import (
    Delivery,
    EndOfSource,
    Samples,
    SampleSource,
    SourceLostError,
)
from runtime.sensors.transform import Transformer, plan

_FOREVER_NS = 2**63 - 1


@dataclass(frozen=True, slots=True)
class CapturePolicy:
    """When a source is given up and how soon it is tried again.

    Attributes:
        read_s: what a read is asked to wait at most; also how soon a source notices that it shall stop.
        hung_s: a read that is not back this long after that never will be.
        frozen_s: a live image that stays the same to the bit for this long is an old buffer.
        runaway: a live camera that gives this many times its rate for a second gives old buffers.
        first_pause_s: before it is opened again; doubles with every failure.
        longest_pause_s: and no longer than this.
        settled_s: of good samples after which the pause is short again.
    """

    read_s: float = 0.2
    hung_s: float = 5.0
    frozen_s: float = 2.0
    runaway: float = 4.0
    first_pause_s: float = 0.1
    longest_pause_s: float = 5.0
    settled_s: float = 5.0


class Capture:
    """One sensor's source, read by one thread; another may look at :attr:`overdue` and :meth:`counts`."""

    def __init__(
        self,
        sensor: SensorSpec,
        source: SampleSource,
        deliver: Callable[[Samples], None],
        *,
        policy: CapturePolicy | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Prepare; nothing is opened.

        Args:
            sensor: what has to come out.
            source: what is read.
            deliver: gets every message of the rig's form, in the thread of :meth:`run`.
            policy: when to give up.
            say: told, for a person, when the source opens and when it is lost.
        """
        self.delivery: Delivery | None = None
        self._sensor = sensor
        self._source = source
        self._deliver = deliver
        self._policy = policy or CapturePolicy()
        self._say = say
        self._options = sensor.source or SyntheticOptions()
        self._stall_ns = nanoseconds(max(self._options.stall_s, 5 * sensor.period_s))
        self._image = sensor.kind in ("rgb", "depth")
        self._chunker = Chunker(sensor)
        self._counts: Counter[str] = Counter()
        self._reopened: Counter[str] = Counter()
        self._back_by_ns = _FOREVER_NS
        self._pause_s = self._policy.first_pause_s
        self._complaint = ""

    @property
    def overdue(self) -> bool:
        """Whether the source did not return from a call that should be over."""
        return time.monotonic_ns() > self._back_by_ns

    def counts(self) -> dict[str, Any]:
        """What happened so far, ready for JSON; any thread may ask.

        ``messages`` delivered, ``opened`` times, ``lost`` by reason (each is a closing), ``gaps`` that the source told,
        ``discarded`` samples that were left over before them, and what the source itself counts.
        """
        own = dict(getattr(self._source, "counts", {}))
        return {
            "messages": self._counts["messages"],
            "opened": self._counts["opened"],
            "lost": dict(self._reopened),
            "gaps": self._counts["gaps"],
            "discarded": self._chunker.discarded,
            "source": own,
        }

    def run(self, stop: threading.Event) -> None:
        """Read until told to stop, or until the source has ended.

        Raises:
            SourceRefusedError: the source cannot feed this sensor.
        """
        while not stop.is_set():
            try:
                self._session(stop)
            except EndOfSource:
                self._say("has been played")
                return
            except SourceLostError as e:
                self._reopened[e.reason] += 1
                if str(e) != self._complaint:  # once, not with every attempt
                    self._complaint = str(e)
                    self._say(f"{e.reason}: {e}; trying again")
            finally:
                self._guarded(self._source.close, self._policy.hung_s)
            self._chunker.reset()
            if stop.wait(self._pause_s):
                return
            self._pause_s = min(2 * self._pause_s, self._policy.longest_pause_s)

    def _session(self, stop: threading.Event) -> None:
        """From opening the source to losing it."""
        delivery = self._guarded(self._source.open, self._options.open_s)
        transformer = Transformer(plan(self._sensor, delivery))
        self.delivery = delivery
        self._counts["opened"] += 1
        watch = _Watch(self._sensor, delivery, self._policy, self._stall_ns)
        opened_ns = time.monotonic_ns()
        settled_ns = opened_ns + nanoseconds(self._policy.settled_s)
        announced = False
        while not stop.is_set():
            samples = self._guarded(
                lambda: self._source.read(self._policy.read_s), self._policy.read_s + self._policy.hung_s
            )
            now_ns = time.monotonic_ns()
            watch.judge(samples, now_ns)
            if samples is None:
                continue
            if not announced:
                announced, self._complaint = True, ""
                self._say(f"reads {delivery.description}, stamped by clock {samples.clock.id!r}")
            if now_ns > settled_ns:
                self._pause_s = self._policy.first_pause_s
            self._counts["gaps"] += samples.gap
            transformed = transformer.apply(samples)
            if transformed is None:
                continue
            for message in self._chunker.cut(transformed):
                self._deliver(message)
                self._counts["messages"] += 1

    def _guarded(self, call: Callable[[], Any], seconds: float) -> Any:
        """Do what may never return; until it does, :attr:`overdue` knows when it should have."""
        self._back_by_ns = time.monotonic_ns() + nanoseconds(seconds)
        try:
            return call()
        finally:
            self._back_by_ns = _FOREVER_NS


class _Watch:
    """What no library is believed: that samples come, that they change, and that they come no faster than they can."""

    def __init__(self, sensor: SensorSpec, delivery: Delivery, policy: CapturePolicy, stall_ns: int) -> None:
        self._delivery = delivery
        self._policy = policy
        self._stall_ns = stall_ns
        self._camera = delivery.live and sensor.kind in ("rgb", "depth")
        rate = delivery.rate_hz or sensor.rate_hz
        self._most = policy.runaway * rate + 10
        self._arrived_ns = self._changed_ns = self._second_ns = time.monotonic_ns()
        self._in_second = 0
        self._content = b""

    def judge(self, samples: Samples | None, now_ns: int) -> None:
        """Take in what a read gave.

        Raises:
            SourceLostError: nothing for too long, the same for too long, too much, or of another form than announced.
        """
        if samples is None:
            if now_ns - self._arrived_ns > self._stall_ns:
                raise SourceLostError(
                    "stalled", f"nothing for {(now_ns - self._arrived_ns) / NS_PER_S:.1f} s"
                )
            return
        self._arrived_ns = now_ns
        array = samples.array
        if array.shape[1:] != self._delivery.shape or array.dtype.name != self._delivery.dtype:
            raise SourceLostError(
                "changed",
                f"gives {array.dtype} {array.shape[1:]} after {self._delivery.dtype} {self._delivery.shape}",
            )
        if self._camera:
            self._judge_camera(array[-1].tobytes(), len(array), now_ns)

    def _judge_camera(self, content: bytes, count: int, now_ns: int) -> None:
        if content != self._content:
            self._content, self._changed_ns = content, now_ns
        elif now_ns - self._changed_ns > self._policy.frozen_s * NS_PER_S:
            raise SourceLostError("frozen", f"the same image for {self._policy.frozen_s:g} s")
        self._in_second += count
        if now_ns - self._second_ns > NS_PER_S:
            self._second_ns, self._in_second = now_ns, 0
        elif self._in_second > self._most:
            raise SourceLostError("runaway", f"more than {self._most:.0f} images in a second")
