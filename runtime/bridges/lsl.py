"""The LSL bridge: a node's decisions and markers as Lab Streaming Layer outlets, on LSL's clock.

LSL announces its streams on the network and sends them unencrypted to whoever asks. What this bridge publishes can be
read by everybody whom LSL's own configuration admits.
"""

from __future__ import annotations

import logging
import platform
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from configs.errors import import_extra
from runtime.bridges.lsl_mapping import (
    StreamDescription,
    health_marker,
    label_marker,
    marker_stream,
    probability_sample,
    probability_stream,
)
from runtime.client import Client
from runtime.rig import Rig
from runtime.sensors.host_clocks import clock_beside_monotonic
from runtime.transport.keys import Keys
from runtime.wire import Decision, HealthEvent, Output

_POLL_S = 0.1
_BUFFERED_S = 30
_LOG = logging.getLogger("afterimage.bridges")


class LslOutlets:
    """The two outlets of a node: markers from the beginning, probabilities from the first decision on."""

    def __init__(self, rig: Rig, *, node_ahead_ns: Callable[[], int] = lambda: 0) -> None:
        """Open the marker outlet.

        Args:
            rig: of the node.
            node_ahead_ns: how far the node's clock is ahead of this machine's CLOCK_MONOTONIC; 0 on the same machine.

        Raises:
            MissingExtraError: mne-lsl is not installed.
        """
        self._lsl = import_extra("mne_lsl.lsl", "the LSL bridge")
        self._rig = rig
        self._node_ahead_ns = node_ahead_ns
        self._host = platform.node()
        self._markers = self._open(marker_stream(rig.name, self._host))
        self._probabilities: Any = None
        self._description: StreamDescription | None = None
        self._last: Decision | None = None
        self.published = 0

    def publish(self, message: Output) -> None:
        """Push a decision or a health event as samples and markers; other messages are ignored."""
        if isinstance(message, Decision):
            self._decide(message)
        elif isinstance(message, HealthEvent):
            self._mark(health_marker(message), message.at_ns)

    def close(self) -> None:
        """Take the outlets off the network."""
        self._markers = self._probabilities = None

    def lsl_time(self, node_ns: int) -> float:
        """A time on the node's clock as seconds on LSL's clock."""
        lsl = clock_beside_monotonic("lsl", lambda: round(self._lsl.local_clock() * 1e9))
        return (node_ns - self._node_ahead_ns() + lsl.offset_ns) / 1e9

    def _decide(self, decision: Decision) -> None:
        sample = None
        if self._description is not None:
            sample = probability_sample(decision, self._description.channels)
        if sample is None:  # the first decision, or a bundle with other classes, which need another stream
            self._description = probability_stream(decision, self._rig.tick.rate_hz, self._host)
            self._probabilities = None
            self._probabilities = self._open(self._description)
            sample = probability_sample(decision, self._description.channels)
        # Stamped with the deadline: unlike the moment of sending, it lies on the regular grid that the stream declares.
        self._probabilities.push_sample(
            np.asarray(sample, np.float32), timestamp=self.lsl_time(decision.deadline_ns)
        )
        self.published += 1
        marker = label_marker(decision, self._last)
        if marker is not None:
            self._mark(marker, decision.deadline_ns)
        self._last = decision

    def _mark(self, marker: str, node_ns: int) -> None:
        self._markers.push_sample([marker], timestamp=self.lsl_time(node_ns))

    def _open(self, stream: StreamDescription) -> Any:
        information = self._lsl.StreamInfo(
            stream.name, stream.type, len(stream.channels), stream.rate_hz, stream.dtype, stream.source_id
        )
        # The description is written by hand, because mne-lsl's own setters take only channel types that MNE knows.
        channels = information.desc.append_child("channels")
        for channel in stream.channels:
            child = channels.append_child("channel")
            for key in ("label", "type", "unit"):
                child.append_child_value(key, getattr(channel, key))
        information.desc.append_child_value("manufacturer", "afterimage")
        _LOG.info("LSL stream %r is open, with %d channels", stream.name, len(stream.channels))
        return self._lsl.StreamOutlet(information, max_buffered=_BUFFERED_S)


def bridge(
    rig: Rig,
    stop: threading.Event,
    *,
    endpoint: str | None = None,
    keys: Keys | None = None,
    node_ahead_ns: Callable[[], int] = lambda: 0,
    until_s: float | None = None,
) -> int:
    """Carry a node's decisions and health to LSL until told to stop.

    Args:
        rig: of the node.
        stop: ends the bridge when set.
        endpoint: the node's decisions endpoint; the rig's default if not given.
        keys: own pair and the node's public key; needed for a node on another machine.
        node_ahead_ns: see :class:`LslOutlets`.
        until_s: ends the bridge after this long.

    Returns:
        Number of decisions published.

    Raises:
        MissingExtraError: mne-lsl is not installed.
        EndpointError: an endpoint that is not allowed.
        KeysError: keys that cannot be used.
    """
    end_s = float("inf") if until_s is None else time.monotonic() + until_s
    outlets = LslOutlets(rig, node_ahead_ns=node_ahead_ns)
    try:
        with Client(rig, ("fused", "health"), endpoint=endpoint, keys=keys) as client:
            while not stop.is_set() and time.monotonic() < end_s:
                message = client.receive(_POLL_S)
                if message is not None:
                    outlets.publish(message)
    finally:
        outlets.close()
    return outlets.published
