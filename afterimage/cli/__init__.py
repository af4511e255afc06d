"""The ``afterimage`` command: one file per subcommand, each importing what it needs only when it runs."""

from __future__ import annotations

import sys

import typer
from rich.console import Console
from rich.markup import escape

from afterimage import __version__
from afterimage.cli import (
    bench,
    bridge,
    dataset,
    demo,
    doctor,
    evaluate,
    import_file,
    keys,
    paper,
    record,
    replay,
    retrieve,
    run,
    sense,
    swap,
    train,
    watch,
)
from afterimage.cli import compile as compile_command
from configs.errors import AfterimageError

app = typer.Typer(
    help="A streaming multimodal sensor runtime: fills a dead sensor from a learned model, and says that it did.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version."
    ),
) -> None:
    """Options before the subcommand."""


app.command("demo")(demo.demo)
app.command("train")(train.train)
app.command("evaluate")(evaluate.evaluate)
app.command("retrieve")(retrieve.retrieve)
app.command("compile")(compile_command.compile_bundle)
app.command("sense")(sense.sense)
app.command("run")(run.run)
app.command("swap")(swap.swap)
app.command("watch")(watch.watch)
app.command("record")(record.record)
app.command("replay")(replay.replay)
app.command("import")(import_file.import_file)
app.command("doctor")(doctor.doctor)
app.add_typer(dataset.dataset, name="dataset")
app.add_typer(bench.bench, name="bench")
app.command("paper")(paper.paper)
app.add_typer(keys.keys, name="keys")
app.add_typer(bridge.bridge, name="bridge")


def main() -> None:
    """Run the command; an :class:`AfterimageError` becomes one line on stderr and exit code 2, Ctrl-C exit code 130."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except AfterimageError as e:
        Console(stderr=True).print(
            f"[bold red]afterimage:[/] {escape(str(e))}", highlight=False, soft_wrap=True
        )
        sys.exit(2)
