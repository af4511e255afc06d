"""The root of all errors of Afterimage, and the error for an optional library that is not installed."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType


class AfterimageError(Exception):
    """An error that a user can mend; the message names the thing, what was expected, what came, and what to do.

    The command line shows it as one line and ends with code 2. Any other error is a fault of the program.
    """


_EXTRAS = {
    "brainflow": "brainflow",
    "depthai": "oak",
    "ezmsg": "bench",
    "matplotlib": "plot",
    "mcap": "record",
    "mne": "mne",
    "mne_lsl": "lsl",
    "onnx": "train",
    "prometheus_client": "view",
    "psutil": "bench",
    "pyrealsense2": "realsense",
    "pyxdf": "xdf",
    "safetensors": "train",
    "sounddevice": "audio",
    "soundfile": "audio",
    "starlette": "view",
    "torch": "train",
    "torchaudio": "train",
    "uvicorn": "view",
    "websockets": "view",
}
"""Library -> the extra that installs it."""


class MissingExtraError(AfterimageError):
    """A library of an extra is not installed; the message says what needs it, and the command that installs it."""


def import_extra(module: str, needed_by: str) -> ModuleType:
    """Import a library of an extra, or one of our modules that needs it.

    Args:
        module: to import.
        needed_by: subject of the message: ``recordings``, ``the live page``.

    Raises:
        MissingExtraError: the library is not installed.
        ModuleNotFoundError: a library is missing that no extra installs: the installation is broken.
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
