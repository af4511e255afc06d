"""``python -m benchmarks``: a line for each subcommand, which has the name of the package that it runs."""

from __future__ import annotations

import sys

import typer
from rich.console import Console
from rich.markup import escape

from benchmarks.dropout.command import dropout
from benchmarks.latency.command import latency
from benchmarks.live_sensors.command import live_sensors
from benchmarks.soak.command import soak
from benchmarks.throughput.command import throughput
from benchmarks.window_length.command import window_length
from configs.errors import AfterimageError

app = typer.Typer(
    help="Measure Afterimage on this machine, from a clone of the repository.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
app.command("latency")(latency)
app.command("throughput")(throughput)
app.command("dropout")(dropout)
app.command("soak")(soak)
app.command("live_sensors")(live_sensors)
app.command("window_length")(window_length)


def main() -> None:
    """Run a subcommand; an :class:`AfterimageError` becomes one line on stderr and exit code 2."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except AfterimageError as e:
        Console(stderr=True).print(
            f"[bold red]benchmarks:[/] {escape(str(e))}", highlight=False, soft_wrap=True
        )
        sys.exit(2)


if __name__ == "__main__":
    main()
