"""What the fault tests in virtual time share: rigs of two sensors, sessions that judge content."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# pytest imports by path (importlib mode), so the modules beside the tests have to be found some other way.
sys.path.insert(0, str(Path(__file__).parent))

from virtual_run import open_calm_session

from engines.session import Session
from runtime.rig import Rig, load_rig


@pytest.fixture(scope="session")
def signals_rig() -> Rig:
    """Audio and EEG of commands-4: chunks of samples, windows of one second and of three."""
    rig = load_rig("commands-4")
    return rig.model_copy(update={"sensors": rig.sensors[2:]})


@pytest.fixture(scope="session")
def images_session(images_rig: Rig, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    yield from open_calm_session(images_rig, tmp_path_factory.mktemp("images") / "bundle")


@pytest.fixture(scope="session")
def signals_session(signals_rig: Rig, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    yield from open_calm_session(signals_rig, tmp_path_factory.mktemp("signals") / "bundle")
