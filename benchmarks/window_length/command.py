"""``python -m benchmarks window_length``: accuracy of a plain supervised network by sensor and window length."""

from __future__ import annotations

from typing import Annotated

import typer

from afterimage.cli.arguments import DataOption, JsonOption, SyntheticOption, data_name
from afterimage.cli.bench_output import progress, show_report
from configs.errors import import_extra


def window_length(
    data: DataOption = None,
    synthetic: SyntheticOption = False,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each network.")] = 3,
    steps: Annotated[int, typer.Option(min=1, help="Steps of each training.")] = 800,
    json_file: JsonOption = None,
) -> None:
    """Train a plain supervised network for each sensor and window length, and test it.

    Examples:

      python -m benchmarks window_length --steps 400

      python -m benchmarks window_length --synthetic --seeds 1 --json window-length.json
    """
    from runtime.signals.opening import open_source

    measurement = import_extra("benchmarks.window_length.measurement", "training")
    source = open_source(data_name(data, synthetic), data)
    with progress() as say:
        report = measurement.measure_window_lengths(source, seeds, steps, say)
    show_report(report, json_file, [measurement.window_length_table(report)])
