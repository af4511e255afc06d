"""The ``view`` extra: a web server and the Prometheus client, imported when the page is first served."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from runtime.record.optional import MissingExtraError


def load(module: str) -> ModuleType:
    """Import a module of the view that needs the extra.

    Raises:
        MissingExtraError: a library of the extra is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as e:
        raise MissingExtraError(
            f"the live page needs {e.name}, which is not installed: pip install 'afterimage[view]'"
        ) from e
