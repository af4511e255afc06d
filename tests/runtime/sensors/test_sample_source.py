"""How a kind is found, and what is said when its library is not there."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from process_under_test import python, run_to_end
from sensor_bench import sensor_of

from runtime.rig.source_options import KINDS
from runtime.sensors.sample_source import SourceRefusedError
from runtime.sensors.source_kinds import make_source

NEEDED: dict[str, dict[str, Any]] = {
    "camera": {}, "depth-images": {"folder": "."}, "realsense": {}, "oak": {}, "microphone": {},
    "audio-file": {"file": __file__}, "lsl": {"type": "EEG"}, "brainflow": {"board": 0},
    "eeg-file": {"file": __file__}, "recording": {"file": __file__}, "synthetic": {},
}  # fmt: skip


def test_every_built_in_kind_has_an_adapter_that_opens_nothing_yet() -> None:
    assert NEEDED.keys() == KINDS.keys()
    for kind, options in NEEDED.items():
        source = make_source(sensor_of("eeg", {"kind": kind, **options}))
        for method in ("open", "read", "close"):
            assert callable(getattr(source, method)), kind
        source.close()


@pytest.mark.parametrize(
    ("kind", "library", "extra"),
    [
        ("realsense", "pyrealsense2", "realsense"),
        ("oak", "depthai", "oak"),
        ("microphone", "sounddevice", "audio"),
        ("audio-file", "soundfile", "audio"),
        ("lsl", "mne_lsl.lsl", "lsl"),
        ("brainflow", "brainflow.board_shim", "brainflow"),
        ("eeg-file", "mne", "mne"),
    ],
)
def test_a_library_that_is_not_installed_is_one_line_with_its_extra(
    kind: str, library: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    source = make_source(sensor_of("eeg", {"kind": kind, **NEEDED[kind]}))
    with pytest.raises(SourceRefusedError, match=rf"pip install 'afterimage\[{extra}\]'") as refused:
        source.open()
    assert "\n" not in str(refused.value)


def test_xdf_names_its_own_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.xdf").write_bytes(b"XDF:")
    monkeypatch.setitem(sys.modules, "pyxdf", None)
    with pytest.raises(SourceRefusedError, match=r"pip install 'afterimage\[xdf\]'"):
        make_source(sensor_of("eeg", {"kind": "eeg-file", "file": str(tmp_path / "a.xdf")})).open()


def test_rigs_and_the_supervisor_import_no_library_of_any_device() -> None:
    code = (
        "import sys, runtime.rig, runtime.sensors.supervisor, runtime.sensors.inspection;"
        "print([m for m in ('cv2', 'mne', 'mne_lsl', 'brainflow', 'sounddevice', 'soundfile', 'pyxdf', 'depthai',"
        " 'pyrealsense2', 'mcap', 'torch', 'onnxruntime') if m in sys.modules])"
    )
    ran = run_to_end(python(code))
    assert json.loads(ran.stdout.replace("'", '"')) == []
