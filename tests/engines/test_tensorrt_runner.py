"""The TensorRT runner's memory and stream work, on an emulated device; and the real thing where there is a GPU."""

from __future__ import annotations

import gc
import shutil

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="the emulated device runs graphs with ONNX Runtime")
from emulated_device import CudaError
from emulated_tensorrt import install

from engines.backends import tensorrt, tensorrt_runner
from engines.backends.tensorrt import batch_profiles
from engines.bundle import graph_names, graph_signature, load_manifest
from engines.compiling.compile import compile_bundle
from engines.compiling.parity import check_parity
from engines.errors import BackendUnavailableError, EngineError, InputError
from engines.opening import load_session, open_session
from engines.targets import BatchProfile, load_target

BATCH = BatchProfile(maximum=3)  # less than the golden batch of 4, so that chunks are exercised
PROFILES = batch_profiles(BATCH)


@pytest.fixture
def engine_files(tiny_bundle, tmp_path):
    folder = tmp_path / "engine"
    folder.mkdir()
    for graph in tiny_bundle.glob("*.onnx"):
        shutil.copyfile(graph, folder / f"{graph.stem}.engine")
    return folder


@pytest.fixture
def library(monkeypatch, tmp_path):
    return install(monkeypatch, tmp_path / "cache", PROFILES)


def load(engine_files, tiny_bundle, backend="tensorrt-rtx"):
    return load_session(engine_files, load_manifest(tiny_bundle), backend, batch=BATCH)


def freed(library):
    gc.collect()
    return not library.cuda.leaks and not library.contexts and not [r for r in library.runtimes if r()]


@pytest.mark.parametrize("backend", ["tensorrt-rtx", "tensorrt"])
@pytest.mark.parametrize("profiles", [PROFILES, ((1, 1, 3),)], ids=["two profiles", "one profile"])
def test_every_graph_computes_through_device_memory(
    tiny_bundle, engine_files, monkeypatch, tmp_path, backend, profiles
):
    library = install(monkeypatch, tmp_path / "cache", profiles, backend=backend)
    session = load(engine_files, tiny_bundle, backend)
    report = check_parity(session, tiny_bundle)
    assert report.passed, report.failures
    assert session.backend == backend
    before, contexts = library.cuda.allocations, len(library.contexts)
    check_parity(session, tiny_bundle)
    assert library.cuda.allocations == before, "a run must not allocate"
    assert len(library.contexts) == contexts, "a run must not make contexts"
    session.close()
    session.close()
    assert freed(library)


def test_memory_is_three_allocations_however_many_graphs_there_are(tiny_bundle, engine_files, library):
    with load(engine_files, tiny_bundle):
        assert library.cuda.allocations == 3  # tensors, their twin on the host, scratch


def test_a_run_is_one_copy_each_way_and_one_wait(tiny_bundle, engine_files, library):
    with load(engine_files, tiny_bundle) as session:
        session.fuse({}, np.zeros((2, 4), np.float32))
        library.cuda.calls.clear()
        session.fuse({}, np.zeros((2, 4), np.float32))
        assert library.cuda.calls == ["upload", "download", "cudaStreamSynchronize"]


def test_results_do_not_change_under_the_next_run(tiny_bundle, engine_files, library):
    with load(engine_files, tiny_bundle) as session:
        first = session.decode("eeg", np.ones((1, 3), np.float32))
        kept = first.copy()
        session.decode("eeg", -np.ones((1, 3), np.float32))
        np.testing.assert_array_equal(first, kept)


def test_batch_beyond_the_profile_is_refused_before_it_reaches_memory(tiny_bundle, engine_files, library):
    with (
        load(engine_files, tiny_bundle) as session,
        pytest.raises(InputError, match="batch of 4, this engine was built for 1 to 3"),
    ):
        session.decode("eeg", np.ones((4, 3), np.float32))


def test_an_engine_built_for_smaller_batches_is_refused_on_loading(
    tiny_bundle, engine_files, monkeypatch, tmp_path
):
    library = install(monkeypatch, tmp_path, ((1, 1, 1), (2, 2, 2)))
    with pytest.raises(EngineError, match=r"batch of 3, its engine was built for 1 to 1 and 2 to 2"):
        load(engine_files, tiny_bundle)
    assert freed(library)


@pytest.mark.parametrize("content", [b"broken", b""])
def test_an_engine_that_does_not_load_frees_the_others(tiny_bundle, engine_files, library, content):
    (engine_files / "observe_eeg.engine").write_bytes(content)
    with pytest.raises(EngineError, match=r"observe_eeg\.engine.*magic tag does not match$"):
        load(engine_files, tiny_bundle)
    assert freed(library)


def test_an_engine_that_is_not_there_is_named(tiny_bundle, engine_files, library):
    (engine_files / "observe_eeg.engine").unlink()
    with pytest.raises(EngineError, match=r"observe_eeg\.engine: cannot be read: No such file"):
        load(engine_files, tiny_bundle)
    assert freed(library)


