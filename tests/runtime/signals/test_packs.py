from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from runtime.signals.packs import Pack, PackError


def write(path: Path, compression: int = zipfile.ZIP_BZIP2, **arrays: np.ndarray) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w") as f:
                np.lib.format.write_array(f, array)
    return path


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_rows_streams_the_wanted_rows(tmp_path: Path, compression: int) -> None:
    # 1200 rows of 8 KB: more than twice the block that is read at once.
    values = np.random.default_rng(0).integers(0, 4000, (1200, 64, 64), dtype=np.uint16)
    pack = Pack(write(tmp_path / "p.npz", compression, values=values), ("values",))
    wanted = np.array([0, 5, 511, 512, 513, 1100, 1199])
    np.testing.assert_array_equal(pack.rows("values", wanted, (64, 64), "uint16"), values[wanted])
    assert pack.rows("values", np.array([], np.int64), (64, 64), "uint16").shape == (0, 64, 64)


def test_missing_file_names_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(PackError, match=r"none\.npz: no such pack.*--data DIR or \$AFTERIMAGE_DATA"):
        Pack(tmp_path / "none.npz", ())


def test_not_an_archive(tmp_path: Path) -> None:
    (tmp_path / "p.npz").write_bytes(b"these are not the bytes of a zip archive")
    with pytest.raises(PackError, match=r"expected an \.npz archive"):
        Pack(tmp_path / "p.npz", ())


def test_missing_array_is_named(tmp_path: Path) -> None:
    with pytest.raises(PackError, match=r"lacks arrays \['label'\]; it has \['x'\]"):
        Pack(write(tmp_path / "p.npz", x=np.zeros(3)), ("x", "label"))


def test_pickled_objects_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "p.npz", x=np.array([{"a": 1}], dtype=object))
    pack = Pack(tmp_path / "p.npz", ("x",))
    with pytest.raises(PackError, match="'x' cannot be read"):
        pack.array("x")
    with pytest.raises(PackError, match="'x' cannot be read"):
        pack.rows("x", np.array([0]), (), "float32")


@pytest.mark.parametrize(("shape", "dtype"), [((4,), "int16"), ((5,), "int32")])
def test_other_shape_or_dtype_is_named(tmp_path: Path, shape: tuple[int, ...], dtype: str) -> None:
    pack = Pack(write(tmp_path / "p.npz", x=np.zeros((3, 5), np.int16)), ("x",))
    with pytest.raises(PackError, match=r"should be \(N, \d\) int\d\d, it is \(3, 5\) int16"):
        pack.rows("x", np.array([0]), shape, dtype)


def test_row_beyond_the_end(tmp_path: Path) -> None:
    pack = Pack(write(tmp_path / "p.npz", x=np.zeros((3, 5), np.int16)), ("x",))
    with pytest.raises(PackError, match="has 3 rows, its labels name row 3"):
        pack.rows("x", np.array([0, 3]), (5,), "int16")


@pytest.mark.parametrize("damage", ["flip", "truncate"])
def test_damaged_data_are_an_error_not_garbage(tmp_path: Path, damage: str) -> None:
    values = np.random.default_rng(0).integers(0, 255, (400, 64)).astype(np.uint8)
    path = write(tmp_path / "p.npz", x=values)
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 0xFF
        path.write_bytes(data)
        with pytest.raises(PackError, match="'x' cannot be read"):
            Pack(path, ("x",)).rows("x", np.arange(400), (64,), "uint8")
    else:
        path.write_bytes(data[: len(data) // 2])
        with pytest.raises(PackError, match="could not open it"):
            Pack(path, ("x",))
