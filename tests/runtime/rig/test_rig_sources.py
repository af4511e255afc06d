"""The `source` and `transform` of a rig's sensors: what is accepted, what is refused and how."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from runtime.rig import RigError, load_rig
from runtime.rig.source_options import (
    KINDS,
    CameraOptions,
    LslOptions,
    PluginOptions,
    SyntheticOptions,
    Transform,
)

GUIDE = Path(__file__).parents[3] / "docs" / "sensors.md"


def rig_with(folder: Path, source: object, transform: object = None) -> Path:
    sensor = {
        "modality": "rgb", "kind": "rgb", "sample_shape": [4, 4, 3], "dtype": "uint8", "unit": "intensity",
        "rate_hz": 30, "chunk": 1, "source": source, "transform": transform,
    }  # fmt: skip
    path = folder / "rig.yaml"
    path.write_text(yaml.safe_dump({"version": 1, "name": "mine", "sensors": [sensor]}))
    return path


def test_the_desk_feeds_what_the_bundles_of_commands_4_are_trained_on() -> None:
    desk, commands = load_rig("desk"), load_rig("commands-4")
    assert desk.model_dump(exclude={"name"}) == commands.model_dump(exclude={"name"})
    kinds = [s.source.kind for s in desk.sensors if s.source]
    assert kinds == ["camera", "realsense", "microphone", "lsl"]
    assert isinstance(desk.sensors[0].source, CameraOptions)
    assert desk.sensors[0].transform == Transform(crop=(0, 80, 480, 480), resize=(64, 64))
    assert isinstance(desk.sensors[3].source, LslOptions)
    assert commands.sensors[0].source is None


@pytest.mark.parametrize(
    ("source", "transform", "words"),
    [
        ({"kind": "camera", "devise": 0}, None, r"sensors\.0\.source\.camera\.devise: Extra inputs.*got '0'"),
        ({"kind": "camera", "size": [640]}, None, r"sensors\.0\.source\.camera\.size"),
        ({"kind": "lsl"}, None, "at least one of name, type, source_id"),
        ({"kind": "audio-file"}, None, r"source\.audio-file\.file: Field required"),
        ({"kind": "camera", "stall_s": 0}, None, "greater than 0"),
        ({"kind": "camera"}, {"resise": [4, 4]}, r"transform\.resise: Extra inputs"),
        ({"kind": "camera"}, {"resize": [0, 4]}, "positive sizes"),
        ({"kind": "camera"}, {"interpolation": "area"}, "interpolation is of resize"),
        ({"kind": "camera"}, {"scale": 2, "from_unit": "m"}, "from_unit or scale, not both"),
        ({"kind": "camera"}, {"scale": 0}, "finite and not 0"),
        ({"kind": "camera"}, {"from_unit": "furlong"}, "from_unit"),
    ],
)
def test_mistakes_are_named_when_the_rig_is_read(
    tmp_path: Path, source: object, transform: object, words: str
) -> None:
    with pytest.raises(RigError, match=words):
        load_rig(rig_with(tmp_path, source, transform))


def test_a_source_without_a_kind_is_synthetic_and_an_unknown_kind_is_left_to_its_package(
    tmp_path: Path,
) -> None:
    assert isinstance(load_rig(rig_with(tmp_path, {"seed": 3})).sensors[0].source, SyntheticOptions)
    source = load_rig(rig_with(tmp_path, {"kind": "event-camera", "port": 7})).sensors[0].source
    assert isinstance(source, PluginOptions)
    assert source.own == {"port": 7}


def test_the_guide_names_every_kind_and_every_option() -> None:
    guide = GUIDE.read_text()
    for kind, options in KINDS.items():
        section = guide.split(f"### `{kind}`", 1)
        assert len(section) == 2, f"docs/sensors.md has no section on {kind!r}"
        text = section[1].split("\n### ", 1)[0]
        for name in set(options.model_fields) - {"kind", "open_s", "stall_s"}:
            assert f"`{name}`" in text, f"docs/sensors.md, {kind}: no word on {name!r}"
    for name in ("open_s", "stall_s", *Transform.model_fields):
        assert f"`{name}`" in guide, f"docs/sensors.md: no word on {name!r}"