@pytest.mark.parametrize("allocations", [0, 1, 2])
def test_running_out_of_memory_frees_what_was_taken(
    tiny_bundle, engine_files, monkeypatch, tmp_path, allocations
):
    library = install(monkeypatch, tmp_path, PROFILES, fail_after=allocations)
    with pytest.raises(EngineError, match="cudaErrorMemoryAllocation"):
        load(engine_files, tiny_bundle)
    assert freed(library)


def test_a_failed_copy_leaves_the_session_usable(tiny_bundle, engine_files, library):
    latent = np.ones((1, 3), np.float32)
    with load(engine_files, tiny_bundle) as session:
        before = session.decode("eeg", latent)
        library.cuda.failing["download"] = CudaError.cudaErrorInvalidValue
        with pytest.raises(
            EngineError, match=r"cudaMemcpyAsync from the device failed: cudaErrorInvalidValue"
        ):
            session.decode("eeg", latent)
        library.cuda.failing.clear()
        np.testing.assert_array_equal(session.decode("eeg", latent), before)


def test_an_engine_of_another_graph_is_refused(tiny_bundle, engine_files, library):
    shutil.copyfile(tiny_bundle / "encode_depth.onnx", engine_files / "encode_rgb.engine")
    with pytest.raises(EngineError, match=r"encode_rgb.*'window'.*expected float32 \(batch, 64, 64, 3\)"):
        load(engine_files, tiny_bundle)
    assert freed(library)


def test_the_accelerator_is_chosen_before_engines_are_loaded(
    tiny_bundle, engine_files, monkeypatch, tmp_path
):
    library = install(monkeypatch, tmp_path, PROFILES, backend="tensorrt")
    manifest = load_manifest(tiny_bundle)
    signatures = {g: graph_signature(manifest, g) for g in graph_names(manifest)}
    runner = tensorrt_runner.TensorRTRunner(engine_files, signatures, "tensorrt", BATCH, dla_core=1)
    assert [r().DLA_core for r in library.runtimes] == [1]
    runner.close()


def test_compiled_kernels_are_kept_and_damage_to_them_is_harmless(
    tiny_bundle, engine_files, monkeypatch, tmp_path
):
    def compiled(profiles=PROFILES):
        library = install(monkeypatch, tmp_path / "cache", profiles)
        with load(engine_files, tiny_bundle) as session:
            assert check_parity(session, tiny_bundle).passed
        return len(library.compiled)

    first = compiled()
    assert first > 0
    files = sorted((tmp_path / "cache").rglob("*.kernels"))
    # Graphs that happen to be the same file share their kernels.
    assert 1 < len(files) <= len(list(engine_files.glob("*.engine")))
    assert {f.parent.name for f in files} == {"emulated-tm-device-sm89"}
    assert compiled() == 0
    for file in files[1:]:
        file.write_bytes(file.read_bytes()[:-3])
    assert 0 < compiled() < first
    assert compiled() == 0
    for file in files:
        tensorrt.write_cache(file, b"from another library")
    assert compiled() == first
    assert compiled() == 0


def test_a_cache_folder_that_cannot_be_written_is_no_fault(tiny_bundle, engine_files, monkeypatch, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    install(monkeypatch, tmp_path / "cache", PROFILES)
    with load(engine_files, tiny_bundle) as session:
        assert check_parity(session, tiny_bundle).passed


def test_without_a_gpu_the_reason_is_one_line(tiny_bundle, tmp_path, monkeypatch):
    pytest.importorskip("tensorrt_rtx", reason="the TensorRT-RTX extra is not installed")
    monkeypatch.setattr(tensorrt_runner, "device_problem", lambda: "no NVIDIA GPU can be used: nothing there")
    manifest = load_manifest(tiny_bundle)
    signatures = {g: graph_signature(manifest, g) for g in graph_names(manifest)}
    with pytest.raises(BackendUnavailableError, match=r"^tensorrt-rtx: no NVIDIA GPU can be used: [^\n]*$"):
        tensorrt_runner.TensorRTRunner(tmp_path, signatures, "tensorrt-rtx", BATCH)


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["tensorrt-rtx", "tensorrt"])
def test_parity_on_a_gpu(tiny_bundle, tmp_path, monkeypatch, backend):
    status = tensorrt.status(backend)
    if not status.can_run:
        pytest.skip(status.reason)
    monkeypatch.setenv("AFTERIMAGE_CACHE", str(tmp_path / "cache"))
    folder = compile_bundle(tiny_bundle, load_target(backend), tmp_path / "engine")
    for _ in range(2):  # the second time with the kernels that the first one kept
        with open_session(folder) as session:
            report = check_parity(session, folder)
        assert report.passed, report.failures
