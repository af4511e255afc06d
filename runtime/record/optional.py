"""Libraries of the ``record`` extra, imported when first needed."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType


class MissingExtraError(Exception):
    """A library of an extra that is not installed; the message is the command that installs it."""


def load_mcap(module: str) -> ModuleType:
    """Import a module of the mcap library.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as e:
        raise MissingExtraError(
            f"recordings need {e.name}, which is not installed: pip install 'afterimage[record]'"
        ) from e
