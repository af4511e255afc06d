"""Compiling: what is written, when it is reused, and every engine that must be refused."""

from __future__ import annotations

import platform

import numpy as np
import pytest

from engines import engine as engine_module
from engines.backends.availability import available_backends
from engines.bundle import BundleError, load_manifest
from engines.compile import compile_bundle
from engines.engine import load_engine
from engines.errors import BackendUnavailableError, CompileError, EngineError
from engines.session import open_session
from engines.targets import load_target


@pytest.fixture
def engine(tiny_bundle, tmp_path):
    return compile_bundle(tiny_bundle, load_target("cpu"), tmp_path / "engine")


def test_cpu_engine_records_everything_and_computes_the_same(tiny_bundle, tmp_path):
    seen = []
    folder = compile_bundle(
        tiny_bundle, load_target("cpu"), tmp_path / "engine", progress=lambda *step: seen.append(step)
    )
    assert folder == tmp_path / "engine"
    assert [done for done, total, graph in seen] == list(range(14))
    assert seen[0] == (0, 13, "encode_rgb")
    assert seen[-1] == (13, 13, "parity")
    engine, manifest = load_engine(folder)
    assert engine.bundle_hash == manifest.hash == load_manifest(tiny_bundle).hash
    assert engine.backend == "onnxruntime"
    assert engine.precision == "fp32"
    assert engine.versions["onnxruntime"]
    assert engine.built_on["python"] == platform.python_version()
    assert engine.parity.status == "passed"
    assert engine.parity.comparisons == 184
    assert set(engine.files) == {p.name for p in folder.iterdir()} - {"engine.json"}
    with open_session(tiny_bundle) as plain, open_session(folder) as compiled:
        assert compiled.bundle_hash == plain.bundle_hash
        window = np.zeros((2, 16000), np.int16)
        np.testing.assert_allclose(
            compiled.encode("audio", window), plain.encode("audio", window), rtol=1e-4, atol=1e-6
        )


def test_same_dependencies_reuse_the_engine_beside_the_bundle(bundle, tmp_path):
    folder = compile_bundle(bundle, load_target("cpu"))
    assert folder.parent == tmp_path / "engines"
    stamp = (folder / "engine.json").stat().st_mtime_ns
    assert compile_bundle(bundle, load_target("cpu")) == folder
    assert (folder / "engine.json").stat().st_mtime_ns == stamp
    (folder / "fuse.onnx").write_bytes(b"damaged")
    assert compile_bundle(bundle, load_target("cpu")) == folder
    assert load_engine(folder)
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


def test_another_bundle_replaces_the_engine_in_an_output_folder(tiny_bundle, engine, tmp_path):
    from tiny_bundle import build_tiny_bundle

    other = build_tiny_bundle(tmp_path / "other", names=("rgb", "eeg"), seed=3)
    assert compile_bundle(tmp_path / "other", load_target("cpu"), engine) == engine
    assert load_engine(engine)[0].bundle_hash == other.hash
    assert not (engine / "encode_audio.onnx").exists()
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_output_folder_with_something_else_is_refused(tiny_bundle, bundle, tmp_path):
    with pytest.raises(CompileError, match="expected an engine folder or nothing"):
        compile_bundle(tiny_bundle, load_target("cpu"), bundle)
    assert load_manifest(bundle)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(CompileError, match="expected an engine folder or nothing"):
        compile_bundle(tiny_bundle, load_target("cpu"), tmp_path / "file")


