"""Files are short, and named for what is in them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PRODUCT = ("configs", "engines", "runtime", "trainers", "afterimage", "benchmarks")
LONGEST_FILE = 400
# Commands and the client stay thin: what they do belongs to the packages below.
LINES_OF_AFTERIMAGE = 5_500
NAMES_THAT_SAY_NOTHING = ("utils", "util", "helpers", "helper", "common", "misc")


def sources(root: Path, *folders: str) -> Iterator[Path]:
    return (path for folder in folders for path in sorted((root / folder).rglob("*.py")))


def lines(path: Path) -> int:
    return len(path.read_text().splitlines())


def too_long(root: Path, *folders: str) -> list[str]:
    counted = ((path, lines(path)) for path in sources(root, *folders))
    return [f"{path.relative_to(root)}: {n} lines" for path, n in counted if n > LONGEST_FILE]


def named_for_nothing(root: Path, *folders: str) -> list[str]:
    """Files and folders one of whose words is a name that fits any content."""
    found = {part for path in sources(root, *folders) for part in (path, *path.parents) if part != root}
    return sorted(
        str(path.relative_to(root))
        for path in found
        if path.is_relative_to(root) and set(NAMES_THAT_SAY_NOTHING) & set(path.stem.split("_"))
    )


def test_no_file_is_longer_than_a_reader_keeps_in_mind() -> None:
    assert too_long(ROOT, *PRODUCT, "tests") == []


def test_the_package_of_commands_stays_small() -> None:
    assert sum(map(lines, sources(ROOT, "afterimage"))) <= LINES_OF_AFTERIMAGE


def test_no_file_has_a_name_that_fits_any_content() -> None:
    assert named_for_nothing(ROOT, *PRODUCT, "tests") == []


@pytest.mark.parametrize("name", ["utils.py", "misc/frames.py", "frame_helpers.py"])
def test_a_name_that_fits_any_content_is_found(tmp_path: Path, name: str) -> None:
    (tmp_path / "top" / name).parent.mkdir(parents=True)
    (tmp_path / "top" / name).write_text("x = 1\n" * LONGEST_FILE)
    assert named_for_nothing(tmp_path, "top")
    assert too_long(tmp_path, "top") == []
    (tmp_path / "top" / name).write_text("x = 1\n" * (LONGEST_FILE + 1))
    assert too_long(tmp_path, "top") == [f"top/{name}: 401 lines"]
