"""The accuracy gate: decisions that change are counted in every missing pattern, and too many mean no engine."""

from __future__ import annotations

import numpy as np
import pytest

from engines.bundle import BundleError, load_manifest
from engines.compiling.accuracy_gate import DecisionChange, DecisionSet, decision_change, has_decisions
from engines.compiling.compile import compile_bundle
from engines.compiling.reduced_precision import reduce_graphs
from engines.engine import load_engine
from engines.errors import CompileError
from engines.opening import open_session
from engines.targets import load_target, overridden

PATTERN = 5  # rgb+audio
ROWS = 100


def turn(rows: int):
    """Give some rows of one pattern another best class, by far."""

    def change(arrays):
        logits = arrays[f"logits_{PATTERN}"].copy()
        other = (logits[:rows].argmax(axis=1) + 1) % logits.shape[1]
        logits[np.arange(rows), other] = logits.max() + 1
        arrays[f"logits_{PATTERN}"] = logits

    return change


def without_decisions(bundle, edit_json):
    (bundle / "decisions.npz").unlink()
    edit_json(bundle / "manifest.json", lambda raw: raw["files"].pop("decisions.npz"))


def test_a_bundle_decides_as_pytorch_did_in_every_pattern(tiny_bundle):
    manifest = load_manifest(tiny_bundle)
    decisions = DecisionSet(tiny_bundle / "decisions.npz", manifest)
    with open_session(tiny_bundle) as session:
        change = decision_change(session, decisions)
    assert change.rows == ROWS
    assert len(change.differing) == 16
    assert change.above(0) == ""
    assert change.worst_share == 0
    # The set tells patterns apart: something that ignored the mask would be found out.
    chosen = {p: tuple(logits.argmax(axis=1)) for p, logits in enumerate(decisions.logits)}
    assert len(set(chosen.values())) == 16


def test_every_changed_decision_is_counted_in_its_pattern(bundle, replace_arrays):
    replace_arrays(bundle, "decisions.npz", turn(7))
    manifest = load_manifest(bundle)
    with open_session(bundle) as session:
        change = decision_change(session, DecisionSet(bundle / "decisions.npz", manifest))
    assert {p: n for p, n in change.differing.items() if n} == {"rgb+audio": 7}
    assert (change.worst, change.worst_share) == ("rgb+audio", 0.07)
    assert change.above(0.069) == "rgb+audio 7 of 100"
    assert change.above(0.07) == ""


def test_worst_patterns_come_first():
    change = DecisionChange(200, {"a": 1, "a+b": 5, "b": 3, "none": 0})
    assert change.above(0.005) == "a+b 5 of 200, b 3 of 200"
    assert change.above(0) == "a+b 5 of 200, b 3 of 200, a 1 of 200"


def test_one_changed_decision_fails_fp32_and_leaves_nothing_behind(bundle, replace_arrays, tmp_path):
    replace_arrays(bundle, "decisions.npz", turn(1))
    with pytest.raises(
        CompileError, match=r"otherwise than PyTorch in patterns rgb\+audio 1 of 100, where 0\.0%"
    ):
        compile_bundle(bundle, load_target("cpu"), tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bundle"]


def test_a_target_may_allow_more(bundle, replace_arrays, tmp_path):
    replace_arrays(bundle, "decisions.npz", turn(3))
    loose = load_target("cpu").model_copy(update={"allowed_decision_change": 0.03})
    record = load_engine(compile_bundle(bundle, loose, tmp_path / "out"))[0].parity.decisions
    assert record.differing == {"rgb+audio": 3}
    assert (record.worst_pattern, record.worst_share) == ("rgb+audio", 0.03)
    assert (record.rows, record.allowed) == (100, 0.03)
    tight = loose.model_copy(update={"allowed_decision_change": 0.02})
    with pytest.raises(CompileError, match=r"rgb\+audio 3 of 100, where 2\.0% is allowed"):
        compile_bundle(bundle, tight, tmp_path / "out")


class TestLowerPrecision:
    @pytest.fixture(autouse=True)
    def _onnx(self):
        pytest.importorskip("onnx", reason="lower precisions rewrite graphs with onnx")

    @pytest.fixture
    def target(self):
        return overridden(load_target("cpu"), "int8")

    def counts(self, bundle, target):
        reduced = reduce_graphs(bundle, load_manifest(bundle), target, lambda what: None)
        encoders = sum(r.reduced for g, r in reduced.items() if g.startswith("encode_"))
        return encoders, sum(r.reduced for g, r in reduced.items() if g.startswith("decode_"))

    def test_precision_is_given_back_until_the_gate_holds(self, tiny_bundle, target):
        """Random weights decide by a hair, so that int8 everywhere costs decisions; decoders decide nothing."""
        anything = target.model_copy(update={"allowed_decision_change": 1.0})
        all_encoders, all_decoders = self.counts(tiny_bundle, anything)
        encoders, decoders = self.counts(tiny_bundle, target)
        assert 0 <= encoders < all_encoders
        assert decoders == all_decoders > 0

    def test_no_precision_to_give_back_means_no_engine(self, bundle, replace_arrays, target, tmp_path):
        replace_arrays(bundle, "decisions.npz", turn(30))
        with pytest.raises(
            CompileError, match=r"int8: decisions differ .* rgb\+audio 30 of 100, where 1\.0%.*fp32"
        ):
            compile_bundle(bundle, target, tmp_path / "out")
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("precision", ["fp16", "bf16", "int8"])
    def test_bundle_without_a_decision_set_says_to_export_again(self, bundle, edit_json, tmp_path, precision):
        without_decisions(bundle, edit_json)
        target = overridden(load_target("tensorrt-rtx"), precision)
        with pytest.raises(
            CompileError, match=rf"lacks decisions\.npz.*{precision}.*export the bundle again"
        ):
            compile_bundle(bundle, target, tmp_path / "out")


def test_older_bundle_without_a_decision_set_still_compiles_to_fp32(bundle, edit_json, tmp_path):
    without_decisions(bundle, edit_json)
    assert not has_decisions(load_manifest(bundle))
    folder = compile_bundle(bundle, load_target("cpu"), tmp_path / "out")
    engine, _ = load_engine(folder)
    assert engine.parity.status == "passed"
    assert engine.parity.decisions is None
    assert not (folder / "decisions.npz").exists()


def test_the_gate_can_be_repeated_where_the_engine_runs(tiny_bundle, tmp_path):
    folder = compile_bundle(tiny_bundle, load_target("cpu"), tmp_path / "out")
    with open_session(folder) as session:
        change = decision_change(session, DecisionSet(folder / "decisions.npz", session.manifest))
    assert change.above(0) == ""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("logits_3"), "lacks array 'logits_3'"),
        (lambda a: a.pop("window_depth"), "lacks array 'window_depth'"),
        (lambda a: a.update(logits_2=a["logits_2"][:9]), "expected 100 finite rows, got 9"),
        (lambda a: a.update(logits_2=a["logits_2"] * np.nan), "rgb\\+depth\\+eeg: expected 100 finite"),
        (lambda a: a.update(presence=a["presence"][1:]), "15 patterns, expected 16"),
        (lambda a: a.update(window_rgb=a["window_rgb"].astype(np.float32)), "windows of uint8, got 100 of float32"),
    ],
)  # fmt: skip
def test_incomplete_decision_set_is_named(bundle, replace_arrays, change, message):
    replace_arrays(bundle, "decisions.npz", change)
    with pytest.raises(BundleError, match=message):
        DecisionSet(bundle / "decisions.npz", load_manifest(bundle))