def test_broken_bundle_leaves_nothing_behind(bundle, tmp_path):
    (bundle / "decode_eeg.onnx").write_bytes(b"")
    with pytest.raises(BundleError, match="decode_eeg"):
        compile_bundle(bundle, load_target("cpu"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_graph_that_cannot_compile_is_named_and_leaves_nothing_behind(bundle, replace_graph, tmp_path):
    replace_graph(bundle, "decode_eeg.onnx", b"not a graph")
    with pytest.raises(CompileError, match="'decode_eeg'"):
        compile_bundle(bundle, load_target("cpu"), tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bundle"]


def test_unknown_operator_is_named(bundle, replace_graph, tmp_path):
    replace_graph(bundle, "fuse.onnx", unknown_operator(bundle / "fuse.onnx"))
    with pytest.raises(CompileError, match=r"'fuse'.*Teleport"):
        compile_bundle(bundle, load_target("cpu"), tmp_path / "out")


def test_engine_that_disagrees_with_torch_is_not_installed(bundle, replace_graph, tmp_path):
    from tiny_bundle import build_tiny_bundle

    build_tiny_bundle(tmp_path / "other", seed=1)
    replace_graph(bundle, "decode_audio.onnx", (tmp_path / "other" / "decode_audio.onnx").read_bytes())
    with pytest.raises(CompileError, match=r"disagrees with PyTorch in 16 of 184.*decode_audio"):
        compile_bundle(bundle, load_target("cpu"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


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


def test_damaged_engine_file_is_refused(engine):
    (engine / "encode_rgb.onnx").write_bytes(b"x")
    with pytest.raises(EngineError, match=r"encode_rgb\.onnx: sha256.*afterimage compile"):
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
        (lambda raw: raw.update(schema_version=9), "engine schema 9, this build reads 1"),
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


def test_backends_are_listed_with_their_reasons():
    statuses = {s.name: s for s in available_backends()}
    assert list(statuses) == ["onnxruntime", "tensorrt-rtx", "tensorrt"]
    assert statuses["onnxruntime"].can_build
    assert statuses["onnxruntime"].can_run
    for status in statuses.values():
        assert status.can_run == (status.reason == "")
        assert "\n" not in status.reason


class TestTensorRTRTX:
    """Building ahead of time with the real library; no GPU needed."""

    @pytest.fixture(autouse=True)
    def _library(self):
        pytest.importorskip("tensorrt_rtx", reason="the TensorRT-RTX extra is not installed")

    def test_engine_is_built_and_described(self, tiny_bundle, tmp_path):
        folder = compile_bundle(tiny_bundle, load_target("tensorrt-rtx"), tmp_path / "engine")
        engine, manifest = load_engine(folder)
        assert len(list(folder.glob("*.engine"))) == 13
        assert all(p.stat().st_size > 10_000 for p in folder.glob("*.engine"))
        assert engine.precision == "fp32"
        assert engine.versions["tensorrt-rtx"]
        assert "SM89" in engine.compute_capabilities
        assert engine.batch is not None
        assert engine.batch.maximum == 8
        assert manifest.hash == load_manifest(tiny_bundle).hash
        if engine.parity.status == "built, not run":
            assert "GPU" in engine.parity.reason or "cuda" in engine.parity.reason
            with pytest.raises(BackendUnavailableError, match="tensorrt-rtx: "):
                open_session(folder)

    def test_chosen_capabilities_change_the_engine(self, tiny_bundle, tmp_path):
        target = load_target("tensorrt-rtx")
        chosen = target.model_copy(update={"compute_capabilities": ("SM86", "SM120")})
        folder = compile_bundle(tiny_bundle, chosen, tmp_path / "engine")
        assert load_engine(folder)[0].compute_capabilities == ("SM86", "SM120")
        portable = compile_bundle(tiny_bundle, target, tmp_path / "portable")
        assert (folder / "fuse.engine").read_bytes() != (portable / "fuse.engine").read_bytes()

    def test_unknown_capability_lists_the_known(self, tiny_bundle, tmp_path):
        target = load_target("tensorrt-rtx").model_copy(update={"compute_capabilities": ("SM12",)})
        with pytest.raises(CompileError, match=r"'SM12'.*'SM89'"):
            compile_bundle(tiny_bundle, target, tmp_path / "engine")

    def test_unsupported_operator_names_graph_and_node(self, bundle, replace_graph, tmp_path):
        replace_graph(bundle, "fuse.onnx", unknown_operator(bundle / "fuse.onnx"))
        with pytest.raises(CompileError, match=r"graph 'fuse'.*node 'beam' \(Teleport\)"):
            compile_bundle(bundle, load_target("tensorrt-rtx"), tmp_path / "out")
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("content", [b"", b"\x00garbage", b"not a graph at all"])
    def test_graph_that_is_no_graph_is_refused(self, bundle, replace_graph, tmp_path, content):
        replace_graph(bundle, "encode_rgb.onnx", content)
        with pytest.raises(CompileError, match="graph 'encode_rgb'"):
            compile_bundle(bundle, load_target("tensorrt-rtx"), tmp_path / "out")

    def test_nothing_reaches_the_terminal(self, tiny_bundle, tmp_path, capfd):
        compile_bundle(tiny_bundle, load_target("tensorrt-rtx"), tmp_path / "engine")
        captured = capfd.readouterr()
        assert captured.out + captured.err == ""


def test_a_library_that_is_not_installed_names_the_extra(tiny_bundle, tmp_path, monkeypatch):
    from engines.backends import tensorrt

    monkeypatch.setitem(tensorrt._MODULES, "tensorrt", "tensorrt_that_is_not_there")
    with pytest.raises(BackendUnavailableError, match=r"pip install 'afterimage\[tensorrt\]'"):
        compile_bundle(tiny_bundle, load_target("tensorrt"), tmp_path / "out")
    assert available_backends()[2].can_build is False


def unknown_operator(path):
    """The graph with one node more, of an operator that no library has."""
    onnx = pytest.importorskip("onnx", reason="editing a graph needs onnx")
    model = onnx.load(path)
    last = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["before" if name == last else name for name in node.output]
        node.input[:] = ["before" if name == last else name for name in node.input]
    model.graph.node.append(onnx.helper.make_node("Teleport", ["before"], [last], name="beam"))
    return model.SerializeToString()
