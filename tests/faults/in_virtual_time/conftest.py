"""What the fault tests in virtual time share: rigs of two sensors, sessions that judge content, endpoints."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

# pytest imports by path (importlib mode), so the modules beside the tests have to be found some other way.
sys.path.insert(0, str(Path(__file__).parent))

from virtual_run import noise

from engines.opening import open_session
from engines.session import Session
from runtime.core import quality
from runtime.rig import Rig, load_rig
from runtime.transport.endpoints import Endpoints


def open_pair(rig: Rig, folder: Path) -> Iterator[Session]:
    """A session for the sensors of a rig; its content checks know what they deliver while nothing is wrong."""
    pytest.importorskip("torch", reason="the tiny bundle is exported with torch, which is not installed")
    from tiny_bundle import build_tiny_bundle, make_specs

    chance = np.random.default_rng(0)
    thresholds = {}
    for spec in make_specs(rig.modality_names):
        windows = (noise(spec.kind, chance, spec.window_shape).astype(spec.dtype) for _ in range(32))
        thresholds[spec.name] = quality.thresholds_from(
            spec.kind, [quality.measure(spec.kind, w) for w in windows]
        )
    build_tiny_bundle(folder, rig.modality_names, health_thresholds=thresholds)
    with open_session(folder) as session:
        yield session


@pytest.fixture(scope="session")
def images_rig() -> Rig:
    """RGB and depth of commands-4: live a tenth of a second after their first frames."""
    rig = load_rig("commands-4")
    return rig.model_copy(update={"sensors": rig.sensors[:2]})


@pytest.fixture(scope="session")
def signals_rig() -> Rig:
    """Audio and EEG of commands-4: chunks of samples, windows of one second and of three."""
    rig = load_rig("commands-4")
    return rig.model_copy(update={"sensors": rig.sensors[2:]})


@pytest.fixture(scope="session")
def images_session(images_rig: Rig, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    yield from open_pair(images_rig, tmp_path_factory.mktemp("images") / "bundle")


@pytest.fixture(scope="session")
def signals_session(signals_rig: Rig, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    yield from open_pair(signals_rig, tmp_path_factory.mktemp("signals") / "bundle")


@pytest.fixture
def endpoints() -> Iterator[Endpoints]:
    # Not tmp_path: its length would not fit into the address of a Unix socket.
    with tempfile.TemporaryDirectory(prefix="ai-") as name:
        yield Endpoints(f"ipc://{name}/frames", f"ipc://{name}/decisions")
