"""`afterimage bench engines`: how it times, what it counts, what it concludes, and the whole command on a small run."""

from __future__ import annotations

import gc
import io
import json
import shutil
from collections import Counter

import numpy as np
import pytest
from typer.testing import CliRunner

from afterimage.cli import app
from engines.measuring.interleaving import WARM_UP_CALLS, Timings, interleave, paired_ratio
from engines.measuring.machine import describe_machine, int8_note


def test_every_case_is_called_equally_often_in_an_order_that_changes():
    calls = []
    cases = {name: (lambda name=name: calls.append(name)) for name in "abc"}
    shares = []
    samples = interleave(cases, seconds=60, rounds=(4, 4), block=2, advance=shares.append)
    assert Counter(calls) == dict.fromkeys("abc", 4 * 3)
    assert {len(s.blocks) for s in samples.values()} == {4}
    assert {len(b) for s in samples.values() for b in s.blocks} == {2}
    rounds = ["".join(dict.fromkeys(calls[k : k + 9])) for k in range(0, 36, 9)]
    assert all(sorted(r) == list("abc") for r in rounds)
    assert len(set(rounds)) > 1
    assert shares[-1] == 1.0
    assert shares == sorted(shares)


def test_blocks_are_sized_by_the_case_and_the_first_calls_are_not_counted():
    calls = []
    samples = interleave({"a": lambda: calls.append(0)}, seconds=60, rounds=(2, 2))
    assert len(calls) == WARM_UP_CALLS + 2 + len(samples["a"].all)
    assert len(samples["a"].all) == 40


def test_the_clock_ends_a_measurement_but_not_before_the_fewest_rounds():
    samples = interleave({"a": lambda: None}, seconds=1e-9, rounds=(3, 1000), block=1)
    assert len(samples["a"].blocks) == 3


def test_the_garbage_collector_is_held_and_let_go_even_where_a_case_fails():
    states = []
    interleave({"a": lambda: states.append(gc.isenabled())}, seconds=60, rounds=(1, 1), block=1)
    assert states == [False, False]
    assert gc.isenabled()

    def fails():
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        interleave({"a": fails}, seconds=60, rounds=(1, 1), block=1)
    assert gc.isenabled()


def test_a_summary_takes_medians_over_blocks_and_the_tail_over_all_calls():
    samples = Timings([[1e-3] * 3, [2e-3] * 3, [9e-3, 2e-3, 2e-3]])
    figures = samples.summary(rows=8)
    assert figures["p50_us"] == 2000
    assert figures["p99_us"] == pytest.approx(1e6 * np.percentile(samples.all, 99), abs=0.01)
    assert figures["rows_per_s"] == 4000
    assert figures["calls"] == 9


def test_ratios_within_rounds_are_blind_to_what_disturbs_a_whole_round():
    quiet, busy = [1e-3] * 3, [9e-3] * 3
    below = Timings([quiet, busy, quiet])
    above = Timings([[2 * s for s in block] for block in (quiet, busy, quiet)])
    assert paired_ratio(above, below) == 2
    assert paired_ratio(below, above) == 0.5


def test_the_machine_is_described_and_int8_judged_by_its_features():
    machine = describe_machine()
    assert machine["cores"] >= 1
    assert machine["memory_mib"] > 100
    assert "no dot products" in int8_note(dict.fromkeys(("VNNI", "AMX int8", "NEON dot product"), False) | {
        "NEON int8 matrix": False
    })  # fmt: skip
    assert "can be faster" in int8_note({"VNNI": True, "AMX int8": False})
    assert "does not say" in int8_note(None)


@pytest.fixture(scope="module")
def onnx():
    return pytest.importorskip("onnx", reason="floors are counted with onnx, which is not installed")


def test_products_are_counted_by_hand(onnx):
    from engines.measuring.floors import product_flops

    def flops(kind, inputs, output, **attributes):
        return product_flops(onnx.helper.make_node(kind, list("ab"), ["c"], **attributes), inputs, output)

    assert flops("MatMul", [(5, 7), (7, 3)], (5, 3)) == 2 * 5 * 7 * 3
    assert flops("MatMul", [(4, 5, 7), (4, 7, 3)], (4, 5, 3)) == 4 * 2 * 5 * 7 * 3
    assert flops("Gemm", [(7, 5), (7, 3)], (5, 3), transA=1) == 2 * 5 * 7 * 3
    # 3 channels in two groups would not do; 4 in two groups: each output sees 2 channels of a 3 x 3 kernel.
    assert flops("Conv", [(1, 4, 8, 8), (6, 2, 3, 3)], (1, 6, 8, 8)) == 2 * 6 * 64 * 2 * 9
    # Each of 4 x 8 x 8 inputs is spread over 2 channels of a 4 x 4 kernel.
    assert flops("ConvTranspose", [(1, 4, 8, 8), (4, 2, 4, 4)], (1, 2, 16, 16)) == 2 * 4 * 64 * 2 * 16


