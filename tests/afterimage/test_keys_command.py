from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from afterimage.cli import app
from runtime.transport.keys import KeysError, load_keys

RUNNER = CliRunner()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path / "afterimage" / "keys"


def keys(*arguments: str) -> str:
    result = RUNNER.invoke(app, ["keys", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_from_a_pair_to_an_admitted_key_and_back(folder: Path, tmp_path: Path) -> None:
    printed = keys("new", "robot") + keys("new", "camera")
    robot, camera = load_keys("robot"), load_keys("camera")
    assert robot.public in printed
    assert robot.secret not in printed
    handed_over = tmp_path / "head-camera.key"
    handed_over.write_text((folder / "camera.key").read_text())
    keys("allow", str(handed_over), "--role", "sensor", "--modality", "rgb", "--modality", "depth")
    keys("allow", camera.public, "--role", "reader", "--name", "desk")
    listed = keys("list")
    assert f"{camera.public}  sensor  head-camera  rgb depth" in listed
    assert f"{camera.public}  reader  desk" in listed
    assert robot.secret not in listed
    written = yaml.safe_load((folder / "allowed.yaml").read_text())
    assert written["keys"][0] == {
        "key": camera.public,
        "name": "head-camera",
        "role": "sensor",
        "modalities": ["rgb", "depth"],
    }
    keys("revoke", "head-camera", "--role", "sensor")
    assert "head-camera" not in keys("list")
    keys("allow", "camera", "--role", "operator")
    keys("revoke", "camera", "--role", "operator")
    assert "operator" not in keys("list")
    keys("revoke", "camera")
    assert "no key is admitted" in keys("list")


@pytest.mark.parametrize(
    "arguments",
    [
        ("allow", "camera", "--role", "king"),
        ("allow", "camera", "--role", "reader", "--modality", "rgb"),
        ("revoke", "camera", "--role", "king"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: tuple[str, ...]) -> None:
    keys("new", "camera")
    assert RUNNER.invoke(app, ["keys", *arguments]).exit_code == 2


@pytest.mark.parametrize(
    "arguments",
    [("allow", "nobody", "--role", "sensor"), ("revoke", "camera"), ("new", "camera"), ("new", "../camera")],
)
def test_mistakes_are_named(arguments: tuple[str, ...]) -> None:
    keys("new", "camera")
    with pytest.raises(KeysError, match=r"nobody|is not in it|is there already|key name"):
        RUNNER.invoke(app, ["keys", *arguments], catch_exceptions=False)


def test_a_server_key_alone_is_refused() -> None:
    result = RUNNER.invoke(app, ["record", "x.mcap", "--server-key", "robot"])
    assert result.exit_code == 2
