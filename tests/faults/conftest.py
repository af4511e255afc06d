"""What the tests of faults share: a rig of two cameras that is patient with a starved machine, and endpoints."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

# pytest imports by path (importlib mode), so the modules beside the tests have to be found some other way.
sys.path.insert(0, str(Path(__file__).parent))

from runtime.rig import Rig, load_rig


@pytest.fixture(scope="session")
def cameras() -> Rig:
    """RGB and depth; judged so patiently that a test machine without time for its processes is no fault."""
    rig = load_rig("commands-4")
    health = rig.health.model_copy(update={"silence_floor_s": 0.8, "late_s": 0.4})
    return rig.model_copy(update={"sensors": rig.sensors[:2], "health": health})


@pytest.fixture(scope="session")
def cameras_file(cameras: Rig, tmp_path_factory: pytest.TempPathFactory) -> str:
    """That rig as a file, for commands."""
    path = tmp_path_factory.mktemp("rig") / "cameras.yaml"
    path.write_text(yaml.safe_dump(cameras.model_dump(mode="json", exclude_defaults=True)))
    return str(path)
