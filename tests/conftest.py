"""Fixtures that tests of several packages share."""

from __future__ import annotations

import os
from pathlib import Path

# Before anything imports torch: its threads spin while they wait, which on a busy two-core machine makes
# small networks tens of times slower than one thread does.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small real bundle of all four modalities of commands-4; read only: copy it before changing it."""
    pytest.importorskip("torch", reason="the tiny bundle is exported with torch, which is not installed")
    from tiny_bundle import build_tiny_bundle

    folder = tmp_path_factory.mktemp("tiny") / "bundle"
    build_tiny_bundle(folder)
    return folder


@pytest.fixture(scope="session")
def images_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of RGB and depth only: live a tenth of a second after the first frames. Read only."""
    pytest.importorskip("torch", reason="the tiny bundle is exported with torch, which is not installed")
    from tiny_bundle import build_tiny_bundle

    folder = tmp_path_factory.mktemp("images") / "bundle"
    build_tiny_bundle(folder, ("rgb", "depth"))
    return folder
