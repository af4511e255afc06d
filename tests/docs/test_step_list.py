"""The README's *Step by step* list, run word by word and in order, on recordings so few that training takes seconds."""

from __future__ import annotations

import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from documentation import REPOSITORY, Block, blocks, commands_of
from process_under_test import ProcessUnderTest, run_to_end
from small_packs import write_small_packs

from runtime.client import Client
from runtime.signals.synthetic import SyntheticSource
from runtime.wire import Decision

README = REPOSITORY / "README.md"
SET_UP = (("make", "setup"), ("source", ".venv/bin/activate"))
"""What the tests have behind them already."""
SHORTER = {
    "train": ("--minutes", "0.01"),
    "watch": ("--no-browser", "--port", "0"),
}
"""Options appended so that a step is short, and opens no browser."""
UNTIL_CTRL_C = ("run", "sense", "watch")


def step_list() -> Block:
    (block,) = [b for b in blocks(README) if b.text.startswith("make setup")]
    return block


def learnable_packs(folder: Path) -> Path:
    """Recorded packs about as small as the rig takes them, with samples of the synthetic rig in them."""
    source = SyntheticSource()

    def samples(modality: str, rows: int, start: int, count: int) -> np.ndarray:
        moments = np.stack([source.read("train", m, modality, start, count) for m in range(24)])
        return np.resize(moments, (rows, *moments.shape[1:]))

    eeg = np.rint(samples("eeg", 104, 0, 1280) * 10).clip(-32768, 32767).astype(np.int16)
    write_small_packs(
        folder,
        rgb=samples("rgb", 150, 10, 1)[:, 0],
        depth_mm=samples("depth", 150, 10, 1)[:, 0],
        wave=samples("audio", 75, 0, 16000),
        eeg=eeg.transpose(0, 2, 1),
    )
    # Per letter 24 frames that train and 6 that test, per word 12 clips and 3, per session 8 trials: half of them.
    _keep(folder / "asl_rgbd.npz", lambda row: (row % 30 < 12) | (row % 30 >= 27))
    _keep(folder / "speech_commands.npz", lambda row: (row % 15 < 6) | (row % 15 >= 13))
    _keep(folder / "ssvep_exo.npz", lambda row: row % 8 < 4)
    return folder


def _keep(path: Path, chosen: Callable[[np.ndarray], np.ndarray]) -> None:
    """Leave some rows in a pack."""
    with np.load(path) as pack:
        arrays = {name: pack[name] for name in pack.files}
    rows = chosen(np.arange(len(arrays["label"])))
    np.savez(path, **{n: a[rows] if a.shape[:1] == rows.shape else a for n, a in arrays.items()})


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """What a user has in the terminals of the list; the test's own client finds the node by it too."""
    pytest.importorskip("torch", reason="the list trains, and torch is not installed")
    with tempfile.TemporaryDirectory(prefix="ai-") as short:
        variables = {
            "AFTERIMAGE_DATA": str(learnable_packs(tmp_path / "packs")),
            "XDG_RUNTIME_DIR": short,
            "PYTHONPATH": str(REPOSITORY),
        }
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        yield variables


@pytest.mark.timeout(900)
def test_the_step_list_works_in_order(tmp_path: Path, environment: dict[str, str]) -> None:
    steps = [c.words for c in commands_of(step_list())]
    assert tuple(steps[:2]) == SET_UP
    folder = tmp_path / "clone"
    folder.mkdir()
    done = []
    with ExitStack() as opened, Client("commands-4") as client:
        running: list[ProcessUnderTest] = []
        for _, *words in steps[2:]:
            command = [sys.executable, "-m", "afterimage", *words, *SHORTER.get(words[0], ())]
            if words[0] in UNTIL_CTRL_C:
                process = ProcessUnderTest(command, environment=environment, folder=folder)
                running.append(opened.enter_context(process))
                continue
            if words[0] == "swap":
                before = _all_live(client, running)
            if words[0] == "replay":
                _press_ctrl_c(running)
            ended = run_to_end(command, environment=environment, folder=folder, seconds=400)
            if words[0] == "swap":
                after = _all_live(client, running, other_than=before.bundle)
                assert after.bundle in ended.output
            if words[0] == "replay":
                assert "bit-equal" in ended.output, ended.output
            done.append(words[0])
    assert {"doctor", "train", "evaluate", "compile", "swap", "replay"} == set(done)
    assert len(running) == len(UNTIL_CTRL_C)


def _all_live(client: Client, running: list[ProcessUnderTest], other_than: str = "") -> Decision:
    """A decision with every sensor live, twenty ticks after the first that is of another bundle than one."""
    for _ in range(20):
        found = None
        while found is None:
            assert all(p.code is None for p in running), "\n".join(f"{p}: {p.output}" for p in running)
            message = client.receive(timeout_s=20)
            assert message is not None, "\n".join(f"{p}: {p.output}" for p in running)
            if (
                isinstance(message, Decision)
                and message.bundle != other_than
                and all(message.presence.values())
            ):
                found = message
    return found


def _press_ctrl_c(running: list[ProcessUnderTest]) -> None:
    for process in running:
        process.end(signal.SIGINT)
