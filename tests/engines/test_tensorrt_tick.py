"""A tick as one submission: what it computes, how it is captured, and what happens if it cannot be; emulated device."""

from __future__ import annotations

import gc
import itertools
import logging
import shutil

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="the emulated device runs graphs with ONNX Runtime")
from emulated_device import CudaError
from emulated_tensorrt import install

from engines.backends import cuda, tensorrt, tensorrt_tick
from engines.backends.interface import encode_then_fuse
from engines.backends.tensorrt import batch_profiles
from engines.backends.tensorrt_runner import TensorRTRunner
from engines.bundle import graph_names, graph_signature, load_manifest
from engines.compiling.compile import compile_bundle
from engines.errors import EngineError
from engines.opening import open_session
from engines.session import Session
from engines.targets import BatchProfile, load_target

MODALITIES = ("rgb", "depth", "audio", "eeg")
BATCH = BatchProfile(maximum=3)
SETS = [s for n in range(5) for s in itertools.combinations(MODALITIES, n)]


@pytest.fixture(scope="module")
def engine_files(tiny_bundle, tmp_path_factory):
    folder = tmp_path_factory.mktemp("engine")
    for graph in ("fuse", *(f"{role}_{m}" for role in ("encode", "decode") for m in MODALITIES)):
        shutil.copyfile(tiny_bundle / f"{graph}.onnx", folder / f"{graph}.engine")
    return folder


@pytest.fixture(scope="module")
def signatures(tiny_bundle, engine_files):
    manifest = load_manifest(tiny_bundle)
    return {g.stem: graph_signature(manifest, g.stem) for g in engine_files.iterdir()}


@pytest.fixture
def library(monkeypatch, tmp_path):
    return install(monkeypatch, tmp_path / "cache", batch_profiles(BATCH))


@pytest.fixture
def runner(library, engine_files, signatures):
    loaded = TensorRTRunner(engine_files, signatures, "tensorrt-rtx", BATCH)
    yield loaded
    loaded.close()
    gc.collect()
    assert not library.cuda.leaks
    assert not library.contexts


def inputs_of(signatures, due, rows, seed):
    """Windows of the due modalities, evidence of the others and a presence mask, all random."""
    rng = np.random.default_rng(seed)

    def random(shape):
        return rng.normal(size=(rows, *shape)).astype(np.float32)

    windows = {m: 50 * random(signatures[f"encode_{m}"].inputs["window"]) for m in due}
    evidence = {m: random(signatures[f"encode_{m}"].outputs["evidence"]) for m in MODALITIES if m not in due}
    presence = (rng.random((rows, 4)) < 0.7).astype(np.float32)
    presence[:, [MODALITIES.index(m) for m in due]] = 1
    return windows, evidence, presence


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_a_tick_is_encoding_and_fusing_uncaptured_captured_and_launched_again(runner, signatures, rows):
    seeds = itertools.count()
    for due in SETS if rows == 1 else SETS[::5]:
        for _ in range(4):
            inputs = inputs_of(signatures, due, rows, next(seeds))
            tick = runner.run_tick(*inputs)
            assert_same(tick, encode_then_fuse(runner, *inputs))  # interleaved with runs of single graphs
            assert tick.keys() >= {"logits", *(f"evidence_{m}" for m in due)}
    assert runner.tick_submission == "cuda graph"


def test_the_second_tick_is_captured_and_the_third_is_one_launch_and_one_wait(runner, library, signatures):
    calls = library.cuda.calls
    inputs = inputs_of(signatures, ("rgb", "depth", "eeg"), 1, 0)
    runner.run_tick(*inputs)
    calls.clear()
    runner.run_tick(*inputs)
    assert calls == [
        "cudaStreamBeginCapture",
        "upload",  # the windows of rgb and depth, which are neighbours
        "upload",  # of eeg
        "upload",  # presence and the evidence of audio
        "download",
        "cudaStreamEndCapture",
        "cudaGraphInstantiate",
        "cudaGraphUpload",
        "cudaGraphLaunch",
        "cudaStreamSynchronize",
    ]
    calls.clear()
    runner.run_tick(*inputs)
    assert calls == ["cudaGraphLaunch", "cudaStreamSynchronize"]


def test_ticks_do_not_allocate_after_loading(runner, library, signatures):
    before = library.cuda.allocations
    for due, rows in itertools.product(SETS[::3], (1, 3)):
        for seed in range(3):
            runner.run_tick(*inputs_of(signatures, due, rows, seed))
    assert library.cuda.allocations == before


def test_captured_ticks_have_contexts_that_no_run_touches(runner, library, signatures):
    """The emulated device refuses captured work whose context has other shapes by now."""
    inputs = inputs_of(signatures, ("audio",), 2, 1)
    first = [runner.run_tick(*inputs) for _ in range(3)][-1]
    for rows in (3, 1, 2, 3):
        runner.run("encode_audio", {"window": np.ones((rows, 16000), np.float32)})
        runner.run("fuse", {k: np.ones((rows, *s), np.float32) for k, s in signatures["fuse"].inputs.items()})
    assert_same(runner.run_tick(*inputs), first)


