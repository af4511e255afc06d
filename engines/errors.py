"""Errors of the engines, in one place so that backends and their callers share them.

Every message names the thing, what was expected, what came, and what to do about it.
"""

from __future__ import annotations

from configs.errors import AfterimageError


class EngineError(AfterimageError):
    """An engine or session that cannot be used: stale, broken, built for other versions, or not an engine at all."""


class InputError(EngineError, ValueError):
    """An argument of a session call that does not fit; names the modality, the expected and the given value."""


class BackendUnavailableError(EngineError):
    """A backend whose library or device is missing; names the extra to install or the missing driver."""


class CompileError(EngineError):
    """A graph that a backend cannot compile; names the graph, the node and the library's own words."""
