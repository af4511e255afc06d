"""Afterimage: a streaming multimodal sensor runtime that fills a dead sensor from a learned model, and says so.

What integrators import: :class:`Client` reads decisions, :class:`Sensor` publishes samples, :class:`Labeller` publishes
labels, :class:`SessionWriter` makes sessions of arrays, :class:`AfterimageError` is the root of every error that a user
can mend. They are imported on first use, so ``import afterimage`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from configs.errors import AfterimageError
    from runtime.client import Client
    from runtime.sensors.publisher import Sensor
    from runtime.sessions.labelling import Labeller
    from runtime.sessions.session import SessionWriter

__version__ = "0.1.0"
__all__ = ["AfterimageError", "Client", "Labeller", "Sensor", "SessionWriter", "__version__"]

_HOMES = {
    "AfterimageError": "configs.errors",
    "Client": "runtime.client",
    "Labeller": "runtime.sessions.labelling",
    "SessionWriter": "runtime.sessions.session",
    "Sensor": "runtime.sensors.publisher",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'afterimage' has no attribute {name!r}; it has {__all__}")
    return getattr(import_module(_HOMES[name]), name)
