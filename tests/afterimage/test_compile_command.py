"""``afterimage compile`` as a person or a script meets it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from process_under_test import Ended, afterimage, run_to_end


def compile_command(*arguments: object, code: int = 0) -> Ended:
    return run_to_end(afterimage("compile", *arguments), codes=[code])


def test_it_says_what_was_made_and_how_it_was_checked(tiny_bundle: Path, tmp_path: Path) -> None:
    done = compile_command(tiny_bundle, "--out", tmp_path / "engine")
    lines = done.stdout.splitlines()
    assert lines[0] == f"engine: {tmp_path / 'engine'}"
    assert lines[1] == "precision: fp32"
    assert lines[2].startswith(
        "parity: passed; checked on onnxruntime: 184 comparisons, worst relative error "
    )
    assert lines[3] == "decisions: as PyTorch's in every missing pattern (100 windows each)"
    assert len(lines) == 4


def test_json_for_scripts_is_all_there_is_on_stdout(tiny_bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="int8 rewrites graphs with onnx")
    done = compile_command(tiny_bundle, "--precision", "int8", "--out", tmp_path / "engine", "--json", "-")
    record = json.loads(done.stdout)
    assert record["engine"] == str(tmp_path / "engine")
    assert record["precision"] == record["target"]["precision"] == "int8"
    assert record["reduced_products"]["decode_eeg"] == "1 of 1"
    assert record["parity"]["decisions"]["allowed"] == 0.01


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--precision", "fp16"), "no 16-bit kernels"),
        (("--precision", "int4"), "'int8'"),
        (("--batch", "8"), "onnxruntime takes any batch size"),
        (("--target", "tensorrt", "--batch", "2..8"), "a range from 1"),
        (("--target", "nowhere.yaml"), "no target 'nowhere.yaml'; shipped targets"),
    ],
)
def test_what_cannot_be_is_one_line_and_exit_code_2(
    tiny_bundle: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = compile_command(tiny_bundle, *arguments, "--out", tmp_path / "engine", code=2)
    assert done.stdout == ""
    assert done.stderr.startswith("afterimage: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
    assert not (tmp_path / "engine").exists()
