"""The runner: cells are run once, taken up again, reported beside the paper; wrong requests are refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="trainers need torch, which is not installed")
from trainers.papers import registry, runner
from trainers.papers.protocol import Budget, Cell, Metrics, Protocol, ProtocolError, Report
from trainers.papers.tables import markdown_table, mean_and_deviation


class Counting(Protocol):
    """Measures how often it was run."""

    name = "counting"
    title = "how often"
    reference = "a paper, table 1"
    published = {"other": {"accuracy": "97.0±0.2", "runs": 3.0}}  # noqa: RUF012
    notes = ("nothing is trained",)

    def arms(self, budget: Budget) -> tuple[str, ...]:
        return ("first arm", "second")

    def run(self, arm: str, seed: int, budget: Budget, data: Path, folder: Path, report: Report) -> Metrics:
        runs = folder / "runs.txt"
        count = int(runs.read_text()) + 1 if runs.exists() else 1
        runs.write_text(str(count))
        if (data / f"fail {arm}").exists():
            raise ProtocolError("as asked")
        report("counting", 1, 1)
        return {"accuracy": 90.0 + seed, "runs": float(count)}


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "PROTOCOLS", (Counting(),))


def test_finished_cells_are_kept_and_failed_ones_run_again(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (tmp_path / "fail second").touch()
    with pytest.raises(ProtocolError, match="as asked"):
        runner.run_protocol("counting", "smoke", tmp_path, out)
    (tmp_path / "fail second").unlink()
    seen: list[tuple[str, int, str]] = []
    run = runner.run_protocol(
        "counting",
        "smoke",
        tmp_path,
        out,
        report=lambda arm, seed, what, done, of: seen.append((arm, seed, what)),
    )
    assert [(c.arm, c.metrics["runs"]) for c in run.cells] == [("first arm", 1.0), ("second", 2.0)]
    assert seen == [("second", 0, "counting"), ("second", 0, "done")]
    more = runner.run_protocol("counting", "smoke", tmp_path, out, seeds=2)
    assert [c.seed for c in more.cells] == [0, 0, 1, 1]
    assert more.cells[0].metrics["runs"] == 1.0
    written = json.loads((out / "results.json").read_text())
    assert written["cells"][2]["metrics"]["accuracy"] == 91.0
    assert written["machine"]["cores"] >= 1


def test_the_table_has_means_deviations_and_the_papers_numbers(tmp_path: Path) -> None:
    cells = [Cell("a", 0, {"accuracy": 90.0}, 30.0), Cell("a", 1, {"accuracy": 94.0}, 30.0)]
    assert mean_and_deviation(cells, "a", "accuracy") == "92.0 ± 2.83"
    assert mean_and_deviation(cells[:1], "a", "accuracy") == "90.0"
    assert mean_and_deviation(cells, "a", "nmse") == ""
    machine = {"gpu": None, "cores": 2, "processor": "test"}
    text = markdown_table(Counting(), cells, "small", machine, [Path("figure.png")])
    assert "| a | 92.0 ± 2.83 |  |" in text
    assert "| *other (paper)* | 97.0±0.2 | 3.00 |" in text
    wide = [Cell("a", 0, {f"pattern {n}": float(n) for n in range(5)}, 1.0)]
    assert "| pattern 3 | 3.00 |  |" in markdown_table(Counting(), wide, "small", machine, [])
    assert "1.0 core minutes" in text
    assert "![figure](figure.png)" in text


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"name": "counting-sheep"}, "counting"),
        ({"arms": ["third"]}, "third"),
        ({"seeds": 0}, "at least one seed"),
    ],
)
def test_what_is_not_there_is_refused_by_name(tmp_path: Path, asked: dict[str, object], message: str) -> None:
    with pytest.raises(ProtocolError, match=message):
        runner.run_protocol(
            **({"name": "counting", "budget": "smoke", "data": tmp_path, "out": tmp_path / "out"} | asked)  # type: ignore[arg-type]
        )


def test_a_folder_of_another_budget_is_refused(tmp_path: Path) -> None:
    runner.run_protocol("counting", "smoke", tmp_path, tmp_path / "out")
    with pytest.raises(ProtocolError, match="choose another"):
        runner.run_protocol("counting", "small", tmp_path, tmp_path / "out")
