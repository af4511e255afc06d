"""The report of ``afterimage bench engines``: ratios, floors beside the latencies, and the tables that people read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from afterimage.bench.engines.contenders import REFERENCE

EAGER = "pytorch-eager"
INT8 = f"{REFERENCE}-int8"


def with_ratios(measured: Mapping[str, Any]) -> dict[str, Any]:
    """The measurement with ``ratios``, each above 1 where ONNX Runtime (or int8) is the faster; None where unknown."""
    ort = _p50(measured, REFERENCE)
    eager = _p50(measured, EAGER)
    others = [
        p50
        for name, of in measured["contenders"].items()
        if name != REFERENCE and of["device"] == "cpu" and of["precision"] == "fp32"
        if (p50 := _p50(measured, name)) is not None
    ]
    int8 = _p50(measured, INT8)
    failover = measured["failover"].get(REFERENCE)
    report = dict(measured)
    report["ratios"] = {
        "ort_vs_eager": _ratio(eager, ort),
        "ort_vs_best_other": _ratio(min(others, default=None), ort),
        "int8_vs_fp32": _ratio(ort, int8),
        "pattern_p99_spread": None if failover is None else failover["spread"],
        "pattern_p99_null_spread": None if failover is None else failover["null_spread"],
    }
    if int8 is None:
        report["int8"] = measured["absent"].get(INT8, "no int8 target took part")
    return report


def with_floors(report: Mapping[str, Any], bundle: Path, threads: int) -> dict[str, Any]:
    """The report with the measured peak of the machine and each graph's floor; without onnx, with the reason."""
    try:
        # Imported here: the extra `train` brings onnx.
        from engines.measuring import floors
    except ModuleNotFoundError as e:
        return {
            **report,
            "floors": None,
            "floors_absent": f"{e.name} is not installed: pip install 'afterimage[train]'",
        }
    peak = floors.measure_peak(threads, _torch_gemm(threads))
    p50_us = {graph: _p50_by_batch(of[REFERENCE]) for graph, of in report["graphs"].items()}
    tick_p50_us = _p50_by_batch(report["tick"][REFERENCE])
    batches = sorted({int(b) for of in report["tick"].values() for b in of})
    machine = {
        **report["machine"],
        "gemm_gflops": round(peak.flops / 1e9, 1),
        "copy_gb_per_s": {str(size): round(rate / 1e9, 1) for size, rate in peak.bytes_per_s.items()},
    }
    return {
        **report,
        "floors": floors.floors_of(bundle, p50_us, tick_p50_us, batches, peak),
        "machine": machine,
    }


def _p50_by_batch(figures: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    return {batch: of["p50_us"] for batch, of in figures.items()}


def _torch_gemm(threads: int) -> Any:
    """A square product in PyTorch, for the peak; None where it is not installed."""
    try:
        import torch
    except ModuleNotFoundError:
        return None
    from engines.measuring.floors import fastest

    def seconds(side: int) -> float:
        torch.set_num_threads(threads)
        matrix = torch.ones(side, side)
        return fastest(lambda: torch.mm(matrix, matrix))

    return seconds


def tables(report: Mapping[str, Any]) -> list[Table]:
    """Whole ticks, graphs at batch 1, and what opening costs a fresh process."""
    return [_tick_table(report), _graph_table(report), _fresh_table(report)]


def summary(report: Mapping[str, Any]) -> str:
    """The ratios in a few lines, and what did not take part."""
    r = report["ratios"]
    lines = [
        f"ONNX Runtime against PyTorch eager, a whole tick at batch 1: {_times(r['ort_vs_eager'])}; against the "
        f"fastest other: {_times(r['ort_vs_best_other'])}",
        f"int8 against fp32: {_times(r['int8_vs_fp32'])}"
        + (f" ({report['int8']})" if "int8" in report else ""),
    ]
    for name, of in report["failover"].items():
        lines.append(
            f"p99 of fuse over all missing patterns on {name}: {of['spread']:+.1%} of the full pattern's "
            f"{of['full_p99_us']:.0f} us; the full pattern against itself: {of['null_spread']:+.1%}"
        )
    lines += [f"not measured: {name}: {reason}" for name, reason in report["absent"].items()]
    return "\n".join(lines)


def _tick_table(report: Mapping[str, Any]) -> Table:
    batches = sorted({b for of in report["tick"].values() for b in of}, key=int)
    table = Table(title="whole tick (every encoder and fuse): p50 / p99 in ms, decisions per second")
    table.add_column("backend", overflow="fold")
    for batch in batches:
        table.add_column(f"batch {batch}", justify="right")
    for name, of in report["tick"].items():
        cells = [
            f"{f['p50_us'] / 1e3:.2f} / {f['p99_us'] / 1e3:.2f}\n{f['rows_per_s']:,.0f}/s" if f else "–"
            for f in (of.get(b) for b in batches)
        ]
        table.add_row(name, *cells)
    if floors := report.get("floors"):
        table.add_row(
            "floor\n(latency over it)",
            *(
                f"{floors['tick'][b]['floor_us'] / 1e3:.2f}\n{floors['tick'][b]['latency_over_floor']}x"
                for b in batches
            ),
        )
    return table


def _graph_table(report: Mapping[str, Any]) -> Table:
    names = list(report["tick"])
    table = Table(title="graphs at the smallest batch: p50 in us")
    table.add_column("graph", no_wrap=True)
    for name in (*names, "floor", f"{REFERENCE}/floor"):
        table.add_column(name, justify="right", overflow="fold")
    batch = min((b for of in report["tick"].values() for b in of), key=int)
    for graph, of in report["graphs"].items():
        row = [f"{of[n][batch]['p50_us']:.0f}" if batch in of[n] else "–" for n in names]
        if floors := report.get("floors"):
            floor = floors[graph][batch]
            row += [f"{floor['floor_us']:.0f}", f"{floor['latency_over_floor']}x"]
        table.add_row(graph, *row)
    return table


def _fresh_table(report: Mapping[str, Any]) -> Table:
    table = Table(title="a fresh process")
    headings = (
        "backend",
        "import",
        "load",
        "first tick",
        "start to first decision",
        "library",
        "model",
        "peak",
    )
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "backend" else "right", overflow="fold")
    for name, f in report["fresh_process"].items():
        if "error" in f:
            table.add_row(name, f["error"])
            continue
        table.add_row(
            name,
            *(f"{1e3 * f[k]:,.0f} ms" for k in ("import_s", "load_s", "first_tick_s", "first_decision_s")),
            f"{f['library_mib']:.0f} MiB",
            f"{f['load_mib'] + f['first_tick_mib']:.0f} MiB",
            f"{f['peak_mib']:.0f} MiB",
        )
    return table


def _p50(measured: Mapping[str, Any], name: str) -> float | None:
    """Median of a contender's whole tick at batch 1, in microseconds."""
    figures = measured["tick"].get(name, {}).get("1")
    return None if figures is None else float(figures["p50_us"])


def _ratio(above: float | None, below: float | None) -> float | None:
    return None if above is None or below is None else round(above / below, 3)


def _times(ratio: float | None) -> str:
    return "not measured" if ratio is None else f"{ratio:.2f}x"
