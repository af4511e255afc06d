"""Fixtures that tests of several packages share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small real bundle of all four modalities of commands-4; read only: copy it before changing it."""
    pytest.importorskip("torch", reason="the tiny bundle is exported with torch, which is not installed")
    from tiny_bundle import build_tiny_bundle

    folder = tmp_path_factory.mktemp("tiny") / "bundle"
    build_tiny_bundle(folder)
    return folder
