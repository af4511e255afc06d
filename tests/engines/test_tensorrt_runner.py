"""The TensorRT runner's memory and stream work, on an emulated device; and the real thing where there is a GPU."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="the emulated device runs graphs with ONNX Runtime")
from emulated_device import EmulatedCuda, emulated_library

from engines.backends import cuda, tensorrt, tensorrt_runner
from engines.bundle import graph_names, graph_signature, load_manifest
from engines.compile import compile_bundle
from engines.errors import BackendUnavailableError, EngineError, InputError
from engines.parity import check_parity
from engines.session import load_session, open_session
from engines.targets import BatchProfile, load_target

BATCH = BatchProfile(maximum=3)  # less than the golden batch of 4, so that chunks are exercised


@pytest.fixture
def engine_files(tiny_bundle, tmp_path):
    for graph in tiny_bundle.glob("*.onnx"):
        shutil.copyfile(graph, tmp_path / f"{graph.stem}.engine")
    return tmp_path


@pytest.fixture
def device(monkeypatch):
    def install(fail_after=None):
        emulated = EmulatedCuda(fail_after)
        library = emulated_library(emulated, BATCH.maximum)
        monkeypatch.setattr(cuda, "runtime", lambda: emulated)
        monkeypatch.setattr(tensorrt_runner, "load_library", lambda backend: library)
        log = tensorrt.LibraryLog(library)
        monkeypatch.setattr(tensorrt_runner, "library_log", lambda backend: log)
        return emulated

    return install


def test_every_graph_computes_through_device_memory(tiny_bundle, engine_files, device):
    emulated = device()
    manifest = load_manifest(tiny_bundle)
    session = load_session(engine_files, manifest, "tensorrt-rtx", batch=BATCH)
    report = check_parity(session, tiny_bundle)
    assert report.passed, report.table()
    assert session.backend == "tensorrt-rtx"
    before = emulated.allocations
    session.warm_up()
    assert emulated.allocations == before, "a run must not allocate"
    session.close()
    session.close()
    assert not emulated.device
    assert not emulated.host
    assert not emulated.streams


def test_results_do_not_change_under_the_next_run(tiny_bundle, engine_files, device):
    device()
    with load_session(engine_files, load_manifest(tiny_bundle), "tensorrt-rtx", batch=BATCH) as session:
        first = session.decode("eeg", np.ones((1, 3), np.float32))
        kept = first.copy()
        session.decode("eeg", -np.ones((1, 3), np.float32))
        np.testing.assert_array_equal(first, kept)


def test_batch_beyond_the_profile_is_refused_before_it_reaches_memory(tiny_bundle, engine_files, device):
    device()
    with (
        load_session(engine_files, load_manifest(tiny_bundle), "tensorrt-rtx", batch=BATCH) as session,
        pytest.raises(InputError, match="batch of 4, this engine was built for 1 to 3"),
    ):
        session.decode("eeg", np.ones((4, 3), np.float32))


def test_an_engine_that_does_not_load_frees_the_others(tiny_bundle, engine_files, device):
    emulated = device()
    (engine_files / "observe_eeg.engine").write_bytes(b"broken")
    with pytest.raises(EngineError, match=r"observe_eeg\.engine.*magic tag does not match"):
        load_session(engine_files, load_manifest(tiny_bundle), "tensorrt-rtx", batch=BATCH)
    assert not emulated.device
    assert not emulated.host
    assert not emulated.streams


@pytest.mark.parametrize("allocations", [0, 1, 2, 7])
def test_running_out_of_memory_frees_what_was_taken(tiny_bundle, engine_files, device, allocations):
    emulated = device(fail_after=allocations)
    with pytest.raises(EngineError, match="cudaErrorMemoryAllocation"):
        load_session(engine_files, load_manifest(tiny_bundle), "tensorrt-rtx", batch=BATCH)
    assert not emulated.device
    assert not emulated.host


def test_an_engine_of_another_graph_is_refused(tiny_bundle, engine_files, device):
    device()
    shutil.copyfile(tiny_bundle / "encode_depth.onnx", engine_files / "encode_rgb.engine")
    with pytest.raises(EngineError, match=r"encode_rgb.*'window'.*expected float32 \(batch, 64, 64, 3\)"):
        load_session(engine_files, load_manifest(tiny_bundle), "tensorrt-rtx", batch=BATCH)


def test_without_a_gpu_the_reason_is_one_line(tiny_bundle, tmp_path, monkeypatch):
    pytest.importorskip("tensorrt_rtx", reason="the TensorRT-RTX extra is not installed")
    monkeypatch.setattr(tensorrt_runner, "device_problem", lambda: "no NVIDIA GPU can be used: nothing there")
    manifest = load_manifest(tiny_bundle)
    signatures = {g: graph_signature(manifest, g) for g in graph_names(manifest)}
    with pytest.raises(BackendUnavailableError, match=r"^tensorrt-rtx: no NVIDIA GPU can be used: [^\n]*$"):
        tensorrt_runner.TensorRTRunner(tmp_path, signatures, "tensorrt-rtx", BATCH)


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["tensorrt-rtx", "tensorrt"])
def test_parity_on_a_gpu(tiny_bundle, tmp_path, backend):
    status = tensorrt.status(backend)
    if not status.can_run:
        pytest.skip(status.reason)
    folder = compile_bundle(tiny_bundle, load_target(backend), tmp_path / "engine")
    with open_session(folder) as session:
        report = check_parity(session, folder)
    assert report.passed, report.table()
