"""Afterimage: a streaming multimodal sensor runtime that fills a dead sensor from a learned model, and says so.

What integrators import: :class:`Client` reads decisions, :class:`Sensor` publishes samples. Both come from
``runtime`` and are imported on first use, so ``import afterimage`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runtime.client import Client
    from runtime.sensors.process import Sensor

__version__ = "0.1.0"
__all__ = ["Client", "Sensor", "__version__"]

_HOMES = {"Client": "runtime.client", "Sensor": "runtime.sensors.process"}


def __getattr__(name: str) -> Any:
    """Import ``Client`` and ``Sensor`` when they are first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'afterimage' has no attribute {name!r}; it has {__all__}")
    return getattr(import_module(_HOMES[name]), name)
