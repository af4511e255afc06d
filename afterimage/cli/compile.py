"""``afterimage compile``: turn a bundle into an engine for one target."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def compile_bundle(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.", exists=True, file_okay=False)],
    target: Annotated[
        str, typer.Option("--target", help="cpu, tensorrt-rtx, tensorrt, or a target file.")
    ] = "cpu",
    out: Annotated[
        Path | None, typer.Option("--out", help="Engine folder. Default: beside the bundle.")
    ] = None,
) -> None:
    """Compile a bundle for a target and check it against the trainer's golden values where it can run here.

    Example:

      afterimage compile runs/svae/bundle --target tensorrt-rtx
    """
    from rich.progress import Progress

    from engines.compile import compile_bundle as build
    from engines.engine import load_engine
    from engines.targets import load_target

    with Progress(transient=True) as bar:
        task = bar.add_task(f"compiling for {target}", total=None)

        def progress(done: int, total: int, what: str) -> None:
            bar.update(task, completed=done, total=total, description=what)

        engine = build(bundle, load_target(target), out, progress=progress)
    parity = load_engine(engine)[0].parity
    checked = (
        f"{parity.status}: {parity.comparisons} comparisons, worst relative error {parity.worst_relative_error:.1e}"
        if parity.worst_relative_error is not None
        else f"{parity.status}: {parity.reason}"
    )
    typer.echo(f"engine: {engine}\nparity: {checked}")
