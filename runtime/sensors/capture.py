"""Capture: reading a source until told to stop, whatever the source does.

A source may fail, go silent, repeat itself or run wild: it is closed, and opened again after a pause that grows. It may
also never return from a call. A thread cannot end such a call, so :attr:`Capture.overdue` tells the process, which ends
itself: the operating system takes the device back, and the supervisor starts a new process
(:mod:`runtime.sensors.supervisor`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from runtime.core.clock import NS_PER_S, nanoseconds
from runtime.logs import throttled
from runtime.rig import SensorSpec
from runtime.rig.source_options import SyntheticOptions
from runtime.sensors.chunking import Chunker
from runtime.sensors.sample_source import (
    Delivery,
    EndOfSource,
    SampleBlock,
    SampleSource,
    SourceLostError,
)
from runtime.sensors.transform import Transformer, plan

_logger = logging.getLogger("afterimage.sensors")
_FOREVER_NS = 2**63 - 1


@dataclass(frozen=True, slots=True)
class CapturePolicy:
    """When a source counts as lost, and how soon it is opened again.

    Attributes:
        read_s: a read is asked to wait this long at most; so long may also pass before a capture stops.
        hung_s: a read that takes this much longer than it was asked to is taken never to return.
        frozen_s: a live image that stays the same to the bit for this long is an old buffer.
        runaway: a live camera that gives this many times its rate for a second gives old buffers.
        first_pause_s: the pause before a lost source is opened again; it doubles with every failure.
        longest_pause_s: the limit of that pause.
        settled_s: after good samples for this long the pause is the first one again.
    """

    read_s: float = 0.2
    hung_s: float = 5.0
    frozen_s: float = 2.0
    runaway: float = 4.0
    first_pause_s: float = 0.1
    longest_pause_s: float = 5.0
    settled_s: float = 5.0


class Capture:
    """One sensor's source, read by one thread.

    Another thread may read :attr:`overdue`, :attr:`complaint` and :meth:`counts`.

    Attributes:
        delivery: what the source said when it was opened last; None before.
        complaint: why the source was lost last; empty once it delivers again.
    """

    def __init__(
        self,
        sensor: SensorSpec,
        source: SampleSource,
        deliver: Callable[[SampleBlock], None],
        *,
        policy: CapturePolicy | None = None,
        opened: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare; nothing is opened.

        Args:
            sensor: the form that messages must have.
            source: where samples are read.
            deliver: called with every message, in the form of the rig, in the thread of :meth:`run`.
            policy: when the source counts as lost.
            opened: called in the thread of :meth:`run` each time the source is open and fits the sensor; nothing is
                read before it returns.
        """
        self.delivery: Delivery | None = None
        self.complaint = ""
        self._sensor = sensor
        self._source = source
        self._deliver = deliver
        self._policy = policy or CapturePolicy()
        self._opened = opened
        self._options = sensor.source or SyntheticOptions()
        self._stall_ns = nanoseconds(max(self._options.stall_s, 5 * sensor.period_s))
        self._image = sensor.kind in ("rgb", "depth")
        self._chunker = Chunker(sensor)
        self._counts: Counter[str] = Counter()
        self._lost: Counter[str] = Counter()
        self._back_by_ns = _FOREVER_NS
        self._pause_s = self._policy.first_pause_s

    @property
    def overdue(self) -> bool:
        """Whether the source is still in a call that should have returned by now."""
        return time.monotonic_ns() > self._back_by_ns

    def counts(self) -> dict[str, Any]:
        """What happened so far, ready for JSON.

        Returns:
            ``messages`` delivered; ``opened``, how often the source was; ``lost``, how often it was closed again, by
            reason; ``gaps`` that the source reported; ``discarded`` samples, too few for a message before a gap;
            ``source``, the source's own counters.
        """
        own = dict(getattr(self._source, "counts", {}))
        return {
            "messages": self._counts["messages"],
            "opened": self._counts["opened"],
            "lost": dict(self._lost),
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
                self._log(logging.INFO, "has been played to its end", "ended")
                return
            except SourceLostError as e:
                self._lost[e.reason] += 1
                complaint = f"{e.reason}: {e}"
                if complaint != self.complaint:  # logged once, not with every attempt to open it
                    self.complaint = complaint
                    self._log(logging.WARNING, f"{complaint}; trying again", e.reason)
            finally:
                self._guarded(self._source.close, self._policy.hung_s)
            self._chunker.reset()
            if stop.wait(self._pause_s):
                return
            self._pause_s = min(2 * self._pause_s, self._policy.longest_pause_s)

    def _session(self, stop: threading.Event) -> None:
        """Open the source and read it until it is lost or the capture stops."""
        delivery = self._guarded(self._source.open, self._options.open_s)
        transformer = Transformer(plan(self._sensor, delivery))
        self.delivery = delivery
        self._counts["opened"] += 1
        self._opened()
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
                announced, self.complaint = True, ""
                text = f"reads {delivery.description}, stamped by clock {samples.clock.id!r}"
                self._log(logging.INFO, text, "opened")
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
        """Make a call that may never return; :attr:`overdue` is true once it takes longer than ``seconds``."""
        self._back_by_ns = time.monotonic_ns() + nanoseconds(seconds)
        try:
            return call()
        finally:
            self._back_by_ns = _FOREVER_NS

    def _log(self, level: int, text: str, event: str) -> None:
        modality = self._sensor.modality
        _logger.log(
            level,
            f"{modality}: {text}",
            extra=throttled(f"{modality} {event}", modality=modality, event=event),
        )


class _Watch:
    """Checks what no library is trusted with: that samples come, that they change, that their rate is possible."""

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

    def judge(self, samples: SampleBlock | None, now_ns: int) -> None:
        """Judge what a read returned.

        Raises:
            SourceLostError: nothing or the same image for too long, too many images, or another form than announced.
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
