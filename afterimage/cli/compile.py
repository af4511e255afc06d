"""``afterimage compile``: turn a bundle into an engine for one target."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from afterimage.cli.arguments import JsonOption, write_json

if TYPE_CHECKING:
    from engines.engine import EngineManifest


def compile_bundle(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.", exists=True, file_okay=False)],
    target: Annotated[
        str,
        typer.Option("--target", metavar="NAME|FILE", help="A shipped target, or the path of a target file."),
    ] = "cpu",
    precision: Annotated[
        str | None,
        typer.Option(
            "--precision", help="fp32, fp16, bf16 or int8, instead of the target's.", show_default=False
        ),
    ] = None,
    batch: Annotated[
        str | None,
        typer.Option(
            "--batch",
            metavar="N|1..N",
            help="Largest batch, instead of the target's (TensorRT).",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Engine folder. Default: beside the bundle.")
    ] = None,
    json_file: JsonOption = None,
) -> None:
    """Compile a bundle for a target, and check what it computes and decides against PyTorch.

    If the target cannot run on this machine, ONNX Runtime checks its rounding instead. No engine is written if more
    decisions change in any missing pattern than the target allows: none in fp32, 0.5 % in fp16 and bf16, 1 % in int8.

    Exits with code 2 and one line on stderr if the bundle, the target or the machine cannot be used.

    Examples:

      afterimage compile runs/svae/bundle

      afterimage compile runs/svae/bundle --precision int8 --json -

      afterimage compile runs/svae/bundle --target tensorrt-rtx --precision fp16 --batch 1..32
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from engines.compiling.compile import compile_bundle as build
    from engines.engine import load_engine
    from engines.targets import load_target, overridden

    chosen = overridden(load_target(target), precision, batch)
    columns = (
        TextColumn("{task.completed}/{task.total}"), BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(f"compiling for {chosen.name}", total=None)

        def progress(done: int, total: int, what: str) -> None:
            bar.update(task, completed=done, total=total, description=what)

        folder = build(bundle, chosen, out, progress=progress)
    engine, _ = load_engine(folder)
    if json_file is not None:
        record = engine.model_dump(mode="json", exclude={"files"})
        write_json(json_file, json.dumps({"engine": str(folder), **record}, indent=1))
    if json_file is None or str(json_file) != "-":
        typer.echo(f"engine: {folder}\n{summary(engine)}")


def summary(engine: EngineManifest) -> str:
    """The engine's precision and the results of its checks, in a few lines."""
    parity = engine.parity
    lines = [f"precision: {engine.precision}"]
    if engine.reduced_products:
        counts = ", ".join(f"{graph} {count}" for graph, count in engine.reduced_products.items())
        lines[0] += f", of convolutions and matrix products: {counts}"
    lines.append(
        f"parity: {parity.status}{f' ({parity.reason})' if parity.reason else ''}; checked on {parity.checked_on}: "
        f"{parity.comparisons} comparisons, worst relative error {parity.worst_relative_error:.1e}, allowed "
        f"{parity.threshold:.0e}"
    )
    decisions = parity.decisions
    if decisions is None:
        lines.append("decisions: not checked, the bundle has no decision set; export it again for one")
    elif not decisions.differing:
        lines.append(f"decisions: as PyTorch's in every missing pattern ({decisions.rows} windows each)")
    else:
        lines.append(
            f"decisions: {decisions.worst_share:.1%} of {decisions.rows} differ in the worst missing pattern, "
            f"{decisions.worst_pattern}; allowed {decisions.allowed:.1%}"
        )
    return "\n".join(lines)
