"""Fixtures of the pipeline tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from pipeline_bench import SENSORS, Bench, bench_manifest, bench_rig

from engines.bundle import Manifest
from runtime.rig import Rig

# pytest imports by path (importlib mode), so the modules beside the tests have to be found some other way.
sys.path.insert(0, str(Path(__file__).parent))
# Failed assertions of this module show their values, as those of a test do.
pytest.register_assert_rewrite("checked_pipeline")


@pytest.fixture
def rig() -> Rig:
    return bench_rig()


@pytest.fixture
def manifest() -> Manifest:
    return bench_manifest()


@pytest.fixture
def bench(rig: Rig, manifest: Manifest) -> Bench:
    return Bench(rig, manifest)


@pytest.fixture
def live(bench: Bench) -> Bench:
    """A bench on which every modality is live."""
    bench.run(2.0)
    assert {m: bench.pipeline.state(m).value for m in SENSORS} == dict.fromkeys(SENSORS, "live")
    bench.events.clear()
    return bench
