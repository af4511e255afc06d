"""Targets: the shipped ones load, and a typo is named."""

from __future__ import annotations

import pytest

from engines.targets import TargetError, load_target, overridden, shipped_targets


def test_shipped_targets_load():
    assert {"cpu", "tensorrt", "tensorrt-rtx"} <= set(shipped_targets())
    for name in shipped_targets():
        assert load_target(name).name == name
    assert load_target("cpu").batch is None
    assert load_target("cpu").provider == "cpu"
    assert load_target("tensorrt-rtx").batch.maximum == 8


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("version: 1\nname: x\nbackend: onnxruntime\nprecison: fp32", "precison: Extra inputs"),
        ("version: 2\nname: x\nbackend: onnxruntime", "version"),
        ("version: 1\nname: x\nbackend: openvino", "backend.*'openvino'"),
        ("version: 1\nname: X Y\nbackend: onnxruntime", "name"),
        ("version: 1\nname: x\nbackend: onnxruntime\nprecision: fp16", "runs fp32 and int8, got fp16; on a CPU"),
        ("version: 1\nname: x\nbackend: onnxruntime\nprecision: bf16", "runs fp32 and int8, got bf16; on a CPU"),
        ("version: 1\nname: x\nbackend: onnxruntime\nprecision: fp64", "precision.*fp64"),
        ("version: 1\nname: x\nbackend: onnxruntime\nprovider: cuda\nprecision: int8", "no integer kernels"),
        ("version: 1\nname: x\nbackend: onnxruntime\nprovider: rocm", "provider.*'rocm'"),
        ("version: 1\nname: x\nbackend: tensorrt-rtx\nbatch: {}\nprovider: cuda", "only onnxruntime takes one"),
        ("version: 1\nname: x\nbackend: onnxruntime\nallowed_decision_change: 2", "allowed_decision_change"),
        ("version: 1\nname: x\nbackend: onnxruntime\nworkspace_mib: 64", "workspace_mib: only tensorrt"),
        ("version: 1\nname: x\nbackend: tensorrt\nbatch: {}\nworkspace_mib: 0", "workspace_mib"),
        ("version: 1\nname: x\nbackend: tensorrt-rtx\nbatch: {}\ndla_core: 0", "dla_core: only tensorrt"),
        ("version: 1\nname: x\nbackend: tensorrt\nbatch: {}\ndla_core: 0", "runs fp16 and int8, got precision fp32"),
        ("version: 1\nname: x\nbackend: tensorrt\nbatch: {}\nprecision: int8\ndla_core: -1", "dla_core"),
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
    with pytest.raises(TargetError, match=r"'gpu'; shipped targets: \['cpu', .*'tensorrt-rtx'\]"):
        load_target("gpu")
    with pytest.raises(TargetError, match="no target"):
        load_target(tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    ("precision", "allowed"), [("fp32", 0.0), ("fp16", 0.005), ("bf16", 0.005), ("int8", 0.01)]
)
def test_precision_decides_how_many_decisions_may_change_unless_the_target_does(precision, allowed):
    target = overridden(load_target("tensorrt-rtx"), precision)
    assert target.decision_change == allowed
    assert target.model_copy(update={"allowed_decision_change": 0.25}).decision_change == 0.25


@pytest.mark.parametrize(
    ("batch", "optimum", "maximum"), [("1", 1, 1), ("8", 1, 8), ("1..32", 1, 32), ("1..1", 1, 1)]
)
def test_batch_sets_the_largest(batch, optimum, maximum):
    changed = overridden(load_target("tensorrt"), batch=batch)
    assert (changed.batch.optimum, changed.batch.maximum) == (optimum, maximum)
    assert changed.model_copy(update={"batch": load_target("tensorrt").batch}) == load_target("tensorrt")


def test_batch_below_the_optimum_lowers_it():
    tuned = load_target("tensorrt").model_copy(update={"batch": {"optimum": 16, "maximum": 32}})
    tuned = type(tuned).model_validate(tuned.model_dump(warnings=False))
    assert overridden(tuned, batch="64").batch.optimum == 16
    assert overridden(tuned, batch="4").batch.optimum == 4


@pytest.mark.parametrize(
    ("target", "precision", "batch", "message"),
    [
        ("tensorrt", None, "0", "'0': expected a number or a range from 1"),
        ("tensorrt", None, "2..8", "'2..8': expected"),
        ("tensorrt", None, "1..", "'1..': expected"),
        ("tensorrt", None, "-3", "'-3': expected"),
        ("tensorrt", "fp8", None, "target tensorrt with --precision fp8: Input should be 'fp32', 'fp16'"),
        ("cpu", "bf16", None, "target cpu with --precision bf16: precision: onnxruntime runs fp32 and int8"),
        ("cpu", None, "8", "target cpu with --batch 8: batch: onnxruntime takes any"),
    ],
)
def test_what_a_target_cannot_do_is_said(target, precision, batch, message):
    with pytest.raises(TargetError, match=message):
        overridden(load_target(target), precision, batch)
