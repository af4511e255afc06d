"""Targets: the shipped ones load, and a typo is named."""

from __future__ import annotations

import pytest

from engines.targets import TargetError, load_target, shipped_targets


def test_shipped_targets_load():
    assert shipped_targets() == ("cpu", "tensorrt", "tensorrt-rtx")
    for name in shipped_targets():
        assert load_target(name).name == name
    assert load_target("cpu").batch is None
    assert load_target("tensorrt-rtx").batch.maximum == 8


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("version: 1\nname: x\nbackend: onnxruntime\nprecison: fp32", "precison: Extra inputs"),
        ("version: 2\nname: x\nbackend: onnxruntime", "version"),
        ("version: 1\nname: x\nbackend: openvino", "backend.*'openvino'"),
        ("version: 1\nname: X Y\nbackend: onnxruntime", "name"),
        ("version: 1\nname: x\nbackend: onnxruntime\nprecision: fp16", "runs fp32"),
        ("version: 1\nname: x\nbackend: onnxruntime\nbatch: {maximum: 4}", "leave it out"),
        ("version: 1\nname: x\nbackend: tensorrt-rtx", "needs a profile"),
        ("version: 1\nname: x\nbackend: tensorrt\nbatch: {optimum: 9, maximum: 4}", "optimum <= maximum, got 9 and 4"),
        ("version: 1\nname: x\nbackend: tensorrt\nbatch: {maximum: 0}", "batch.maximum"),
        ("version: 1\nname: x\nbackend: tensorrt\nbatch: {}\ncompute_capabilities: [SM89]", "only tensorrt-rtx"),
        ("version: 1\nname: x\nbackend: tensorrt-rtx\nbatch: {}\ncompute_capabilities: ['8.9']", "like SM89"),
        ("just text", "target.yaml"),
        ("a: [", "not YAML"),
    ],
)  # fmt: skip
def test_invalid_target_names_the_field(tmp_path, text, message):
    path = tmp_path / "target.yaml"
    path.write_text(text)
    with pytest.raises(TargetError, match=message):
        load_target(path)


def test_unknown_target_lists_the_shipped(tmp_path):
    with pytest.raises(TargetError, match=r"'gpu'; shipped targets: \['cpu', 'tensorrt', 'tensorrt-rtx'\]"):
        load_target("gpu")
    with pytest.raises(TargetError, match="no target"):
        load_target(tmp_path / "absent.yaml")
