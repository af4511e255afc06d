"""All systems on the headline rig, in all fifteen missing patterns, against what systems without a mask do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from engines.bundle import pattern_key, presence_patterns
from engines.opening import open_session
from engines.session import Session
from runtime.signals.moments import MomentSource
from runtime.signals.opening import open_source
from trainers.configuration import load_model_config, shipped_models
from trainers.evaluation.patterns import (
    collect_windows,
    encode_all,
    previous_rows,
    score_patterns,
    zero_evidence,
)
from trainers.papers.protocol import Budget, Cell, Metrics, Protocol, Report
from trainers.training import train

SMOKE_ARMS = ("svae", "associators")
SMOKE_STEPS = 4
SMOKE_MOMENTS = 40
STEPS_FACTOR: dict[Budget, float] = {"small": 0.6, "full": 8.0}
"""Factor on the shipped configuration's steps, by budget; time has no influence, so that a run repeats exactly."""
ADVERSARIAL_SHARE = 1 / 3
"""Share of these steps in phases with adversaries, where a step takes about four times as long."""


class Commands4(Protocol):
    """Fused accuracy of every system in every pattern: our own table, since no paper has this rig."""

    name = "commands-4"
    title = "fused accuracy of all systems in all 15 missing patterns"
    reference = "Our own rig, on recordings paired by class (not recorded together, but for RGB and depth)"
    published: Mapping[str, Mapping[str, float | str]] = {}
    notes = (
        "Columns name the sensors that are there; figures are accuracy in percent on the test split, two "
        "windows of each moment.",
        "1500 steps at `small`, adversarial systems 500, which take longer still; associators 960, "
        "1500 and 180 in their phases.",
        "`over hold` and `over zero`: the smallest lead, in points, that imputing has over repeating the sensor's last "
        "window or giving it a blank one, over all patterns with a sensor missing.",
        "`at least once behind`: the number of those patterns in which imputing is behind either.",
    )

    def arms(self, budget: Budget) -> tuple[str, ...]:
        """Every shipped model; two at ``smoke``."""
        return SMOKE_ARMS if budget == "smoke" else tuple(shipped_models())

    def run(self, arm: str, seed: int, budget: Budget, data: Path, folder: Path, report: Report) -> Metrics:
        """Train the shipped configuration and score its exported bundle."""
        source = open_source("recorded", data)
        report("train", 0, 1)
        bundle = train(
            arm,
            source,
            folder,
            seed=seed,
            resume=(folder / "checkpoint").exists(),
            changes=_changes(arm, budget),
            console=Console(quiet=True),
        )
        report("measure", 0, 1)
        with open_session(bundle) as session:
            return pattern_metrics(session, source, seed, SMOKE_MOMENTS if budget == "smoke" else None)

    def figures(self, cells: Sequence[Cell], folder: Path) -> list[Path]:
        """Accuracy of every system over the patterns, fewest sensors last."""
        return [_draw_patterns(cells, folder / "patterns.png")]


def pattern_metrics(
    session: Session, source: MomentSource, seed: int, limit: int | None, views: int = 2
) -> Metrics:
    """Accuracy in percent by pattern, the worst with one sensor missing, and the lead over ``hold`` and ``zero``.

    Args:
        session: an open bundle or engine.
        source: with its classes and sensors.
        seed: of window ends and of the order in which ``hold`` plays moments.
        limit: only the first so many test moments; all by default.
        views: windows of every moment.
    """
    names = session.manifest.modality_names
    moments, labels, windows = collect_windows(session, source, "test", views, limit, seed)
    live = encode_all(session, windows)
    before = previous_rows(moments, seed)
    held = {name: evidence[before] for name, evidence in live.items()}
    scores = score_patterns(session, live, held, zero_evidence(session, len(labels)), labels).accuracy
    patterns = {pattern_key(names, p): sum(p) for p in presence_patterns(len(names))}
    impute = {key: 100 * scores["impute"][key] for key in patterns}
    missing = [key for key, count in patterns.items() if count < len(names)]
    leads = {policy: [impute[k] - 100 * scores[policy][k] for k in missing] for policy in ("hold", "zero")}
    return impute | {
        "worst with one missing": min(impute[k] for k, count in patterns.items() if count == len(names) - 1),
        "over hold": min(leads["hold"]),
        "over zero": min(leads["zero"]),
        "at least once behind": float(
            sum(min(pair) < 0 for pair in zip(leads["hold"], leads["zero"], strict=True))
        ),
    }


def _changes(arm: str, budget: Budget) -> dict[str, object]:
    phases = load_model_config(arm).phases
    if budget == "smoke":
        few: dict[str, object] = {f"phases.{name}.steps": SMOKE_STEPS for name in phases}
        return few | {"validation_moments": SMOKE_MOMENTS, "validation_views": 1}
    factors = {n: STEPS_FACTOR[budget] * (ADVERSARIAL_SHARE if n == "adversarial" else 1) for n in phases}
    return {f"phases.{name}.steps": round(factors[name] * phase.steps) for name, phase in phases.items()}


def _draw_patterns(cells: Sequence[Cell], path: Path) -> Path:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    metrics = [m for m in cells[0].metrics if m.split("+")[0] in cells[0].metrics and " " not in m]
    arms = list(dict.fromkeys(cell.arm for cell in cells))
    figure, axes = pyplot.subplots(figsize=(11, 5), layout="constrained")
    for number, arm in enumerate(arms):
        mine = [cell for cell in cells if cell.arm == arm]
        means = [sum(cell.metrics[m] for cell in mine) / len(mine) for m in metrics]
        axes.plot(means, marker="os^Dv<>pP*Xdh"[number % 13], markersize=5, linewidth=1, label=arm)
    axes.axhline(25, color="0.6", linestyle=":", linewidth=1)
    axes.set_xticks(range(len(metrics)), [m.replace("+", "\n") for m in metrics], fontsize=8)
    axes.set_ylabel("accuracy, %")
    axes.set_xlabel("sensors present (dotted: chance)")
    axes.legend(fontsize=8, ncols=2)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
    return path
