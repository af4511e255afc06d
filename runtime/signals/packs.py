"""Reading packs: ``.npz`` files of plain arrays, member by member, with errors that name the file and the member.

A pack is read with numpy only and never with pickle: an array of objects is refused. Members may be stored with any
method that :mod:`zipfile` knows (the shipped packs use bzip2). Large members are streamed, and only the requested
rows are kept, so that opening one modality costs neither the time nor the memory of the whole pack.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from configs.errors import AfterimageError

_STREAM_BYTES = 4 << 20


class PackError(AfterimageError):
    """A pack that cannot be used; the message names the file, the member, what was expected and what came."""


class Pack:
    """One ``.npz`` file, opened for reading.

    Args:
        path: the file.
        members: names of the arrays that must be there (without ``.npy``).

    Raises:
        PackError: the file is missing, is not a zip archive, or lacks a member.
    """

    def __init__(self, path: Path, members: tuple[str, ...]) -> None:
        self.path = path
        if not path.is_file():
            raise PackError(
                f"{path}: no such pack; give the folder that holds {path.name} with --data DIR or $AFTERIMAGE_DATA"
            )
        try:
            with zipfile.ZipFile(path) as archive:
                names = {n.removesuffix(".npy") for n in archive.namelist()}
        except (zipfile.BadZipFile, OSError) as e:
            raise PackError(f"{path}: expected an .npz archive, could not open it: {e}; copy it again") from e
        missing = sorted(set(members) - names)
        if missing:
            raise PackError(f"{path}: lacks arrays {missing}; it has {sorted(names)}")

    def array(self, member: str) -> npt.NDArray[Any]:
        """A whole member; for the small ones (labels, splits, names).

        Raises:
            PackError: the member cannot be read or holds Python objects.
        """
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(f"{member}.npy") as stream:
                array: npt.NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
                return array
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, KeyError) as e:
            raise PackError(f"{self.path}: array {member!r} cannot be read: {e}; copy the pack again") from e

    def rows(
        self, member: str, wanted: npt.NDArray[np.int64], shape: tuple[int, ...], dtype: str
    ) -> npt.NDArray[Any]:
        """Some rows of a large member, streamed: reading stops after the last wanted row.

        Args:
            member: name of the array.
            wanted: (K,) row numbers, strictly ascending.
            shape: expected shape of one row.
            dtype: expected dtype.

        Returns:
            (K, *shape) array of ``dtype``.

        Raises:
            PackError: another shape or dtype, or a member that cannot be read.
        """
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(f"{member}.npy") as stream:
                found, found_dtype = _header(stream)
                if found[1:] != shape or found_dtype != np.dtype(dtype):
                    raise PackError(
                        f"{self.path}: array {member!r} should be (N, {', '.join(map(str, shape))}) {dtype}, "
                        f"it is {found} {found_dtype}"
                    )
                if len(wanted) and wanted[-1] >= found[0]:
                    raise PackError(
                        f"{self.path}: array {member!r} has {found[0]} rows, its labels name row {wanted[-1]}"
                    )
                return _take_rows(stream, wanted, shape, found_dtype)
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, KeyError) as e:
            raise PackError(f"{self.path}: array {member!r} cannot be read: {e}; copy the pack again") from e


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype from the header of an ``.npy`` stream; leaves the stream at the data."""
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"npy format version {version}, expected 1.0 or 2.0")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    if fortran or dtype.hasobject or not shape:
        raise ValueError(f"expected a C-ordered array of numbers, got shape {shape}, dtype {dtype}")
    return shape, dtype


def _take_rows(
    stream: IO[bytes], wanted: npt.NDArray[np.int64], shape: tuple[int, ...], dtype: np.dtype[Any]
) -> npt.NDArray[Any]:
    """Keep the wanted rows of a C-ordered stream, a few megabytes at a time."""
    out = np.empty((len(wanted), *shape), dtype)
    row_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    step = max(1, _STREAM_BYTES // row_bytes)
    first = done = 0
    while done < len(wanted):
        data = stream.read(step * row_bytes)
        rows = len(data) // row_bytes
        if rows == 0:
            raise EOFError(f"the data end after {first} rows, row {wanted[done]} is wanted")
        block = np.frombuffer(data, dtype, rows * row_bytes // dtype.itemsize).reshape(rows, *shape)
        upto = int(np.searchsorted(wanted, first + rows))
        out[done:upto] = block[wanted[done:upto] - first]
        first, done = first + rows, upto
    return out
