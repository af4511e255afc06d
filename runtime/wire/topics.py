"""Topics: the first part of every message, and what ZeroMQ subscriptions match by prefix.

A subscription to ``imputed/rgb`` also matches ``imputed/rgb2``, so a subscriber must compare the whole topic of a
message.
"""

from __future__ import annotations

FRAME_PREFIX = b"frame/"
"""Frames from sensors: ``frame/<rig>/<modality>``."""
FUSED = b"fused"
"""One :class:`~runtime.wire.Decision` per tick."""
HEALTH = b"health"
"""One :class:`~runtime.wire.HealthEvent` per change of a modality's state."""
IMPUTED_PREFIX = b"imputed/"
"""``imputed/<modality>``: an :class:`~runtime.wire.Observation` per tick while there is time for it, estimated by the
model from the *other* live modalities, so that it can be compared with the measurement."""
STATISTICS = b"statistics"
"""One :class:`~runtime.wire.Statistics` per second, while somebody subscribes."""
BEST_PREFIX = b"best/"
"""``best/<modality>``: an :class:`~runtime.wire.Observation` per tick, measured while live, imputed while not."""


def frame_topic(rig: str, modality: str) -> bytes:
    """Topic of a sensor's frames: ``frame/<rig>/<modality>``."""
    return FRAME_PREFIX + f"{rig}/{modality}".encode()


def imputed_topic(modality: str) -> bytes:
    """Topic of the model's estimate of one modality."""
    return IMPUTED_PREFIX + modality.encode()


def best_topic(modality: str) -> bytes:
    """Topic of the best knowledge of one modality: measured while live, imputed while not."""
    return BEST_PREFIX + modality.encode()
