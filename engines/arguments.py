"""The arguments of a session's calls: checked against the bundle's manifest, and brought into float32.

Every message names the modality or tensor, what was expected and what came.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.backends.interface import Array
from engines.bundle import ModalitySpec
from engines.errors import InputError


class Arguments:
    """What fits a bundle; every method raises :class:`~engines.errors.InputError` for what does not."""

    def __init__(self, specs: Mapping[str, ModalitySpec], maximum_batch: int | None) -> None:
        """Check against these.

        Args:
            specs: modality -> spec, in the order of the presence mask.
            maximum_batch: largest batch that the engine was built for, or None if any will do.
        """
        self.specs = specs
        self.maximum_batch = maximum_batch

    def spec(self, modality: str) -> ModalitySpec:
        """The spec of a modality; an unknown one is an InputError."""
        spec = self.specs.get(modality)
        if spec is None:
            raise InputError(f"modality {modality!r} is not in this bundle; it has {list(self.specs)}")
        return spec

    def window(self, modality: str, windows: npt.NDArray[Any]) -> Array:
        """Raw windows as C-contiguous float32; wants the modality's raw dtype and window shape."""
        spec = self.spec(modality)
        given = np.asarray(windows)
        if given.dtype != np.dtype(spec.dtype):
            raise InputError(f"window of {modality!r}: expected dtype {spec.dtype}, got {given.dtype}")
        return self.tensor(f"window of {modality!r}", given, spec.window_shape)

    def tensor(self, what: str, value: npt.NDArray[Any], shape: tuple[int, ...]) -> Array:
        """Numbers as C-contiguous float32; wants ``(B, *shape)`` with 1 <= B <= maximum_batch."""
        given = np.asarray(value)
        if given.shape[1:] != shape or given.ndim != 1 + len(shape) or len(given) == 0:
            expected = ", ".join(("B >= 1", *map(str, shape)))
            raise InputError(f"{what}: expected shape ({expected}), got {given.shape}")
        limit = self.maximum_batch
        if limit is not None and len(given) > limit:
            raise InputError(
                f"{what}: batch of {len(given)}, this engine was built for 1 to {limit}; compile with a larger batch"
            )
        if given.dtype.kind not in "fiub":
            raise InputError(f"{what}: expected numbers, got dtype {given.dtype}")
        return np.ascontiguousarray(given, dtype=np.float32)

    def presence(self, presence: npt.NDArray[Any]) -> Array:
        """A mask of 0 and 1 as float32, (B, M)."""
        mask = self.tensor("presence", presence, (len(self.specs),))
        # Not isin: it sorts, and this runs on every tick.
        if not ((mask == 0.0) | (mask == 1.0)).all():
            raise InputError(f"presence: expected only 0 and 1, got {np.unique(mask)[:8].tolist()}")
        return mask

    def evidence(self, name: str, value: npt.NDArray[Any] | None, present: npt.NDArray[np.bool_]) -> Array:
        """Evidence as float32 with zeros in rows where the modality is absent; wants it finite where present.

        An absent modality takes no longer than a present one: a failover must not delay its decision.
        """
        size = self.specs[name].evidence_size
        if value is None:
            if present.any():
                raise InputError(
                    f"evidence of {name!r}: the presence mask says present, but no evidence was given"
                )
            return np.zeros((len(present), size), np.float32)
        tensor = self.tensor(f"evidence of {name!r}", value, (size,))
        if len(tensor) != len(present):
            raise InputError(
                f"evidence of {name!r}: {len(tensor)} rows, the presence mask has {len(present)}"
            )
        if not present.all():
            # Zeros, not the caller's leftovers: 0 * NaN would carry a dead sensor's NaN into the decision.
            if not present.any():
                return np.zeros_like(tensor)
            tensor = np.where(present[:, None], tensor, np.float32(0))
        if not np.isfinite(tensor).all():
            raise InputError(f"evidence of {name!r}: not finite in a row where the modality is present")
        return tensor
