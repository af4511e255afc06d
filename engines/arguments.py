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
    """Checks arguments against a bundle; every method raises :class:`~engines.errors.InputError` for a wrong one."""

    def __init__(self, specs: Mapping[str, ModalitySpec], maximum_batch: int | None) -> None:
        """Remember what to check against.

        Args:
            specs: modality -> spec, in the order of the presence mask.
            maximum_batch: largest batch that the engine was built for, or None if any will do.
        """
        self.specs = specs
        self.maximum_batch = maximum_batch
        ends = np.cumsum([spec.evidence_size for spec in specs.values()]).tolist()
        self._width = ends[-1] if ends else 0
        self._places = {
            name: slice(end - spec.evidence_size, end)
            for (name, spec), end in zip(specs.items(), ends, strict=True)
        }

    def spec(self, modality: str) -> ModalitySpec:
        """The spec of a modality; an unknown one is an InputError."""
        spec = self.specs.get(modality)
        if spec is None:
            raise InputError(f"modality {modality!r} is not in this bundle; it has {list(self.specs)}")
        return spec

    def window(self, modality: str, windows: npt.NDArray[Any]) -> Array:
        """Raw windows as C-contiguous float32; they must have the modality's raw dtype and window shape."""
        spec = self.spec(modality)
        given = np.asarray(windows)
        if given.dtype != np.dtype(spec.dtype):
            raise InputError(f"window of {modality!r}: expected dtype {spec.dtype}, got {given.dtype}")
        return self.tensor(f"window of {modality!r}", given, spec.window_shape)

    def tensor(self, what: str, value: npt.NDArray[Any], shape: tuple[int, ...]) -> Array:
        """Numbers as C-contiguous float32; their shape must be ``(B, *shape)`` with 1 <= B <= maximum_batch."""
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
        # np.isin would sort, and this runs on every tick.
        if not ((mask == 0.0) | (mask == 1.0)).all():
            raise InputError(f"presence: expected only 0 and 1, got {np.unique(mask)[:8].tolist()}")
        return mask

    def fuse_inputs(self, evidence: Mapping[str, npt.NDArray[Any]], mask: Array) -> dict[str, Array]:
        """The inputs of the fuse graph: the mask, and evidence as float32 that is zero where a modality is absent.

        Where the mask says present, evidence must be given and finite. An absent modality takes no longer than a
        present one, because a failover must not delay the decision.
        """
        if evidence.keys() - self.specs.keys():
            unknown = sorted(evidence.keys() - self.specs.keys())
            raise InputError(f"evidence for unknown modalities {unknown}; this bundle has {list(self.specs)}")
        # One block for all modalities, so that isfinite is called once: this runs on every tick.
        block = np.zeros((len(mask), self._width), np.float32)
        counts = mask.sum(axis=0).tolist()
        for column, (name, place) in enumerate(self._places.items()):
            self._fill(block[:, place], name, evidence.get(name), counts[column], mask[:, column])
        if not np.isfinite(block).all():
            self._raise_not_finite(block)
        inputs = {"presence": mask}
        for name, place in self._places.items():
            inputs[f"evidence_{name}"] = np.ascontiguousarray(block[:, place])
        return inputs

    def _fill(
        self, place: Array, name: str, value: npt.NDArray[Any] | None, count: float, present: Array
    ) -> None:
        """Put one modality's evidence in its place, in the ``count`` rows where it is present."""
        if value is None:
            if count:
                raise InputError(
                    f"evidence of {name!r}: the presence mask says present, but no evidence was given"
                )
            return
        given = np.asarray(value)
        if given.shape != place.shape or given.dtype.kind not in "fiub":
            given = self.tensor(f"evidence of {name!r}", value, place.shape[1:])
            raise InputError(f"evidence of {name!r}: {len(given)} rows, the presence mask has {len(present)}")
        # Zeros where absent, not the caller's leftovers: 0 * NaN would carry a dead sensor's NaN into the decision.
        if count == len(present):
            place[...] = given
        elif count:
            np.copyto(place, given, where=present[:, None] > 0, casting="same_kind")

    def _raise_not_finite(self, block: Array) -> None:
        for name, place in self._places.items():
            if not np.isfinite(block[:, place]).all():
                raise InputError(f"evidence of {name!r}: not finite in a row where the modality is present")
