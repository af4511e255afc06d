"""``afterimage demo``: train a model, then break every sensor live, by a script or by the user's hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from afterimage.cli.arguments import (
    DataOption,
    JsonOption,
    SeedOption,
    SyntheticOption,
    data_name,
    write_json,
)
from configs.errors import MissingExtraError, import_extra

if TYPE_CHECKING:
    from rich.console import Console

    from runtime.view.serving import PageOptions


def demo(
    system: Annotated[
        str, typer.Option("--system", help="As for `afterimage train`: svae, associators, ...")
    ] = "svae",
    data: DataOption = None,
    synthetic: SyntheticOption = False,
    bundle: Annotated[
        Path | None, typer.Option("--bundle", help="Use this bundle instead of training.", exists=True)
    ] = None,
    live: Annotated[
        bool,
        typer.Option(
            "--live",
            help="Play until Ctrl-C with a kill switch for each sensor, instead of the script and its report.",
        ),
    ] = False,
    headless: Annotated[
        bool, typer.Option("--headless", help="No live view and no page; print one line per fault.")
    ] = False,
    no_page: Annotated[bool, typer.Option("--no-page", help="Do not serve the live page.")] = False,
    port: Annotated[
        int | None, typer.Option(help="Port of the page. Default: 8765, or a free one.", min=0, max=65535)
    ] = None,
    json_file: JsonOption = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for bundle, engine and picture.")] = None,
    seed: SeedOption = 0,
    minutes: Annotated[float, typer.Option(help="Longest time for training.")] = 3.5,
    fault_seconds: Annotated[float, typer.Option(help="How long each fault lasts.")] = 2.0,
) -> None:
    """Train a model, play test recordings as four live sensors, break them one after the other, and report.

    Without --data the recorded packs are used if they are found ($AFTERIMAGE_DATA, ../shared/data), else the
    synthetic rig, which needs no files. A live page shows the run, in a browser if there is a display. It ends with a
    table, a picture and, on request, JSON. With --live, a bundle (the given one, else that of an earlier demo, else a
    new one) decides until Ctrl-C, and the page has a switch for each sensor that kills its process.

    Examples:

      afterimage demo

      afterimage demo --live

      afterimage demo --headless --json report.json

      afterimage demo --system associators --bundle runs/associators/bundle
    """
    from rich.console import Console

    name = data_name(data, synthetic)
    out = out or Path("runs") / f"demo-{system}"
    to_stdout = json_file is not None and str(json_file) == "-"
    console = Console(stderr=to_stdout)
    page = None if headless or no_page else _page_options(port, console)
    if live:
        earlier = out / "bundle"
        bundle = bundle or (earlier if (earlier / "manifest.json").is_file() else None)
        _play(system, name, data, bundle, out, seed, minutes, page, console)
        return
    import_extra("torch", "the demo")
    import_extra("matplotlib", "the demo's picture")
    from afterimage.demo.run import DemoOptions, run_demo

    report = run_demo(
        DemoOptions(system, name, data, bundle, out, seed, minutes, fault_seconds, headless, page), console
    )
    if json_file is not None:
        write_json(json_file, json.dumps(report, indent=1))
    console.print(f"picture: {out / 'report.png'}", highlight=False)


def _page_options(port: int | None, console: Console) -> PageOptions | None:
    """Where the page is served; None, after a line that says why, if its extra is not installed."""
    from runtime.view.serving import PageOptions

    try:
        import_extra("runtime.view.page", "the live page")
    except MissingExtraError as e:
        console.print(f"no live page: {e}", highlight=False, markup=False)
        return None
    return PageOptions(port=port)


def _play(
    system: str,
    data: Literal["recorded", "synthetic", "auto"],
    data_dir: Path | None,
    bundle: Path | None,
    out: Path,
    seed: int,
    minutes: float,
    page: PageOptions | None,
    console: Console,
) -> None:
    """The live demo, after training if there is no bundle yet."""
    from afterimage.demo.live import run_live
    from runtime.signals.opening import find_data_dir, open_source

    source = open_source(data, data_dir)
    if bundle is None:
        import_extra("torch", "training")
        from trainers.training import train

        console.print(f"training {system} for at most {minutes:g} minutes", highlight=False)
        bundle = train(system, source, out, seed=seed, minutes=minutes)
    folder = find_data_dir(data_dir) if source.name == "recorded" else None
    run_live(bundle, source, folder, console, seed=seed, page=page)
