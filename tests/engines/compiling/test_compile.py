"""Compiling: what is written, when it is reused, and every engine that must be refused."""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import pytest
from process_under_test import python, run_to_end

from engines import engine as engine_module
from engines.backends.availability import available_backends
from engines.bundle import BundleError, load_manifest
from engines.compiling.compile import compile_bundle
from engines.engine import engine_key, load_engine, rebuild_command
from engines.errors import BackendUnavailableError, CompileError, EngineError
from engines.opening import open_session
from engines.targets import load_target, overridden


@pytest.fixture
def engine(tiny_bundle, tmp_path):
    return compile_bundle(tiny_bundle, load_target("cpu"), tmp_path / "engine")


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


def test_backends_are_listed_with_their_reasons():
    statuses = {s.name: s for s in available_backends()}
    assert list(statuses)[:3] == ["onnxruntime", "tensorrt-rtx", "tensorrt"]
    assert statuses["onnxruntime"].can_build
    assert statuses["onnxruntime"].can_run
    for status in statuses.values():
        assert status.can_run == (status.reason == "")
        assert "\n" not in status.reason


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
        said = self.compile_within(tiny_bundle, out, limit)
        assert said.count("\n") == 1
        assert said.startswith(f"{out}: the engine cannot be written (File too large); free space there")
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
