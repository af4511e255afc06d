"""Packages and modules import in one direction, and leave the private names of others alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from import_graph import Import, ImportGraph

ROOT = Path(__file__).parents[1]
# Each may import those before it. Benchmarks measure all of them and are imported by none.
LAYERS = ("configs", "engines", "runtime", "trainers", "afterimage", "benchmarks")
# Rooms of the runtime that stand in one row; the other modules of the runtime only must not make a circle.
ROOMS = ("wire", "rig", "core", "transport", "signals", "node", "record", "sensors", "sessions")


@pytest.fixture(scope="module")
def product() -> ImportGraph:
    return ImportGraph(ROOT, LAYERS)


def rooms(graph: ImportGraph) -> dict[str, str]:
    """The package that each module belongs to: a folder of a top package, or a module that lies directly in it."""
    return {name: ".".join(name.split(".")[:2]) for name in graph.modules}


def described(circles: list[list[Import]]) -> str:
    return "\n".join(f"a circle:\n  {steps}" for steps in ("\n  ".join(map(str, c)) for c in circles))


def backwards(graph: ImportGraph, order: Mapping[str, int]) -> list[str]:
    """Imports from a package by one that stands before it."""

    def rank(name: str) -> int | None:
        return next((r for p, r in order.items() if f"{name}.".startswith(f"{p}.")), None)

    found = []
    for one in graph.imports:
        importer, imported = rank(one.importer), rank(one.imported)
        if importer is not None and imported is not None and importer < imported:
            found.append(str(one))
    return found


def test_no_module_imports_itself_by_way_of_others(product: ImportGraph) -> None:
    circles = product.circles()
    assert not circles, described(circles)


def test_no_package_imports_itself_by_way_of_others(product: ImportGraph) -> None:
    circles = product.circles(rooms(product))
    assert not circles, described(circles)


def test_top_packages_import_only_those_below_them(product: ImportGraph) -> None:
    found = backwards(product, {name: rank for rank, name in enumerate(LAYERS)})
    assert not found, "\n".join(found)


def test_nothing_but_tests_imports_tests(product: ImportGraph) -> None:
    fixtures = {path.stem for path in (ROOT / "tests" / "fixtures").glob("*.py")}
    assert product.imports_of({"tests", "pytest", *fixtures}) == []


def test_rooms_of_the_runtime_import_only_those_before_them(product: ImportGraph) -> None:
    found = backwards(product, {f"runtime.{name}": rank for rank, name in enumerate(ROOMS)})
    assert not found, "\n".join(found)


def test_no_private_name_of_another_module_is_used(product: ImportGraph) -> None:
    found = product.private_names_of_others()
    assert not found, "\n".join(found)


def written(folder: Path, files: Mapping[str, str]) -> ImportGraph:
    """The graph of a few files, each with the text given."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return ImportGraph(folder, sorted({name.split("/")[0] for name in files}))


@pytest.mark.parametrize(
    "back",
    [
        "import top.a.one",
        "from top.a import one",
        "from ..a.one import thing",
        "def f():\n    from top.a.one import thing",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from top.a.one import thing",
    ],
)
def test_a_circle_is_found_and_named_file_by_file(tmp_path: Path, back: str) -> None:
    files = {"top/a/__init__.py": "", "top/a/one.py": "import top.b.two\n", "top/b/__init__.py": ""}
    graph = written(tmp_path, {**files, "top/b/two.py": back})
    line = len(back.splitlines())
    text = described(graph.circles())
    assert "top/a/one.py:1: top.a.one imports top.b.two" in text
    assert f"top/b/two.py:{line}: top.b.two imports top.a.one" in text
    assert len(graph.circles(rooms(graph))) == 1


def test_a_circle_of_packages_need_not_be_one_of_modules(tmp_path: Path) -> None:
    files = {"top/a/one.py": "import top.b.two\n", "top/b/two.py": "", "top/b/three.py": "import top.a.four"}
    graph = written(tmp_path, {**files, "top/a/four.py": ""})
    assert graph.circles() == []
    assert "top/b/three.py:1" in described(graph.circles(rooms(graph)))


def test_a_package_that_is_loaded_on_the_way_counts(tmp_path: Path) -> None:
    """``import top.b.two`` runs ``top/b/__init__.py`` first."""
    files = {"top/a.py": "import top.b.two", "top/b/__init__.py": "import top.a", "top/b/two.py": ""}
    assert "top.a imports top.b\n" in described(written(tmp_path, files).circles()) + "\n"


def test_an_import_from_above_is_found(tmp_path: Path) -> None:
    graph = written(tmp_path, {"low/a.py": "def f():\n    import high.b", "high/b.py": ""})
    assert backwards(graph, {"low": 0, "high": 1}) == ["low/a.py:2: low.a imports high.b"]
    assert backwards(graph, {"high": 0, "low": 1}) == []


@pytest.mark.parametrize(
    "use",
    [
        "from top.a import _hidden",
        "from .a import _hidden",
        "import top.a\ntop.a._hidden()",
        "from top.a import Thing\nThing()._value = 1",
        "class B:\n    def f(self):\n        return self.thing._value",
    ],
)
def test_private_names_of_another_module_are_found(tmp_path: Path, use: str) -> None:
    theirs = "def _hidden(): ...\nclass Thing:\n    def __init__(self):\n        self._value = 1"
    graph = written(tmp_path, {"top/__init__.py": "", "top/a.py": theirs, "top/b.py": use})
    (found,) = graph.private_names_of_others()
    assert found.startswith(f"top/b.py:{len(use.splitlines())}: ")


@pytest.mark.parametrize(
    "use",
    [
        "import os\nos._exit(1)",
        "import library\nlibrary.thing._initialize()",
        "class B:\n    def f(self, other):\n        self._x = other._x",
        "class B(A):\n    def f(self):\n        return super()._value + self._value",
        "point._replace(x=1)",
    ],
)
def test_private_names_of_ones_own_are_left_alone(tmp_path: Path, use: str) -> None:
    theirs = "class A:\n    def __init__(self):\n        self._value = self._x = 1"
    graph = written(tmp_path, {"top/a.py": theirs, "top/b.py": use})
    assert graph.private_names_of_others() == []
