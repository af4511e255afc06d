"""Every protocol: one run at the smoke budget on the recorded packs, all arms, finite numbers, table and figures."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="trainers need torch, which is not installed")
from afterimage.cli.paper import PROTOCOL_NAMES
from runtime.signals.opening import find_data_dir
from trainers.papers.protocol import Protocol
from trainers.papers.registry import PROTOCOLS
from trainers.papers.runner import run_protocol

by_name = pytest.mark.parametrize("protocol", PROTOCOLS, ids=[p.name for p in PROTOCOLS])


def test_the_command_line_names_every_protocol() -> None:
    assert sorted(PROTOCOL_NAMES) == sorted(p.name for p in PROTOCOLS)


@pytest.mark.packs
@by_name
def test_smoke_measures_every_arm(protocol: Protocol, tmp_path: Path) -> None:
    data = find_data_dir()
    if data is None or not (data / "mnist.npz").exists():
        pytest.skip("needs the recorded packs: give $AFTERIMAGE_DATA")
    run = run_protocol(protocol.name, "smoke", data, tmp_path)
    assert [c.arm for c in run.cells] == list(protocol.arms("smoke"))
    for cell in run.cells:
        assert cell.metrics
        assert all(math.isfinite(v) for v in cell.metrics.values()), cell
    text = (tmp_path / "results.md").read_text()
    assert protocol.reference in text
    for picture in tmp_path.glob("*.png"):
        assert picture.name in text


@by_name
def test_arms_of_every_budget_are_distinct_and_the_papers_rows_name_metrics(protocol: Protocol) -> None:
    for budget in ("smoke", "small", "full"):
        arms = protocol.arms(budget)
        assert len(arms) == len(set(arms)) > 0
    for row in protocol.published.values():
        assert row
