"""A bundle whose cameras deliver 640 x 480: any bundle of commands-4 with strides put before its image graphs.

For measuring what the transport of large frames costs: the model sees every seventh pixel of the middle.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from engines.bundle import (
    DECISIONS_NAME,
    GOLDEN_NAME,
    TRAINING_WINDOWS_NAME,
    Manifest,
    file_sha256,
    load_manifest,
    save_manifest,
)
from runtime.rig import Rig

HEIGHT, WIDTH = 480, 640
STRIDE = 7


def make_vga_bundle(bundle: Path, folder: Path) -> Manifest:
    """Write a bundle that takes images of 640 x 480.

    Args:
        bundle: with RGB and depth of 64 x 64.
        folder: where to write; made.

    Raises:
        BundleError: the bundle is broken.
    """
    manifest = load_manifest(bundle)
    shutil.copytree(bundle, folder, dirs_exist_ok=True)
    specs = []
    for spec in manifest.modalities:
        if spec.kind in ("rgb", "depth"):
            for graph in (f"encode_{spec.name}", f"observe_{spec.name}"):
                _put_strides_before(folder / f"{graph}.onnx", spec.sample_shape)
            spec = spec.model_copy(update={"sample_shape": (HEIGHT, WIDTH, *spec.sample_shape[2:])})
        specs.append(spec)
    _enlarge_golden(folder / GOLDEN_NAME, manifest)
    files = {
        n: file_sha256(folder / n) for n in manifest.files if n not in (DECISIONS_NAME, TRAINING_WINDOWS_NAME)
    }
    large = manifest.model_copy(
        update={"name": f"{manifest.name}-vga", "modalities": tuple(specs), "files": files}
    )
    save_manifest(folder, large)
    return large


def vga_rig(rig: Rig) -> Rig:
    """The rig that feeds such a bundle: the given one with larger images."""
    sensors = tuple(
        s.model_copy(update={"sample_shape": (HEIGHT, WIDTH, *s.sample_shape[2:])})
        if s.kind in ("rgb", "depth")
        else s
        for s in rig.sensors
    )
    return rig.model_copy(update={"sensors": sensors})


def _margins(shape: tuple[int, ...]) -> tuple[int, int]:
    return (HEIGHT - STRIDE * shape[0]) // 2, (WIDTH - STRIDE * shape[1]) // 2


def _put_strides_before(path: Path, shape: tuple[int, ...]) -> None:
    model = onnx.load(str(path))
    graph = model.graph
    top, left = _margins(shape)
    constants = {
        "vga_starts": [top, left],
        "vga_ends": [top + STRIDE * shape[0], left + STRIDE * shape[1]],
        "vga_axes": [1, 2],
        "vga_steps": [STRIDE, STRIDE],
    }
    graph.initializer.extend(numpy_helper.from_array(np.array(v, np.int64), n) for n, v in constants.items())
    for node in graph.node:
        for at, name in enumerate(node.input):
            if name == "window":
                node.input[at] = "vga_strided"
    graph.node.insert(0, helper.make_node("Slice", ["window", *constants], ["vga_strided"]))
    (window,) = (i for i in graph.input if i.name == "window")
    batch = window.type.tensor_type.shape.dim[0].dim_param or "batch"
    large = helper.make_tensor_value_info("window", TensorProto.FLOAT, [batch, HEIGHT, WIDTH, *shape[2:]])
    window.CopyFrom(large)
    onnx.save(model, str(path))


def _enlarge_golden(path: Path, manifest: Manifest) -> None:
    golden = dict(np.load(path))
    for spec in manifest.modalities:
        key = f"window_{spec.name}"
        if spec.kind in ("rgb", "depth") and key in golden:
            small = golden[key]
            top, left = _margins(spec.sample_shape)
            large = np.zeros((len(small), HEIGHT, WIDTH, *spec.sample_shape[2:]), small.dtype)
            rows, columns = spec.sample_shape[:2]
            large[:, top : top + STRIDE * rows : STRIDE, left : left + STRIDE * columns : STRIDE] = small
            golden[key] = large
    np.savez_compressed(path, **golden)