def test_a_graph_costs_in_proportion_to_its_batch_and_counts_weights_once(onnx, tiny_bundle):
    from engines.measuring.floors import graph_cost

    one, eight = (graph_cost(tiny_bundle / "encode_rgb.onnx", b) for b in (1, 8))
    # A strided 8 x 8 convolution of 3 channels to 4, and a linear head of 256 to 12.
    assert one.flops == 2 * 4 * 64 * 3 * 64 + 2 * 256 * 12
    assert eight.flops == 8 * one.flops
    assert one.bytes < eight.bytes < 8 * one.bytes


def test_the_floor_is_the_slower_of_arithmetic_and_memory(onnx):
    from engines.measuring.floors import Cost, Peak

    peak = Peak(flops=1e9, bytes_per_s={1000: 4e9, 10_000: 1e9})
    assert Cost(flops=10**6, bytes=8).floor_s(peak) == pytest.approx(1e-3)
    assert Cost(flops=0, bytes=1000).floor_s(peak) == pytest.approx(1000 / 4e9)
    assert Cost(flops=0, bytes=5000).floor_s(peak) == pytest.approx(5000 / 1e9)
    assert Cost(flops=0, bytes=10**6).floor_s(peak) == pytest.approx(1e-3)


def measured(ticks, spread=0.04):
    device = {"tensorrt": "gpu"}
    return {
        "tick": {n: {"1": {"p50_us": p}} for n, p in ticks.items()},
        "contenders": {
            n: {"device": device.get(n, "cpu"), "precision": "int8" if "int8" in n else "fp32"} for n in ticks
        },
        "failover": {"onnxruntime": {"spread": spread, "null_spread": 0.03}},
        "absent": {"onnxruntime-int8": "cannot be quantised"},
    }


def test_ratios_are_above_one_where_onnxruntime_is_faster():
    from afterimage.bench.engines.report import with_ratios

    ticks = {"onnxruntime": 2.0, "pytorch-eager": 6.0, "pytorch-compiled": 5.0, "tensorrt": 0.1}
    report = with_ratios(measured({**ticks, "onnxruntime-int8": 1.0}))
    assert report["ratios"] == {
        "ort_vs_eager": 3.0,
        "ort_vs_best_other": 2.5,
        "int8_vs_fp32": 2.0,
        "pattern_p99_spread": 0.04,
        "pattern_p99_null_spread": 0.03,
    }
    assert "int8" not in report


def test_what_was_not_measured_is_none_and_says_why():
    from afterimage.bench.engines.report import with_ratios

    report = with_ratios(measured({"onnxruntime": 2.0}))
    assert report["ratios"]["ort_vs_eager"] is None
    assert report["ratios"]["ort_vs_best_other"] is None
    assert report["ratios"]["int8_vs_fp32"] is None
    assert report["int8"] == "cannot be quantised"


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    """A training run of a few steps: bundle and checkpoint."""
    pytest.importorskip("torch", reason="a run is trained with torch, which is not installed")
    from rich.console import Console

    from runtime.signals.synthetic import SyntheticSource
    from trainers.training import train

    out = tmp_path_factory.mktemp("run")
    source = SyntheticSource(counts={"train": 16, "validation": 8, "test": 4})
    changes = {"phases.joint.steps": 2, "batch_size": 4, "validation_moments": 8}
    train("svae", source, out, changes=changes, console=Console(file=io.StringIO()))
    return out


