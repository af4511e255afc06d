from __future__ import annotations

import pytest
from small_packs import write_small_packs

from runtime.signals.recorded import RecordedSource
from runtime.signals.synthetic import SyntheticSource

LENGTHS = {"rgb": 1, "depth": 1, "audio": 16000, "eeg": 768}


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> RecordedSource:
    return RecordedSource(write_small_packs(tmp_path_factory.mktemp("packs")), pairings=1)


@pytest.fixture(scope="session")
def synthetic() -> SyntheticSource:
    return SyntheticSource(counts={"train": 12, "validation": 4, "test": 4})


@pytest.fixture(scope="session")
def lengths() -> dict[str, int]:
    return dict(LENGTHS)
