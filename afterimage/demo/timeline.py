"""The demo's picture: every sensor's state and every decision over time, and real beside imputed signals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from afterimage.demo.scoring import FaultInterval, TickRecord

STATE_COLOURS = {
    "live": "#2a9d8f",
    "late": "#e9c46a",
    "missing": "#9aa0a6",
    "frozen": "#5e60ce",
    "corrupt": "#d1495b",
    "bad_clock": "#9c5a2c",
    "implausible": "#c2417c",
    "waiting": "#dddddd",
}
CLASS_COLOURS = ("#355070", "#e56b6f", "#eaac8b", "#6d9dc5", "#8ab17d", "#b56576", "#577590", "#f4a261")


@dataclass(frozen=True)
class ImputedExample:
    """One modality's imputation beside what its silent sensor would have shown, in the observation's unit."""

    modality: str
    kind: str
    label: str
    given: tuple[str, ...]
    measured: npt.NDArray[np.floating[Any]]
    imputed: npt.NDArray[np.floating[Any]]


def draw_timeline(
    path: Path,
    title: str,
    classes: tuple[str, ...],
    names: tuple[str, ...],
    ticks: Sequence[TickRecord],
    faults: Sequence[FaultInterval],
    examples: Sequence[ImputedExample],
    rates_hz: Mapping[str, float],
) -> None:
    """Draw and save the picture as PNG.

    Args:
        path: where to write; its folder is made.
        title: one line above everything.
        classes: in the bundle's order.
        names: modalities in mask order.
        ticks: decisions in order of time.
        faults: drawn as outlines over the state bars.
        examples: one per modality, real beside imputed.
        rates_hz: modality -> sample rate, for the EEG's time axis.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(13, 8.6), layout="constrained")
    figure.suptitle(title, fontsize=12, x=0.01, ha="left", weight="bold")
    top, bottom = figure.subfigures(2, 1, height_ratios=(1.35, 1))
    axes = top.subplots(3, 1, sharex=True, height_ratios=(0.55, 1.2, 1.5))
    time = np.array([t.time_s for t in ticks])
    _draw_decisions(axes[0], time, ticks, classes)
    _draw_probabilities(axes[1], time, ticks, classes)
    _draw_states(axes[2], time, ticks, names, faults)
    if examples:
        _draw_examples(bottom, examples, rates_hz)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _runs(values: Sequence[str], time: npt.NDArray[Any]) -> list[tuple[float, float, str]]:
    """(start, width, value) of stretches of equal values; the last one gets one tick's width."""
    if not len(values):
        return []
    step = float(np.median(np.diff(time))) if len(time) > 1 else 0.05
    cuts = [0, *(i for i in range(1, len(values)) if values[i] != values[i - 1]), len(values)]
    ends = [*time.tolist(), float(time[-1]) + step]
    return [(ends[a], ends[b] - ends[a], values[a]) for a, b in pairwise(cuts)]


def _legend_above(axis: Any, handles: Sequence[Any]) -> None:
    """All keys in one row, right above the axis."""
    axis.legend(
        handles=handles,
        ncols=len(handles),
        loc="lower right",
        bbox_to_anchor=(1, 1),
        frameon=False,
        fontsize=8,
    )


def _draw_decisions(
    axis: Any, time: npt.NDArray[Any], ticks: Sequence[TickRecord], classes: tuple[str, ...]
) -> None:
    colours = dict(zip(classes, CLASS_COLOURS, strict=False))
    for row, pick in ((1, "truth"), (0, "label")):
        for start, width, value in _runs([getattr(t, pick) for t in ticks], time):
            axis.broken_barh([(start, width)], (row + 0.08, 0.84), color=colours.get(value, "black"), lw=0)
    axis.set(yticks=(0.5, 1.5), yticklabels=("decided", "truth"), ylim=(0, 2))
    handles = [axis.scatter([], [], marker="s", color=c, label=k) for k, c in colours.items()]
    _legend_above(axis, handles)
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)


def _draw_probabilities(
    axis: Any, time: npt.NDArray[Any], ticks: Sequence[TickRecord], classes: tuple[str, ...]
) -> None:
    if len(ticks):
        shares = np.array([t.probabilities for t in ticks]).T
        axis.stackplot(time, shares, colors=CLASS_COLOURS[: len(classes)], step="post", lw=0)
    axis.set(ylim=(0, 1), ylabel="probability")
    axis.spines[["top", "right"]].set_visible(False)


