"""The .npz files of a bundle, read without pickle; every array is checked against the manifest when it is asked for."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.backends.interface import Array
from engines.bundle import BundleError, Manifest, pattern_key


class BundleArrays:
    """One .npz file.

    Attributes:
        names: modalities, in the order of the presence mask.
        specs: their specs.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        """Read the file.

        Raises:
            BundleError: it is missing or broken.
        """
        self._path = path
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                self._arrays = {name: arrays[name] for name in arrays.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as e:
            raise BundleError(f"{path}: cannot be read: {e}; export the bundle again") from e
        self.names = manifest.modality_names
        self.specs = manifest.modalities

    def array(self, name: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
        """An array of shape ``(any, *shape)``.

        Raises:
            BundleError: it is missing or has another shape.
        """
        value = self._arrays.get(name)
        if value is None:
            raise BundleError(f"{self._path}: lacks array {name!r}; export the bundle again")
        if value.ndim != 1 + len(shape) or value.shape[1:] != shape or not len(value):
            raise BundleError(
                f"{self._path}: {name}: expected shape (B, {', '.join(map(str, shape))}), got {value.shape}"
            )
        array: npt.NDArray[Any] = value
        return array

    def windows(self) -> dict[str, npt.NDArray[Any]]:
        """Raw windows, the same number of every modality: modality -> (B, *window_shape).

        Raises:
            BundleError: one is missing, has another shape or dtype, or another number of rows.
        """
        found = {}
        for spec in self.specs:
            window = found[spec.name] = self.array(f"window_{spec.name}", spec.window_shape)
            rows = len(found[self.names[0]])
            if window.dtype != spec.dtype or len(window) != rows:
                raise BundleError(
                    f"{self._path}: window_{spec.name}: expected {rows} windows of {spec.dtype}, "
                    f"got {len(window)} of {window.dtype}"
                )
        return found

    def read_presence(self) -> tuple[Array, list[str]]:
        """Every missing pattern once: the (2^M, M) masks, and the name of each row.

        Raises:
            BundleError: a pattern is missing.
        """
        masks = self.array("presence", (len(self.names),)).astype(np.float32)
        patterns = [pattern_key(self.names, row) for row in masks]
        expected = 2 ** len(self.names)
        if len(set(patterns)) != expected:
            raise BundleError(
                f"{self._path}: presence holds {len(set(patterns))} patterns, expected {expected}"
            )
        return masks, patterns