def test_the_command_measures_every_graph_on_the_engine_and_on_pytorch(small_run, tmp_path):
    pytest.importorskip("matplotlib", reason="the picture is drawn with matplotlib, which is not installed")
    report_file, picture = tmp_path / "deep" / "engines.json", tmp_path / "deep" / "engines.png"
    arguments = ["bench", "engines", str(small_run), "--quick", "--without", "pytorch-compiled"]
    arguments += [
        "--target",
        "cpu",
        "--target",
        "tensorrt",
        "--json",
        str(report_file),
        "--plot",
        str(picture),
    ]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    report = json.loads(report_file.read_text())
    assert set(report["tick"]) == {"onnxruntime", "pytorch-eager"}
    for of in report["tick"].values():
        assert set(of) == {"1", "8"}
        assert all(f["p50_us"] > 0 and f["p50_us"] * 0.5 < f["p99_us"] for f in of.values())
    assert report["tick"]["onnxruntime"]["1"]["over_reference"] == 1
    assert len(report["graphs"]) == 13
    assert all(set(of) == {"onnxruntime", "pytorch-eager"} for of in report["graphs"].values())
    eager, ort = (report["tick"][n]["1"]["p50_us"] for n in ("pytorch-eager", "onnxruntime"))
    assert report["ratios"]["ort_vs_eager"] == pytest.approx(eager / ort, abs=1e-3)
    assert len(report["failover"]["onnxruntime"]["fuse"]) == 15
    assert len(report["failover"]["onnxruntime"]["null"]) == 15
    assert len(report["failover"]["onnxruntime"]["tick"]) == 15
    assert report["absent"]["pytorch-compiled"] == "left out as asked"
    assert "tensorrt" in report["absent"]["tensorrt"] or "GPU" in report["absent"]["tensorrt"]
    assert report["ratios"]["int8_vs_fp32"] is None
    for name in ("onnxruntime", "pytorch-eager"):
        fresh = report["fresh_process"][name]
        assert fresh["first_decision_s"] > fresh["import_s"] + fresh["load_s"] > 0
        assert fresh["peak_mib"] >= fresh["load_mib"] > 0
    assert report["floors"]["encode_rgb"]["8"]["flops"] == 8 * report["floors"]["encode_rgb"]["1"]["flops"]
    assert report["machine"]["gemm_gflops"] > 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "against PyTorch eager" in result.output


def test_a_bundle_alone_is_measured_without_pytorch(tiny_bundle, tmp_path):
    arguments = ["bench", "engines", str(tiny_bundle), "--quick", "--target", "cpu", "--json", "-"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert set(report["tick"]) == {"onnxruntime"}
    assert "no checkpoint" in report["absent"]["pytorch-eager"]
    assert report["ratios"]["ort_vs_eager"] is None


def test_pytorch_and_the_engine_decide_alike_on_what_is_timed(small_run):
    """A comparison of speeds means something only between things that compute the same."""
    pytest.importorskip("torch", reason="compares with torch, which is not installed")
    from engines.bundle import load_manifest
    from engines.measuring.calls import golden_windows
    from engines.opening import open_session
    from trainers.torch_sessions import open_torch_session

    bundle = small_run / "bundle"
    manifest = load_manifest(bundle)
    windows = golden_windows(bundle, manifest.modality_names, 3)
    mask = np.ones((3, 4), np.float32)
    eager = open_torch_session(small_run / "checkpoint", manifest, compiled=False, threads=1)
    with open_session(bundle) as engine:
        expected = engine.tick(windows, {}, mask).fused.probabilities
    np.testing.assert_allclose(eager.tick(windows, {}, mask).fused.probabilities, expected, atol=1e-3)


def test_a_checkpoint_that_cannot_be_opened_leaves_pytorch_out_and_says_why(small_run, tmp_path):
    from afterimage.bench.engines.contenders import gather

    run = shutil.copytree(small_run, tmp_path / "run")
    (run / "checkpoint" / "state.json").write_text("{}")
    field = gather(run / "bundle", run / "checkpoint", ["cpu"], threads=1, largest_batch=8)
    try:
        assert [c.name for c in field.present] == ["onnxruntime"]
        assert "checkpoint" in field.absent["pytorch-eager"]
    finally:
        field.close()


def test_profiles_grow_to_the_largest_batch_but_not_where_one_row_is_meant():
    from afterimage.bench.engines.contenders import contender_name, wanted_targets

    targets = wanted_targets((), 128)
    names = [contender_name(t) for t in targets]
    assert names[0] == "onnxruntime"
    assert {"onnxruntime-int8", "tensorrt", "tensorrt-rtx", "tensorrt-fp16"} <= set(names)
    assert targets[0].batch is None
    maximum = {t.name: t.batch.maximum for t in targets if t.batch is not None}
    assert maximum["tensorrt-rtx"] == 128
    assert maximum["jetson-orin"] == 1


def test_the_command_explains_itself():
    result = CliRunner().invoke(app, ["bench", "engines", "--help"])
    assert result.exit_code == 0
    assert "Examples" in result.output
