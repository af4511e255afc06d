"""Libraries of optional extras, imported when first needed; what is missing is named with the line that installs it."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

_EXTRAS = {
    "brainflow": "brainflow",
    "depthai": "oak",
    "mcap": "record",
    "mne": "mne",
    "mne_lsl": "lsl",
    "prometheus_client": "view",
    "pyrealsense2": "realsense",
    "pyxdf": "xdf",
    "sounddevice": "audio",
    "soundfile": "audio",
    "starlette": "view",
    "uvicorn": "view",
    "websockets": "view",
}
"""Library -> the extra that brings it."""


class MissingExtraError(Exception):
    """A library of an extra that is not installed; the message says what needs it, and the command that installs it."""


def import_extra(module: str, needed_by: str) -> ModuleType:
    """Import a library of an extra, or a module of ours that needs one.

    Args:
        module: to import.
        needed_by: subject of the message: ``recordings``, ``the live page``.

    Raises:
        MissingExtraError: the library is not installed.
        ModuleNotFoundError: something is missing that no extra brings: a broken installation.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as e:
        missing = (e.name or module).split(".")[0]
        extra = _EXTRAS.get(missing, _EXTRAS.get(module.split(".")[0]))
        if extra is None:
            raise
        raise MissingExtraError(
            f"{needed_by}: needs {missing}, which is not installed: pip install 'afterimage[{extra}]'"
        ) from e
