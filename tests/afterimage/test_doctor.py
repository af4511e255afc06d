import json

from typer.testing import CliRunner

from afterimage.cli import app
from engines.backends.interface import BackendStatus


def test_doctor_says_as_json_what_runs_here_and_on_what():
    result = CliRunner().invoke(app, ["doctor", "--json"])
    assert result.exit_code == 0
    printed = json.loads(result.output)
    backends = {b["name"]: b for b in printed["backends"]}
    assert set(backends) == {"onnxruntime", "onnxruntime-cuda", "tensorrt", "tensorrt-rtx"}
    assert backends["onnxruntime"]["can_run"]
    assert all("\n" not in b["reason"] for b in backends.values())
    assert printed["machine"]["cores"] >= 1
    assert set(printed["machine"]) >= {"processor", "architecture", "features", "memory_mib"}


def test_doctor_prints_every_backend_and_judges_int8():
    result = CliRunner().invoke(app, ["doctor"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    for expected in ("onnxruntime-cuda", "tensorrt-rtx", "int8:", "cores"):
        assert expected in result.output


def test_doctor_fails_where_nothing_runs(monkeypatch):
    nothing = [BackendStatus("onnxruntime", can_build=False, can_run=False, reason="it is gone", version="")]
    monkeypatch.setattr("engines.backends.availability.available_backends", lambda: nothing)
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 1
    assert "it is gone" in result.output
