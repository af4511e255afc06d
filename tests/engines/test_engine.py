"""Engine folders: every one that must be refused, and what an engine depends on."""

from __future__ import annotations

import platform

import pytest

from engines import engine as engine_module
from engines.engine import engine_key, load_engine, rebuild_command
from engines.errors import EngineError
from engines.opening import open_session
from engines.targets import load_target, overridden


def test_engine_of_another_version_names_both_and_the_command(engine, monkeypatch):
    real = engine_module.library_version("onnxruntime")
    monkeypatch.setattr(engine_module, "library_version", lambda backend: "1.0.0")
    with pytest.raises(
        EngineError,
        match=rf"built for onnxruntime {real}, found onnxruntime 1\.0\.0.*afterimage compile.*--target cpu",
    ):
        open_session(engine)


def test_engine_whose_library_is_absent_names_it(engine, monkeypatch):
    monkeypatch.setattr(engine_module, "library_version", lambda backend: None)
    with pytest.raises(EngineError, match=r"needs onnxruntime .*, which is not installed"):
        open_session(engine)


def test_engine_of_another_architecture_is_refused(engine, monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(EngineError, match="this machine is riscv64"):
        open_session(engine)


def test_engine_of_another_bundle_is_refused(engine, edit_json):
    edit_json(engine / "engine.json", lambda raw: raw.update(bundle_hash="0" * 16))
    with pytest.raises(
        EngineError, match=r"engine is of bundle 0{16}, its manifest\.json is of [0-9a-f]{16}"
    ):
        open_session(engine)


@pytest.mark.parametrize(
    "name", ["encode_rgb.onnx", "fuse.onnx", "golden.npz", "decisions.npz", "manifest.json"]
)
@pytest.mark.parametrize("damage", ["truncated", "one bit flipped", "empty"])
def test_damaged_engine_file_is_refused_with_the_command_that_rebuilds_it(engine, name, damage):
    content = bytearray((engine / name).read_bytes())
    content[len(content) // 2] ^= 1
    kept = {"truncated": len(content) // 2, "one bit flipped": len(content), "empty": 0}[damage]
    (engine / name).write_bytes(bytes(content[:kept]))
    with pytest.raises(EngineError, match=rf"{name}.*afterimage compile BUNDLE --target cpu"):
        open_session(engine)


def test_missing_engine_file_is_refused(engine, edit_json):
    (engine / "encode_rgb.onnx").unlink()
    with pytest.raises(EngineError, match=r"encode_rgb\.onnx is named"):
        open_session(engine)
    edit_json(engine / "engine.json", lambda raw: raw["files"].pop("encode_rgb.onnx"))
    with pytest.raises(EngineError, match=r"files lacks encode_rgb\.onnx"):
        open_session(engine)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw.update(schema_version=9), "engine schema 9, this build reads 2; rebuild it with"),
        (lambda raw: raw.update(schema_version=1), "engine schema 1, this build reads 2; rebuild it with"),
        (lambda raw: raw.update(colour="red"), "colour"),
        (lambda raw: raw.pop("parity"), "parity"),
        (lambda raw: raw.update(backend="abacus"), "backend"),
    ],
)
def test_invalid_engine_manifest_names_the_field(engine, edit_json, change, message):
    edit_json(engine / "engine.json", change)
    with pytest.raises(EngineError, match=message):
        open_session(engine)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]"])
def test_engine_manifest_that_is_none_is_refused(engine, content):
    (engine / "engine.json").write_bytes(content)
    with pytest.raises(EngineError, match=r"engine\.json"):
        open_session(engine)


def test_engine_asked_for_another_backend_is_refused(engine):
    with pytest.raises(EngineError, match="compiled for onnxruntime, asked for tensorrt"):
        open_session(engine, backend="tensorrt")
    with pytest.raises(EngineError, match="not an engine"):
        load_engine(engine.parent)


@pytest.mark.parametrize(
    ("target", "precision", "batch", "command"),
    [
        ("cpu", None, None, "--target cpu"),
        ("cpu", "fp32", None, "--target cpu"),
        ("cpu", "int8", None, "--target cpu --precision int8"),
        ("tensorrt-rtx", "fp16", "1..32", "--target tensorrt-rtx --precision fp16 --batch 32"),
        ("tensorrt-rtx", None, "4", "--target tensorrt-rtx --batch 4"),
    ],
)
def test_the_command_that_rebuilds_names_what_was_overridden(target, precision, batch, command):
    chosen = overridden(load_target(target), precision, batch)
    assert rebuild_command(chosen) == f"afterimage compile BUNDLE {command}"


def test_the_command_for_a_target_file_asks_for_the_file():
    own = load_target("cpu").model_copy(update={"name": "robot-7"})
    assert rebuild_command(own) == "afterimage compile BUNDLE --target robot-7.yaml --precision fp32"


@pytest.mark.parametrize(
    "change",
    [
        {"precision": "bf16"},
        {"batch": None},
        {"allowed_decision_change": 0.1},
        {"workspace_mib": 64},
        {"dla_core": 0},
        {"provider": "cuda"},
        {"compute_capabilities": ("SM89",)},
    ],
    ids=str,
)
def test_whatever_changes_an_engine_changes_its_key(change):
    target = load_target("tensorrt")
    assert engine_key("0" * 16, target.model_copy(update=change)) != engine_key("0" * 16, target)
