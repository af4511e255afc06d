"""Checkpoints: tensors as safetensors, everything else as JSON; no pickle.

A checkpoint is a folder with ``tensors.safetensors`` and ``state.json``; the next one replaces it as a whole. A resumed
run gives the same numbers, to the bit, as one that was never interrupted.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from configs.errors import AfterimageError

FORMAT = 1


class CheckpointError(AfterimageError):
    """A checkpoint that cannot be used; the message names what was expected and what came."""


def save_checkpoint(folder: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Write a checkpoint; the previous one stays in place until this one is complete.

    Args:
        folder: of the checkpoint; an earlier one is replaced.
        tensors: flat names to tensors.
        state: everything else, as JSON types.
    """
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file(
        {k: v.detach().contiguous().clone() for k, v in tensors.items()}, partial / "tensors.safetensors"
    )
    (partial / "state.json").write_text(json.dumps({"format": FORMAT, **state}))
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def load_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a checkpoint back.

    Raises:
        CheckpointError: there is none, it is incomplete, or it has another format.
    """
    # A crash between the two renames of save_checkpoint leaves only the old one.
    at = folder if folder.exists() else folder.with_name(folder.name + ".old")
    try:
        state = json.loads((at / "state.json").read_text())
        tensors = load_file(at / "tensors.safetensors")
    except FileNotFoundError as e:
        raise CheckpointError(f"{folder}: no checkpoint to resume from; start without --resume") from e
    except (OSError, ValueError, SafetensorError) as e:
        raise CheckpointError(f"{folder}: not a checkpoint of this program: {e}") from e
    if state.pop("format", None) != FORMAT:
        raise CheckpointError(f"{folder}: expected checkpoint format {FORMAT}; train again")
    return tensors, state


def flatten_optimizer(optimizer: torch.optim.Optimizer, prefix: str) -> dict[str, Tensor]:
    """Moments and step counts of an optimizer under flat names ``prefix<index>.<key>``."""
    flat = {}
    for index, values in optimizer.state_dict()["state"].items():
        for key, value in values.items():
            flat[f"{prefix}{index}.{key}"] = value if isinstance(value, Tensor) else torch.tensor(value)
    return flat


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], prefix: str) -> None:
    """Put back what :func:`flatten_optimizer` took; the parameter groups are the optimizer's own."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith(prefix):
            index, key = name.removeprefix(prefix).split(".", 1)
            state.setdefault(int(index), {})[key] = value
    whole = optimizer.state_dict()
    whole["state"] = state
    optimizer.load_state_dict(whole)
