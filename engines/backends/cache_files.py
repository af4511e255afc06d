"""Cache files that make the next build or load faster: kernels and timings for one GPU. They may be deleted any time.

They lie outside the engine folder, because that is the same on every machine: in ``$AFTERIMAGE_CACHE``, else
``$XDG_CACHE_HOME/afterimage``, else ``~/.cache/afterimage``. A faulty cache file is never an error: one that is absent,
damaged or unreadable counts as empty, and one that cannot be written is not kept.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from pathlib import Path

_LOG = logging.getLogger("afterimage.engines.cache")
_DIGEST_SIZE = 32


def cache_folder() -> Path:
    """Where cache files go; it need not exist."""
    if chosen := os.environ.get("AFTERIMAGE_CACHE"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "afterimage"


def read_cache(path: Path) -> bytes:
    """The content that :func:`write_cache` wrote; empty if there is no such file or it is damaged.

    A digest precedes the content, so that a library's native code never parses a damaged file.
    """
    try:
        content = path.read_bytes()
    except OSError as e:
        if path.exists():
            _LOG.info("cache file %s cannot be read: %s", path, e)
        return b""
    digest, blob = content[:_DIGEST_SIZE], content[_DIGEST_SIZE:]
    if hashlib.sha256(blob).digest() != digest:
        _LOG.info("cache file %s is damaged; its content is built again", path)
        return b""
    return blob


def write_cache(path: Path, blob: bytes) -> None:
    """Replace a cache file atomically, in a folder that only this user may enter, because its content is executed."""
    partial: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as f:
            f.write(hashlib.sha256(blob).digest() + blob)
        os.replace(partial, path)
    except OSError as e:
        _LOG.info("cache file %s cannot be written: %s", path, e)
        if partial is not None:
            Path(partial).unlink(missing_ok=True)
