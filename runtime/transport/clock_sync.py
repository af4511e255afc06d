"""Measuring a clock against the node's: the thread that keeps probing, so that the offset is known at any moment."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Self

from runtime.transport.clock_offset import DRIFT_PPM, OffsetEstimator
from runtime.transport.control import ControlClient
from runtime.transport.keys import Keys
from runtime.wire import Clock, WireError
from runtime.wire.control import probe_request, read_probe

_BURST = 8
"""Probes that follow each other quickly at the start, and again after a probe contradicted the earlier ones."""
_BURST_INTERVAL_S = 0.02


class ClockSync:
    """Measures a clock against a node's, from a thread of its own so that each answer is stamped when it comes.

    There is nothing to measure where sensor and node share a machine and both stamp with CLOCK_MONOTONIC. This is for
    sensors with another clock, or on another machine. A context manager.
    """

    def __init__(
        self,
        endpoint: str,
        clock_id: str,
        now: Callable[[], int] = time.monotonic_ns,
        *,
        keys: Keys | None = None,
        every_s: float = 1.0,
        drift_ppm: float = DRIFT_PPM,
    ) -> None:
        """Begin to measure; the node need not be there yet.

        Args:
            endpoint: the node's control endpoint.
            clock_id: name of the clock, for the record.
            now: reads the clock, in ns.
            keys: own pair and the node's public key; needed beyond this machine.
            every_s: seconds between probes, once the offset is known.
            drift_ppm: how fast the two clocks may run apart, in millionths.

        Raises:
            EndpointError: an address that is not allowed.
            KeysError: keys that cannot be used.
        """
        self._client = ControlClient(endpoint, keys)
        self._id, self._now, self._every_s = clock_id, now, every_s
        self._estimator = OffsetEstimator(drift_ppm)
        self._lock = threading.Lock()
        self._stop, self._settled = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._measure, name="clock sync", daemon=True)
        self._thread.start()

    def clock(self) -> Clock | None:
        """The clock with its offset and uncertainty as of now; None until the node has answered a first few probes.

        One answer is not enough. If the node was starting when it came, it leaves the offset uncertain by as long as
        that took; the next answers would then move the offset, and time would seem to run backwards.
        """
        if not self._settled.is_set():
            return None
        with self._lock:
            found = self._estimator.offset(self._now())
        return None if found is None else Clock(self._id, found.offset_ns, found.uncertainty_ns)

    def close(self) -> None:
        """Stop measuring; may be called again."""
        self._stop.set()
        self._thread.join()

    def __enter__(self) -> Self:
        """The measurement itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop measuring."""
        self.close()

    def _measure(self) -> None:
        with self._client:
            number, burst_left, wait_s = 0, _BURST, 0.0
            while not self._stop.wait(wait_s):
                number += 1
                reanchored = self._estimator.reanchored
                answered = self._probe(number)
                burst_left = _BURST if self._estimator.reanchored > reanchored else burst_left - answered
                if burst_left <= 0:
                    self._settled.set()
                wait_s = self._every_s if burst_left <= 0 else _BURST_INTERVAL_S

    def _probe(self, number: int) -> bool:
        """One round trip; False if none was completed in time."""
        if not self._client.send(probe_request(number, self._now())):
            return False
        end = time.monotonic() + min(1.0, self._every_s)
        while (left := end - time.monotonic()) > 0 and not self._stop.is_set():
            answer = self._client.receive(left)
            returned_ns = self._now()
            if answer is None:
                continue
            try:
                replied_to, probe = read_probe(answer, returned_ns)
            except WireError:
                continue
            if replied_to != number:
                continue  # the answer to an earlier probe: too late to tell much
            with self._lock:
                return self._estimator.add(probe)
        return False