def test_contexts_are_one_per_graph_and_batch_size_however_many_sets_there_are(runner, library, signatures):
    before = len(library.contexts)
    for due in SETS:
        for seed in range(2):
            runner.run_tick(*inputs_of(signatures, due, 1, seed))
    assert len(library.contexts) - before == 1 + len(MODALITIES)
    assert len(library.cuda.executables) == len(SETS)
    assert not library.cuda.graphs


def test_results_do_not_change_under_the_next_tick(runner, signatures):
    ticks = [runner.run_tick(*inputs_of(signatures, ("eeg",), 1, 0)) for _ in range(3)]
    kept = {name: value.copy() for name, value in ticks[-1].items()}
    runner.run_tick(*inputs_of(signatures, ("eeg",), 1, 1))
    assert_same(ticks[-1], kept)


def test_what_is_kept_is_bounded_and_batch_one_is_never_crowded_out(runner, library, signatures, monkeypatch):
    monkeypatch.setattr(tensorrt_tick, "LARGER_TICKS", 2)
    monkeypatch.setattr(tensorrt_tick, "SINGLE_TICKS", 3)
    contexts = set()
    for due in SETS:
        for rows, seed in itertools.product((2, 3, 1), range(3)):
            inputs = inputs_of(signatures, due, rows, seed)
            assert_same(runner.run_tick(*inputs), encode_then_fuse(runner, *inputs))
        contexts.add(len(library.contexts))
    assert len(library.cuda.executables) == 2 + 3
    assert max(contexts) == len(library.contexts)
    assert runner.tick_submission == "cuda graph"


def break_call(name):
    def break_it(library):
        library.cuda.failing[name] = CudaError.cudaErrorInvalidValue

    return break_it


def break_contexts(library):
    library.capturable = False


@pytest.mark.parametrize(
    ("break_it", "reason"),
    [
        (break_call("cudaStreamBeginCapture"), "cudaStreamBeginCapture failed: cudaErrorInvalidValue"),
        (break_call("cudaStreamEndCapture"), "cudaStreamEndCapture failed: cudaErrorInvalidValue"),
        (break_call("cudaGraphInstantiate"), "cudaGraphInstantiate failed: cudaErrorInvalidValue"),
        (break_call("cudaGraphUpload"), "cudaGraphUpload failed: cudaErrorInvalidValue"),
        (break_contexts, "graph 'encode_depth' cannot be captured"),
    ],
    ids=["begin", "end", "instantiate", "upload", "not capturable"],
)
def test_a_failed_capture_is_logged_once_and_ticks_go_on_without(
    runner, library, signatures, caplog, break_it, reason
):
    for seed in range(3):
        runner.run_tick(*inputs_of(signatures, ("rgb",), 1, seed))
    assert len(library.cuda.executables) == 1
    break_it(library)
    with caplog.at_level(logging.WARNING, "afterimage.engines.tensorrt"):
        for due, seed in itertools.product((("depth",), ("rgb",), ("eeg", "depth")), range(3)):
            inputs = inputs_of(signatures, due, 1, seed)
            assert_same(runner.run_tick(*inputs), encode_then_fuse(runner, *inputs))
    assert [r.message.count(reason) for r in caplog.records] == [1]
    assert runner.tick_submission == "stream"
    assert not library.cuda.executables
    assert not library.cuda.graphs
    assert library.cuda.last_error == CudaError.cudaSuccess, "libraries take a stale error for their own"


def test_an_execution_that_fails_during_capture_leaves_the_stream_usable(
    runner, library, signatures, monkeypatch, caplog
):
    inputs = inputs_of(signatures, ("rgb",), 1, 0)
    first = runner.run_tick(*inputs)
    context = runner._ticks._contexts["fuse", 1][0]._native
    context.version += 1  # as if something it does on a first run were still to be done
    assert_same(runner.run_tick(*inputs), first)
    assert runner.tick_submission == "stream"
    assert "the first run with a shape cannot be captured" in caplog.text


def test_an_uncaptured_tick_that_fails_is_an_error_and_can_be_repeated(runner, library, signatures):
    inputs = inputs_of(signatures, ("rgb",), 1, 0)
    expected = encode_then_fuse(runner, *inputs)
    library.cuda.failing["download"] = CudaError.cudaErrorInvalidValue
    with pytest.raises(EngineError, match="cudaMemcpyAsync from the device failed"):
        runner.run_tick(*inputs)
    library.cuda.failing.clear()
    for _ in range(3):
        assert_same(runner.run_tick(*inputs), expected)
    assert runner.tick_submission == "cuda graph"


def test_a_launch_that_fails_is_an_error(runner, library, signatures):
    inputs = inputs_of(signatures, ("rgb",), 1, 0)
    for _ in range(2):
        runner.run_tick(*inputs)
    library.cuda.failing["cudaGraphLaunch"] = CudaError.cudaErrorInvalidValue
    with pytest.raises(EngineError, match="cudaGraphLaunch failed: cudaErrorInvalidValue"):
        runner.run_tick(*inputs)


