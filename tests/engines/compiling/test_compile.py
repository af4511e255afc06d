"""Compiling: what is written, when it is reused, and what cannot be compiled."""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import pytest
from process_under_test import python, run_to_end

from engines.backends.availability import available_backends
from engines.bundle import BundleError, load_manifest
from engines.compiling.compile import compile_bundle
from engines.engine import load_engine
from engines.errors import BackendUnavailableError, CompileError, EngineError
from engines.opening import open_session
from engines.targets import load_target, overridden


def test_cpu_engine_records_everything_and_computes_the_same(tiny_bundle, tmp_path):
    seen = []
    folder = compile_bundle(
        tiny_bundle, load_target("cpu"), tmp_path / "engine", progress=lambda *step: seen.append(step)
    )
    assert folder == tmp_path / "engine"
    assert [done for done, total, what in seen] == list(range(14))
    assert {total for done, total, what in seen} == {14}
    assert seen[0] == (0, 14, "encode_rgb: building")
    assert seen[-1] == (13, 14, "parity")
    engine, manifest = load_engine(folder)
    assert engine.bundle_hash == manifest.hash == load_manifest(tiny_bundle).hash
    assert engine.backend == "onnxruntime"
    assert engine.precision == "fp32"
    assert engine.versions["onnxruntime"]
    assert engine.built_on["python"] == platform.python_version()
    assert engine.parity.status == "passed"
    assert engine.parity.comparisons == 184
    assert engine.parity.checked_on == "onnxruntime"
    assert engine.parity.decisions.rows == 100
    assert engine.parity.decisions.differing == {}
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


def test_unknown_operator_is_named_with_its_graph_and_node(bundle, replace_graph, tmp_path):
    replace_graph(bundle, "fuse.onnx", unknown_operator(bundle / "fuse.onnx"))
    with pytest.raises(CompileError, match=r"'fuse'.*beam.*Teleport") as caught:
        compile_bundle(bundle, load_target("cpu"), tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8"])
def test_unknown_operator_of_a_graph_to_be_rewritten_is_named(bundle, replace_graph, tmp_path, precision):
    replace_graph(bundle, "encode_eeg.onnx", unknown_operator(bundle / "encode_eeg.onnx"))
    target = overridden(load_target("tensorrt-rtx"), precision)
    with pytest.raises((CompileError, EngineError), match=r"'?encode_eeg'?.*Teleport") as caught:
        compile_bundle(bundle, target, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_engine_that_disagrees_with_torch_is_not_installed(bundle, replace_graph, tmp_path):
    from tiny_bundle import build_tiny_bundle

    build_tiny_bundle(tmp_path / "other", seed=1)
    replace_graph(bundle, "decode_audio.onnx", (tmp_path / "other" / "decode_audio.onnx").read_bytes())
    with pytest.raises(CompileError, match=r"disagrees with PyTorch in 16 of 184.*decode_audio"):
        compile_bundle(bundle, load_target("cpu"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_backends_are_listed_with_their_reasons():
    statuses = {s.name: s for s in available_backends()}
    assert list(statuses)[:3] == ["onnxruntime", "tensorrt-rtx", "tensorrt"]
    assert statuses["onnxruntime"].can_build
    assert statuses["onnxruntime"].can_run
    for status in statuses.values():
        assert status.can_run == (status.reason == "")
        assert "\n" not in status.reason


def test_precisions_lie_beside_each_other_and_record_the_effective_target(bundle):
    pytest.importorskip("onnx", reason="int8 rewrites graphs with onnx")
    target = load_target("cpu")
    folders = {p: compile_bundle(bundle, overridden(target, p)) for p in ("fp32", "int8")}
    assert folders["fp32"] != folders["int8"]
    assert folders["fp32"].parent == folders["int8"].parent
    assert {p: load_engine(f)[0].target.precision for p, f in folders.items()} == {p: p for p in folders}
    assert compile_bundle(bundle, overridden(target, "int8")) == folders["int8"]


COMPILE_WITH_LITTLE_SPACE = """
import resource, sys
from pathlib import Path
from engines.compiling.compile import compile_bundle
from engines.errors import CompileError
from engines.targets import load_target
bundle, out, limit = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
load_target("cpu")
before = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
try:
    compile_bundle(bundle, load_target("cpu"), out)
except CompileError as e:
    # What it prints goes to a file, which is limited too.
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    print(e)
"""


class TestDiskFull:
    """The kernel refuses to let files grow: what a full disk does, for real, at different moments of a compile."""

    def compile_within(self, bundle: Path, out: Path, limit: int) -> str:
        done = run_to_end(python(COMPILE_WITH_LITTLE_SPACE, bundle, out, limit))
        assert done.stderr == ""
        return done.stdout

    # At the first graph, at ONNX Runtime's own writing (its form of a small graph is larger), and at the golden values.
    @pytest.mark.parametrize("limit", [0, 320, 100_000, 1_000_000])
    def test_nothing_is_kept_and_one_line_names_the_folder(self, tiny_bundle, tmp_path, limit):
        out = tmp_path / "engine"
        printed = self.compile_within(tiny_bundle, out, limit)
        assert printed.count("\n") == 1
        assert printed.startswith(f"{out}: the engine cannot be written (File too large); free space there")
        assert list(tmp_path.iterdir()) == []

    def test_the_engine_that_was_there_stays(self, tiny_bundle, engine, tmp_path):
        from tiny_bundle import build_tiny_bundle

        build_tiny_bundle(tmp_path / "other", names=("rgb", "eeg"), seed=3)
        before = load_engine(engine)[0]
        assert "free space" in self.compile_within(tmp_path / "other", engine, 1_000_000)
        assert load_engine(engine)[0] == before
        assert sorted(p.name for p in tmp_path.iterdir()) == ["engine", "other"]

    def test_a_limit_that_suffices_is_no_obstacle(self, tiny_bundle, tmp_path):
        assert self.compile_within(tiny_bundle, tmp_path / "engine", 2**30) == ""
        assert load_engine(tmp_path / "engine")

    def test_a_failed_serialisation_of_onnxruntime_is_told_from_a_bad_graph(
        self, bundle, replace_graph, tmp_path
    ):
        replace_graph(bundle, "encode_rgb.onnx", b"not a graph")
        assert "'encode_rgb'" in self.compile_within(bundle, tmp_path / "out", 2**30)


def test_a_place_that_cannot_be_written_is_named(tiny_bundle, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(
        CompileError, match=r"file/engine: the engine cannot be written \(.*\); make that folder"
    ):
        compile_bundle(tiny_bundle, load_target("cpu"), tmp_path / "file" / "engine")


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
