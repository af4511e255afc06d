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
from afterimage.cli.logging_options import (
    LoggingOptions,
    LogJsonOption,
    QuietOption,
    VerboseOption,
    with_logging_options,
)
from configs.errors import AfterimageError

app = typer.Typer(
    help="A streaming multimodal sensor runtime: fills a dead sensor from a learned model, and says that it did.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)


def _version(asked: bool) -> None:
    if asked:
        print(__version__)
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version."
    ),
    verbose: VerboseOption = 0,
    quiet: QuietOption = 0,
    log_json: LogJsonOption = False,
) -> None:
    """Options before the subcommand."""
    LoggingOptions(verbose - quiet, log_json).apply(context)


for _name, _command in {
    "demo": demo.demo,
    "train": train.train,
    "evaluate": evaluate.evaluate,
    "retrieve": retrieve.retrieve,
    "compile": compile_command.compile_bundle,
    "sense": sense.sense,
    "run": run.run,
    "swap": swap.swap,
    "watch": watch.watch,
    "record": record.record,
    "replay": replay.replay,
    "import": import_file.import_file,
    "doctor": doctor.doctor,
    "paper": paper.paper,
}.items():
    app.command(_name)(with_logging_options(_command))
app.add_typer(dataset.dataset, name="dataset")
app.add_typer(bench.bench, name="bench")
app.add_typer(keys.keys, name="keys")
app.add_typer(bridge.bridge, name="bridge")


def main() -> None:
    """Run the command; an :class:`AfterimageError` becomes one line and exit code 2, Ctrl-C exit code 130."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except AfterimageError as e:
        Console(stderr=True).print(
            f"[bold red]afterimage:[/] {escape(str(e))}", highlight=False, soft_wrap=True
        )
        sys.exit(2)
