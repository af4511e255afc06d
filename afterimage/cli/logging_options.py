"""``-v``, ``-q`` and ``--log-json``: how much a command logs, given before the subcommand or after it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from runtime.logs import configure_logging

_PANEL = "Logging"

VerboseOption = Annotated[
    int,
    typer.Option(
        "--verbose",
        "-v",
        count=True,
        metavar="",
        show_default=False,
        help="Log details as well.",
        rich_help_panel=_PANEL,
    ),
]
QuietOption = Annotated[
    int,
    typer.Option(
        "--quiet",
        "-q",
        count=True,
        metavar="",
        show_default=False,
        help="Log only warnings and errors; -qq: only errors.",
        rich_help_panel=_PANEL,
    ),
]
LogJsonOption = Annotated[
    bool,
    typer.Option(
        "--log-json", show_default=False, help="Log one JSON object per line.", rich_help_panel=_PANEL
    ),
]
_OPTIONS = {"verbose": (VerboseOption, 0), "quiet": (QuietOption, 0), "log_json": (LogJsonOption, False)}


@dataclass(frozen=True)
class LoggingOptions:
    """What was given of the three options.

    Attributes:
        verbosity: number of ``-v`` less the number of ``-q``.
        as_json: ``--log-json``.
    """

    verbosity: int = 0
    as_json: bool = False

    def apply(self, context: typer.Context) -> None:
        """Configure logging by these options and those that were given before the subcommand."""
        before = context.obj if isinstance(context.obj, LoggingOptions) else LoggingOptions()
        context.obj = LoggingOptions(before.verbosity + self.verbosity, before.as_json or self.as_json)
        configure_logging(context.obj.verbosity, as_json=context.obj.as_json)


def with_logging_options(command: Callable[..., None]) -> Callable[..., None]:
    """A command that takes the three logging options besides its own."""

    @functools.wraps(command)
    def logging_command(
        *arguments: Any, context: typer.Context, verbose: int, quiet: int, log_json: bool, **options: Any
    ) -> None:
        LoggingOptions(verbose - quiet, log_json).apply(context)
        command(*arguments, **options)

    own = inspect.signature(command, eval_str=True).parameters.values()
    keyword = inspect.Parameter.KEYWORD_ONLY
    added = [
        inspect.Parameter("context", keyword, annotation=typer.Context),
        *(
            inspect.Parameter(name, keyword, annotation=annotation, default=default)
            for name, (annotation, default) in _OPTIONS.items()
        ),
    ]
    parameters = [*own, *added]
    logging_command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    logging_command.__annotations__ = {p.name: p.annotation for p in parameters}
    return logging_command
