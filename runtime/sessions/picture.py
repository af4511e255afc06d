"""A data set in one picture: when each sensor delivered, and what was labelled when, session by session."""

from __future__ import annotations

from pathlib import Path

from configs.errors import import_extra
from runtime.core.clock import NS_PER_S
from runtime.sessions.dataset import Dataset
from runtime.sessions.splits import DatasetError

_MOST_SESSIONS = 24


def draw_dataset(dataset: Dataset, path: Path) -> Path:
    """Draw the sessions of a data set, the first two dozen if there are more.

    Args:
        dataset: to be drawn.
        path: of the picture; its suffix says the format.

    Returns:
        The path.

    Raises:
        MissingExtraError: matplotlib is not installed.
        DatasetError: the file cannot be written.
    """
    import_extra("matplotlib", "the picture of a data set").use("agg")
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    sessions = dataset.sessions[:_MOST_SESSIONS]
    rows = list(dataset.rig.modality_names)
    figure = Figure(figsize=(11, 0.6 + len(sessions) * (0.6 + 0.25 * len(rows))), layout="constrained")
    axes = figure.subplots(len(sessions), 1, squeeze=False)[:, 0]
    colours = colormaps["tab20"]
    for session, part in zip(sessions, axes, strict=True):
        begin_ns, _ = session.span_ns
        for row, modality in enumerate(rows):
            stream = session.streams.get(modality)
            bars = [
                ((s.begin_ns - begin_ns) / NS_PER_S, (s.end_ns - s.begin_ns) / NS_PER_S)
                for s in (stream.segments if stream is not None else ())
            ]
            part.broken_barh(bars, (row + 0.15, 0.7), facecolors="0.35")
        for label in session.labels:
            if label.name in dataset.classes and label.end_ns is not None:
                index = dataset.classes.index(label.name)
                left, right = ((t - begin_ns) / NS_PER_S for t in (label.onset_ns, label.end_ns))
                part.broken_barh(
                    [(left, right - left)], (len(rows) + 0.1, 0.8), facecolors=[colours(index % 20)]
                )
        part.set_yticks([r + 0.5 for r in range(len(rows) + 1)], [*rows, "label"])
        part.set_ylim(len(rows) + 1, 0)
        part.set_title(session.name, loc="left", fontsize=9)
        part.margins(x=0)
    axes[-1].set_xlabel("s")
    handles = [Patch(color=colours(i % 20)) for i in range(min(20, len(dataset.classes)))]
    figure.legend(handles, dataset.classes[:20], loc="outside upper right", ncols=10, fontsize=8)
    try:
        figure.savefig(path, dpi=110)
    except (OSError, ValueError) as e:  # no such folder; a format that matplotlib does not know
        raise DatasetError(f"{path}: the picture cannot be written: {e}") from e
    return path
