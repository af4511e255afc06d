"""The ONNX Runtime backend: one row and many, results that are the caller's own, buffers on a device, providers."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest

from engines.backends import onnxruntime_cuda
from engines.backends.availability import available_backends, backend_status
from engines.backends.onnxruntime import optimise, session_options
from engines.backends.onnxruntime_cuda import DeviceGraph, cuda_problem, open_cuda_session, tick_on_device
from engines.backends.onnxruntime_runner import OnnxRuntimeRunner, in_a_tick
from engines.bundle import graph_names, graph_signature, load_manifest
from engines.errors import BackendUnavailableError, EngineError

NO_CUDA = cuda_problem()


@pytest.fixture(scope="module")
def manifest(tiny_bundle):
    return load_manifest(tiny_bundle)


@pytest.fixture(scope="module")
def signatures(manifest):
    return {g: graph_signature(manifest, g) for g in graph_names(manifest)}


@pytest.fixture(scope="module")
def runner(tiny_bundle, signatures):
    loaded = OnnxRuntimeRunner(tiny_bundle, signatures)
    yield loaded
    loaded.close()


def inputs_of(signature, rows, seed=0):
    rng = np.random.default_rng(seed)
    inputs = {n: rng.uniform(0, 9, (rows, *s)).astype(np.float32) for n, s in signature.inputs.items()}
    if "presence" in inputs:
        inputs["presence"] = (inputs["presence"] > 3).astype(np.float32)
    return inputs


def test_a_single_row_gives_what_it_gives_in_a_batch(runner, signatures):
    for graph, signature in signatures.items():
        batch = inputs_of(signature, 3)
        together = runner.run(graph, batch)
        for row in range(3):
            alone = runner.run(graph, {n: v[row : row + 1] for n, v in batch.items()})
            for name, value in alone.items():
                expected = together[name][row : row + 1]
                assert value.shape == expected.shape
                np.testing.assert_allclose(
                    value, expected, rtol=1e-4, atol=1e-5 * max(1.0, np.abs(expected).max())
                )


def test_graphs_of_a_tick_have_a_session_of_one_row_with_less_to_run(tiny_bundle, signatures, tmp_path):
    """The folded form must be smaller, or the second session would cost memory for nothing."""
    counts = {}
    onnx = pytest.importorskip("onnx", reason="counts operators with onnx, which is not installed")
    for rows in (None, 1):
        options = session_options(1)
        options.optimized_model_filepath = str(tmp_path / f"{rows}.onnx")
        if rows:
            options.add_free_dimension_override_by_name("batch", rows)
        ort.InferenceSession(
            str(tiny_bundle / "encode_audio.onnx"), options, providers=["CPUExecutionProvider"]
        )
        counts[rows] = len(onnx.load(tmp_path / f"{rows}.onnx").graph.node)
    assert counts[1] <= counts[None]
    assert [g for g in signatures if in_a_tick(g)] == [
        *(f"encode_{m}" for m in ("rgb", "depth", "audio", "eeg")),
        "fuse",
    ]


@pytest.mark.parametrize("rows", [1, 3])
def test_results_stay_as_they_are_when_the_graph_runs_again(runner, signatures, rows):
    first = runner.run("fuse", inputs_of(signatures["fuse"], rows, seed=1))
    kept = {n: v.copy() for n, v in first.items()}
    runner.run("fuse", inputs_of(signatures["fuse"], rows, seed=2))
    for name, value in first.items():
        np.testing.assert_array_equal(value, kept[name])


def test_a_graph_whose_batch_axis_has_no_name_runs_all_the_same(tiny_bundle, signatures, tmp_path):
    onnx = pytest.importorskip("onnx", reason="edits a graph with onnx, which is not installed")
    model = onnx.load(tiny_bundle / "encode_eeg.onnx")
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].ClearField("dim_param")
    onnx.save(model, tmp_path / "encode_eeg.onnx")
    only = {"encode_eeg": signatures["encode_eeg"]}
    nameless, named = OnnxRuntimeRunner(tmp_path, only), OnnxRuntimeRunner(tiny_bundle, only)
    for rows in (1, 2):
        given = inputs_of(signatures["encode_eeg"], rows)
        np.testing.assert_allclose(
            nameless.run("encode_eeg", given)["evidence"],
            named.run("encode_eeg", given)["evidence"],
            rtol=1e-5,
            atol=1e-6,
        )


@pytest.mark.parametrize("provider", ["cpu", "cuda"])
def test_an_optimised_graph_computes_the_same(tiny_bundle, signatures, tmp_path, provider):
    for graph in signatures:
        optimise(tiny_bundle / f"{graph}.onnx", tmp_path / f"{graph}.onnx", provider)
    plain, optimised = OnnxRuntimeRunner(tiny_bundle, signatures), OnnxRuntimeRunner(tmp_path, signatures)
    for graph, signature in signatures.items():
        for rows in (1, 2):
            given = inputs_of(signature, rows)
            for name, value in optimised.run(graph, given).items():
                expected = plain.run(graph, given)[name]
                np.testing.assert_allclose(
                    value, expected, rtol=1e-4, atol=1e-5 * max(1.0, np.abs(expected).max())
                )


def test_a_graph_optimised_for_cuda_holds_standard_operators_only(tiny_bundle, tmp_path):
    onnx = pytest.importorskip("onnx", reason="reads operators with onnx, which is not installed")
    optimise(tiny_bundle / "encode_rgb.onnx", tmp_path / "encode_rgb.onnx", "cuda")
    assert {n.domain for n in onnx.load(tmp_path / "encode_rgb.onnx").graph.node} <= {"", "ai.onnx"}


@pytest.fixture
def device_graphs(tiny_bundle, signatures):
    """Graphs bound to buffers as on a GPU, the device being this CPU."""
    return {
        graph: DeviceGraph(
            ort.InferenceSession(
                str(tiny_bundle / f"{graph}.onnx"), session_options(1), providers=["CPUExecutionProvider"]
            ),
            signature,
            "cpu",
        )
        for graph, signature in signatures.items()
    }


def test_bound_graphs_give_what_unbound_ones_give_at_changing_batch_sizes(runner, signatures, device_graphs):
    for graph, bound in device_graphs.items():
        for rows in (1, 3, 3, 2):
            given = inputs_of(signatures[graph], rows, seed=rows)
            found, expected = bound.run(given), runner.run(graph, given)
            assert found.keys() == expected.keys()
            for name, value in found.items():
                assert value.dtype == np.float32
                np.testing.assert_allclose(
                    value,
                    expected[name],
                    rtol=1e-4,
                    atol=1e-5 * max(1.0, np.abs(expected[name]).max()),
                )


def test_results_of_a_bound_graph_do_not_alias_its_buffers(signatures, device_graphs):
    fuse = device_graphs["fuse"]
    first = fuse.run(inputs_of(signatures["fuse"], 2, seed=1))
    kept = {n: v.copy() for n, v in first.items()}
    second = fuse.run(inputs_of(signatures["fuse"], 2, seed=2))
    for name, value in first.items():
        np.testing.assert_array_equal(value, kept[name])
    assert not np.array_equal(first["logits"], second["logits"])


@pytest.mark.parametrize("due", [(), ("rgb",), ("rgb", "depth", "audio", "eeg")])
def test_a_tick_on_a_device_is_the_tick_graph_by_graph(runner, signatures, device_graphs, due):
    names = ("rgb", "depth", "audio", "eeg")
    for rows in (2, 1):
        windows = {n: inputs_of(signatures[f"encode_{n}"], rows)["window"] for n in due}
        evidence = {
            n: np.full((rows, *signatures[f"encode_{n}"].outputs["evidence"]), 0.1, np.float32)
            for n in names
            if n not in due
        }
        presence = np.ones((rows, 4), np.float32)
        found = tick_on_device(device_graphs, windows, evidence, presence)
        expected = runner.run_tick(windows, evidence, presence)
        assert found.keys() == expected.keys()
        for name, value in found.items():
            np.testing.assert_allclose(
                value, expected[name], rtol=1e-4, atol=1e-5 * max(1.0, np.abs(expected[name]).max())
            )


@pytest.mark.skipif(not NO_CUDA, reason="the CUDA provider runs here")
def test_cuda_is_refused_in_one_line_that_names_what_works(tiny_bundle, signatures):
    with pytest.raises(BackendUnavailableError) as refused:
        OnnxRuntimeRunner(tiny_bundle, signatures, provider="cuda")
    message = str(refused.value)
    assert "\n" not in message
    assert "provider cuda" in message
    assert "target cpu" in message


@pytest.mark.skipif(
    "CUDAExecutionProvider" in ort.get_available_providers(), reason="this build has the CUDA provider"
)
def test_a_build_for_the_cpu_names_the_package_that_is_missing():
    assert "onnxruntime-gpu" in cuda_problem()


def test_a_session_that_fell_back_to_the_cpu_is_refused(tiny_bundle, monkeypatch):
    """ONNX Runtime does fall back, even told not to: here it is a build without CUDA that is believed to have it."""
    monkeypatch.setattr(onnxruntime_cuda, "cuda_problem", lambda: "")
    with (
        pytest.warns(UserWarning, match="CUDAExecutionProvider"),
        pytest.raises(BackendUnavailableError, match="its CUDA libraries do not load"),
    ):
        open_cuda_session(tiny_bundle / "fuse.onnx", session_options(1))


def test_every_backend_and_provider_has_a_status_of_one_line():
    found = {s.name: s for s in available_backends()}
    assert set(found) == {"onnxruntime", "tensorrt-rtx", "tensorrt", "onnxruntime-cuda"}
    for status in found.values():
        assert "\n" not in status.reason
        assert bool(status.reason) != (status.can_build and status.can_run)
    assert backend_status("onnxruntime") == found["onnxruntime"]
    assert backend_status("onnxruntime", "cuda") == found["onnxruntime-cuda"]


@pytest.mark.gpu
@pytest.mark.skipif(bool(NO_CUDA), reason=NO_CUDA or "runs")
def test_cuda_gives_what_the_cpu_gives(tiny_bundle, signatures, runner):
    on_gpu = OnnxRuntimeRunner(tiny_bundle, signatures, provider="cuda")
    assert on_gpu.backend == "onnxruntime-cuda"
    for graph, signature in signatures.items():
        for rows in (1, 3):
            given = inputs_of(signature, rows)
            for name, value in on_gpu.run(graph, given).items():
                expected = runner.run(graph, given)[name]
                np.testing.assert_allclose(
                    value, expected, rtol=1e-3, atol=1e-3 * max(1.0, np.abs(expected).max())
                )
    on_gpu.close()
    with pytest.raises(EngineError, match="not loaded"):
        on_gpu.run("fuse", inputs_of(signatures["fuse"], 1))
