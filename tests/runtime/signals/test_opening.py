from __future__ import annotations

from pathlib import Path

import pytest
from small_packs import write_small_packs

from runtime.signals.opening import find_data_dir, open_source
from runtime.signals.packs import PackError


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.delenv("AFTERIMAGE_DATA", raising=False)


def test_argument_then_environment_then_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_data_dir() is None
    (tmp_path / "shared" / "data").mkdir(parents=True)
    assert find_data_dir() == Path("../shared/data")
    monkeypatch.setenv("AFTERIMAGE_DATA", "/named")
    assert find_data_dir() == Path("/named")
    assert find_data_dir(Path("given")) == Path("given")


def test_auto_is_synthetic_without_packs_and_recorded_with_them(tmp_path: Path) -> None:
    assert open_source("auto").name == "synthetic"
    write_small_packs(tmp_path / "shared" / "data")
    assert open_source("auto").name == "recorded"
    assert open_source("synthetic").name == "synthetic"


def test_recorded_without_packs_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(PackError, match=r"--data DIR or \$AFTERIMAGE_DATA with asl_rgbd\.npz"):
        open_source("recorded")
    with pytest.raises(PackError, match=r"asl_rgbd\.npz: no such pack"):
        open_source("auto", tmp_path)


def test_unknown_name() -> None:
    with pytest.raises(ValueError, match="got 'real'"):
        open_source("real")  # type: ignore[arg-type]
