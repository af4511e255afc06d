import io
import json
import logging
import re
from contextlib import redirect_stderr

import pytest
from typer.testing import CliRunner

from afterimage.cli import app, main
from configs.reading import config_path

COMMANDS = (
    "demo", "train", "evaluate", "retrieve", "compile", "sense", "run", "watch", "record", "replay", "import", "doctor",
    "paper", "bench engines", "keys new", "keys list", "keys allow", "keys revoke", "bridge lsl", "bridge ros2",
)  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command):
    result = CliRunner().invoke(app, [*command.split(), "--help"])
    assert result.exit_code == 0
    assert "Example" in result.output or command == "doctor"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("compile", "{tmp}", "--target", "cpu"), "manifest.json"),
        (("compile", "{bundle}", "--target", "nowhere"), "nowhere"),
        (("run", "{bundle}", "--rig", "no-such-rig"), "no-such-rig"),
        (("run", "{bundle}", "--frames", "tcp://192.0.2.1:5555"), "loopback"),
        (("train", "no-such-model", "--synthetic"), "no-such-model"),
        (("sense", "--faults", "{faults}"), "explode"),
        (("evaluate", "{tmp}", "--synthetic"), "manifest.json"),
        (("run", "{bundle}", "--seconds", "0", "--json", "/proc/no/file.json"), "/proc/no/file.json"),
        (("train", "--synthetic", "--out", "/proc/no"), "/proc/no"),
        (
            ("train", "{model}", "--synthetic", "--out", "{tmp}/run"),
            "all of ['rgb', 'depth', 'audio', 'eeg'] must",
        ),
    ],
)
def test_a_mistake_is_one_line_that_names_it_and_exit_code_2(
    arguments, named, tmp_path, tiny_bundle, monkeypatch, capsys
):
    faults = tmp_path / "faults.yaml"
    faults.write_text("faults: [{kind: explode, modalities: [rgb], start_s: 0, end_s: 1}]")
    model = tmp_path / "unconnected.yaml"
    model.write_text(
        re.sub(r"pairs: .*", "pairs: [[rgb, depth]]", config_path("models", "associators").read_text())
    )
    filled = [a.format(tmp=tmp_path, bundle=tiny_bundle, faults=faults, model=model) for a in arguments]
    monkeypatch.setattr("sys.argv", ["afterimage", *filled])
    with pytest.raises(SystemExit) as end:
        main()
    shown = capsys.readouterr().err
    assert end.value.code == 2
    assert named in shown
    assert "Traceback" not in shown


def test_data_and_synthetic_together_are_refused(tmp_path):
    result = CliRunner().invoke(app, ["sense", "--data", str(tmp_path), "--synthetic"])
    assert result.exit_code == 2
    assert "not both" in result.output


def test_watch_says_when_nothing_comes(tmp_path):
    result = CliRunner().invoke(app, ["watch", "--endpoint", f"ipc://{tmp_path}/none", "--seconds", "0.2"])
    assert result.exit_code == 1
    assert "afterimage run" in result.output


@pytest.mark.parametrize(
    ("arguments", "levels"),
    [
        ((), ["INFO", "WARNING"]),
        (("-v", "+"), ["DEBUG", "INFO", "WARNING"]),
        (("+", "-v"), ["DEBUG", "INFO", "WARNING"]),
        (("-q", "+"), ["WARNING"]),
        (("+", "--quiet"), ["WARNING"]),
        (("-q", "+", "-q"), []),
        (("-qq", "+", "-vv"), ["INFO", "WARNING"]),
    ],
    ids=" ".join,
)
def test_logging_options_count_before_and_after_the_subcommand(arguments, levels, tmp_path):
    """``+`` stands for the subcommand."""
    command = ["watch", "--terminal", "--seconds", "0", "--endpoint", f"ipc://{tmp_path}/none"]
    given = [*arguments] if "+" in arguments else [*arguments, "+"]
    place = given.index("+")
    CliRunner().invoke(app, [*given[:place], *command, *given[place + 1 :], "--log-json"])
    stderr = io.StringIO()
    with redirect_stderr(stderr):
        for level in (logging.DEBUG, logging.INFO, logging.WARNING):
            logging.getLogger("afterimage.test").log(level, "a line")
    assert [json.loads(line)["level"] for line in stderr.getvalue().splitlines()] == levels


@pytest.mark.parametrize(
    "command", ["run", "sense", "watch", "record", "replay", "demo", "bridge lsl", "bridge ros2"]
)
def test_a_long_running_command_shows_its_logging_options(command):
    output = CliRunner().invoke(app, [*command.split(), "--help"]).output
    assert all(option in output for option in ("--verbose", "--quiet", "--log-json"))