def test_lacking_and_unknown_inputs_are_named(runner, signatures):
    windows, evidence, presence = inputs_of(signatures, ("rgb",), 1, 0)
    with pytest.raises(
        EngineError, match=r"unknown modalities \['smell'\]; this bundle has \['rgb', 'depth'"
    ):
        runner.run_tick({"smell": windows["rgb"]}, evidence, presence)
    del evidence["audio"]
    with pytest.raises(EngineError, match="input 'evidence_audio' is lacking"):
        runner.run_tick(windows, evidence, presence)
    with pytest.raises(EngineError, match="batch of 4, its engine was built for 1 to 1 and 2 to 3"):
        runner.run_tick(*inputs_of(signatures, ("rgb",), 4, 0))


def test_a_closed_runner_says_so(library, engine_files, signatures):
    runner = TensorRTRunner(engine_files, signatures, "tensorrt-rtx", BATCH)
    runner.run_tick(*inputs_of(signatures, (), 1, 0))
    runner.close()
    with pytest.raises(EngineError, match="this session is closed"):
        runner.run_tick(*inputs_of(signatures, (), 1, 0))


@pytest.mark.parametrize("unsafe", ["cudaMalloc", "cudaStreamSynchronize", "pageable copy"])
def test_the_emulated_device_refuses_in_a_capture_what_cuda_refuses(monkeypatch, tmp_path, unsafe):
    emulated = install(monkeypatch, tmp_path, ((1, 1, 1),)).cuda
    stream, memory = cuda.Stream(), cuda.MirroredMemory(256)

    def enqueue():
        memory.upload(0, 4, stream)
        if unsafe == "cudaMalloc":
            cuda.DeviceMemory(8)
        elif unsafe == "cudaStreamSynchronize":
            stream.synchronize()
        else:
            pageable = np.zeros(4, np.uint8)
            kind = emulated.cudaMemcpyKind.cudaMemcpyHostToDevice
            copy = emulated.cudaMemcpyAsync(memory.address(0), pageable.ctypes.data, 4, kind, stream.handle)
            cuda.checked("copy", copy)

    with pytest.raises(EngineError, match="cudaErrorStreamCaptureUnsupported"):
        cuda.CapturedWork(stream, enqueue)
    assert emulated.last_error == CudaError.cudaSuccess
    stream.synchronize()
    memory.close()
    stream.close()
    assert not emulated.leaks


def test_captured_work_runs_when_it_is_launched_in_order_on_what_is_there_then(monkeypatch, tmp_path):
    emulated = install(monkeypatch, tmp_path, ((1, 1, 1),)).cuda
    stream, memory = cuda.Stream(), cuda.MirroredMemory(512)
    values = memory.array(0, (2,))

    def enqueue():
        memory.upload(0, 8, stream)
        values[:] = -1  # the host does not wait for the recording
        memory.download(0, 8, stream)

    values[:] = 1
    work = cuda.CapturedWork(stream, enqueue)
    stream.synchronize()
    on_device = (np.ctypeslib.ctypes.c_float * 2).from_address(memory.address(0))
    assert np.isnan(on_device[0]), "nothing runs while it is recorded"
    for value in (2, 3):
        values[:] = value
        work.launch(stream)
        assert on_device[0] != value, "nothing runs before the stream is waited for"
        stream.synchronize()
        assert list(on_device) == [value, value]
        assert list(values) == [value, value]
    work.close()
    work.close()
    memory.close()
    stream.close()
    assert not emulated.leaks


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["tensorrt-rtx", "tensorrt"])
def test_ticks_on_a_gpu(tiny_bundle, tmp_path, monkeypatch, backend):
    """Captured equals uncaptured bit for bit, and both agree with encoding and fusing apart, and with the CPU."""
    status = tensorrt.status(backend)
    if not status.can_run:
        pytest.skip(status.reason)
    monkeypatch.setenv("AFTERIMAGE_CACHE", str(tmp_path / "cache"))
    folder = compile_bundle(tiny_bundle, load_target(backend), tmp_path / "engine")
    manifest = load_manifest(tiny_bundle)
    known = {g: graph_signature(manifest, g) for g in graph_names(manifest)}
    with open_session(tiny_bundle) as reference:
        runner = TensorRTRunner(folder, known, backend, BatchProfile(optimum=1, maximum=8))
        with Session(manifest, runner):
            for due, rows in itertools.product(SETS, (1, 5)):
                for seed in range(2):
                    inputs = inputs_of(known, due, rows, seed)
                    uncaptured, captured, launched = (runner.run_tick(*inputs) for _ in range(3))
                    assert_same(captured, uncaptured)
                    assert_same(launched, uncaptured)
                    apart = encode_then_fuse(runner, *inputs)
                    expected = encode_then_fuse(reference._runner, *inputs)
                    for name, value in uncaptured.items():
                        scale = np.abs(expected[name]).max()
                        np.testing.assert_allclose(value, apart[name], rtol=0, atol=1e-3 * scale)
                        np.testing.assert_allclose(value, expected[name], rtol=0, atol=1e-3 * scale)
            assert runner.tick_submission == "cuda graph"
