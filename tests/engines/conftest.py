"""Fixtures of the engine tests."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines.bundle import MANIFEST_NAME, file_sha256
from engines.compiling.compile import compile_bundle
from engines.targets import load_target


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the tiny bundle that a test may damage."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


@pytest.fixture
def engine(tiny_bundle: Path, tmp_path: Path) -> Path:
    """The tiny bundle compiled for the CPU."""
    return compile_bundle(tiny_bundle, load_target("cpu"), tmp_path / "engine")


@pytest.fixture
def edit_json() -> Callable[[Path, Callable[[dict[str, Any]], None]], None]:
    """Change a JSON file in place."""

    def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
        raw = json.loads(path.read_text())
        change(raw)
        path.write_text(json.dumps(raw))

    return edit


@pytest.fixture
def replace_graph(
    edit_json: Callable[[Path, Callable[[dict[str, Any]], None]], None],
) -> Callable[[Path, str, bytes], None]:
    """Put other bytes in a bundle's file and make the manifest agree, so that only the content is wrong."""

    def replace(folder: Path, name: str, content: bytes) -> None:
        (folder / name).write_bytes(content)
        digest = file_sha256(folder / name)
        edit_json(folder / MANIFEST_NAME, lambda raw: raw["files"].update({name: digest}))

    return replace


@pytest.fixture
def replace_arrays(
    replace_graph: Callable[[Path, str, bytes], None],
) -> Callable[[Path, str, Callable[[dict[str, Any]], Any]], None]:
    """Change arrays of one of a bundle's .npz files, and make the manifest agree."""

    def replace(folder: Path, name: str, change: Callable[[dict[str, Any]], Any]) -> None:
        with np.load(folder / name) as arrays:
            changed = dict(arrays)
        change(changed)
        buffer = io.BytesIO()
        np.savez(buffer, **changed)
        replace_graph(folder, name, buffer.getvalue())

    return replace
