"""The record of which recordings were paired, saved with results so that they can be checked and repeated."""

from __future__ import annotations

import json
from pathlib import Path

from runtime.signals.moments import SPLITS, MomentSource


def save_pairing_record(source: MomentSource, path: Path) -> None:
    """Write every split's labels and recording numbers as JSON.

    Layout: ``{"data", "classes", "splits": {split: {"labels": [..], "recordings": {modality: [..]}}}}``; the
    numbers are those of :class:`runtime.signals.moments.Moments`.
    """
    splits = {}
    for split in SPLITS:
        moments = source.moments(split)
        splits[split] = {
            "labels": moments.labels.tolist(),
            "recordings": {m: numbers.tolist() for m, numbers in moments.recordings.items()},
        }
    record = {"data": source.name, "classes": list(source.classes), "splits": splits}
    path.write_text(json.dumps(record, separators=(",", ":")) + "\n")
