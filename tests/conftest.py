"""Fixtures that tests of several packages share."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

# Before anything imports torch: its threads spin while they wait, which on a busy two-core machine makes
# small networks tens of times slower than one thread does.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from runtime.rig import Rig, load_rig
from runtime.transport.endpoints import Endpoints


@pytest.fixture
def socket_folder() -> Iterator[Path]:
    """An empty folder for Unix sockets; tmp_path is often too long for the address of one."""
    with tempfile.TemporaryDirectory(prefix="ai-") as folder:
        yield Path(folder)


@pytest.fixture
def endpoints(socket_folder: Path) -> Endpoints:
    """Where a node of the test listens and publishes."""
    return Endpoints(f"ipc://{socket_folder}/frames", f"ipc://{socket_folder}/decisions")


@pytest.fixture(scope="session")
def images_rig() -> Rig:
    """RGB and depth of commands-4."""
    rig = load_rig("commands-4")
    return rig.model_copy(update={"sensors": rig.sensors[:2]})


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
    """A bundle of RGB and depth only: live a tenth of a second after the first frames. Read only."""
    pytest.importorskip("torch", reason="the tiny bundle is exported with torch, which is not installed")
    from tiny_bundle import build_tiny_bundle

    folder = tmp_path_factory.mktemp("images") / "bundle"
    build_tiny_bundle(folder, ("rgb", "depth"))
    return folder