def _draw_states(
    axis: Any,
    time: npt.NDArray[Any],
    ticks: Sequence[TickRecord],
    names: tuple[str, ...],
    faults: Sequence[FaultInterval],
) -> None:
    seen = set()
    for row, name in enumerate(reversed(names)):
        for start, width, state in _runs([t.states[name] for t in ticks], time):
            seen.add(state)
            axis.broken_barh(
                [(start, width)], (row + 0.14, 0.72), color=STATE_COLOURS.get(state, "black"), lw=0
            )
        for f in faults:
            if f.modality == name:
                box = [(f.start_s, f.end_s - f.start_s)]
                axis.broken_barh(box, (row + 0.06, 0.88), facecolor="none", edgecolor="black", lw=0.8)
    axis.set(
        yticks=np.arange(len(names)) + 0.5,
        yticklabels=list(reversed(names)),
        ylim=(0, len(names)),
        xlabel="seconds",
    )
    handles = [
        axis.scatter([], [], marker="s", color=c, label=s) for s, c in STATE_COLOURS.items() if s in seen
    ]
    handles.append(
        axis.scatter([], [], marker="s", facecolor="none", edgecolor="black", label="fault injected")
    )
    _legend_above(axis, handles)
    axis.spines[:].set_visible(False)
    axis.tick_params(axis="y", length=0)


def _draw_examples(figure: Any, examples: Sequence[ImputedExample], rates_hz: Mapping[str, float]) -> None:
    grid = figure.subfigures(1, len(examples))
    for part, example in zip(np.atleast_1d(grid), examples, strict=True):
        part.suptitle(
            f"{example.modality}: “{example.label}”, IMPUTED from {' + '.join(example.given)}", fontsize=8.5
        )
        if example.kind == "eeg":
            _draw_spectra(part.subplots(), example, rates_hz[example.modality])
            continue
        axes = part.subplots(1 if example.kind != "audio" else 2, 2 if example.kind != "audio" else 1)
        shown = (example.measured, example.imputed)
        if example.kind == "audio":
            shown = (log_mel(shown[0]), log_mel(shown[1]))
        low, high = np.percentile(shown[0], (1, 99))
        pairs = ((shown[0], "would have measured"), (shown[1], "imputed"))
        for axis, (picture, caption) in zip(axes.flat, pairs, strict=True):
            axis.set_title(
                caption, fontsize=8, color="black" if caption != "imputed" else STATE_COLOURS["corrupt"]
            )
            axis.set(xticks=(), yticks=())
            if example.kind == "rgb":
                axis.imshow(np.clip(picture, 0, 255).astype(np.uint8))
            else:
                wide = (
                    {"aspect": "auto", "origin": "lower", "cmap": "magma"}
                    if example.kind == "audio"
                    else {"cmap": "viridis_r"}
                )
                axis.imshow(picture, vmin=low, vmax=high, **wide)


def log_mel(cepstrum: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.floating[Any]]:
    """The log mel spectrogram of an MFCC (coefficients, frames): the inverse of the orthonormal DCT-II."""
    count = len(cepstrum)
    order, band = np.arange(count)[:, None], np.arange(count)[None, :]
    transform = np.sqrt(2.0 / count) * np.cos(np.pi * order * (2 * band + 1) / (2 * count))
    transform[0] /= np.sqrt(2.0)
    spectrogram: npt.NDArray[np.floating[Any]] = transform.T @ cepstrum
    return spectrogram


def _draw_spectra(axis: Any, example: ImputedExample, rate_hz: float) -> None:
    """Mean EEG amplitude over channels; the imputed phase is arbitrary, so waveforms would mislead."""
    for wave, caption, colour in (
        (example.measured, "would have measured", "black"),
        (example.imputed, "imputed", STATE_COLOURS["corrupt"]),
    ):
        amplitude = np.abs(np.fft.rfft(wave, axis=0)).mean(1) * 2 / len(wave)
        hertz = np.fft.rfftfreq(len(wave), 1 / rate_hz)
        shown = (hertz >= 5) & (hertz <= 48)
        axis.plot(hertz[shown], amplitude[shown], color=colour, lw=1, label=caption)
    axis.set_xlabel("Hz", fontsize=8)
    axis.set_ylabel(r"$\mu$V", fontsize=8)
    axis.tick_params(labelsize=7)
    axis.legend(frameon=False, fontsize=7)
    axis.spines[["top", "right"]].set_visible(False)
