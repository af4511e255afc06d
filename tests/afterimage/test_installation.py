"""Installed without extras it imports no optional package; a clone does not hide an editable install."""

import importlib.metadata
import textwrap
from pathlib import Path

import pytest
from process_under_test import python, run_to_end

OPTIONAL = ("torch", "torchaudio", "safetensors", "onnx", "matplotlib", "tensorrt", "tensorrt_rtx")

BLOCKER = f"""
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {OPTIONAL!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
"""


def run_without_extras(code, *arguments, codes=(0,)):
    return run_to_end(python(BLOCKER + textwrap.dedent(code), *arguments), codes=codes)


def test_the_packages_import_without_torch():
    done = run_without_extras("import afterimage, runtime, engines\nprint(afterimage.__version__)")
    assert done.stdout.strip()


def test_importing_the_packages_does_not_load_the_heavy_base_libraries_either():
    done = run_without_extras(
        "import afterimage, runtime, engines\n"
        "print(sorted({'cv2', 'onnxruntime', 'zmq', 'numpy', 'trainers'} & set(sys.modules)))"
    )
    assert done.stdout.strip() == "[]"


def test_a_bundle_runs_without_torch(tiny_bundle):
    done = run_without_extras(
        """
        import numpy as np
        from engines.opening import open_session
        from runtime.node.node import Node
        from afterimage import Client, Sensor
        with open_session(__import__("pathlib").Path(sys.argv[1])) as session:
            spec = session.manifest.modalities[0]
            evidence = session.encode(spec.name, np.zeros((1, *spec.window_shape), spec.dtype))
            mask = np.zeros((1, len(session.manifest.modalities)), np.float32)
            mask[0, 0] = 1
            print(float(session.fuse({spec.name: evidence}, mask).probabilities.sum()))
        """,
        str(tiny_bundle),
    )
    assert abs(float(done.stdout) - 1) < 1e-5


def test_a_command_that_needs_an_extra_names_it_in_one_line():
    code = "sys.argv = ['afterimage', 'train']\nfrom afterimage.cli import main\nmain()"
    done = run_without_extras(code, codes=[2])
    assert "afterimage[train]" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_named_as_the_package_does_not_hide_an_editable_install(tmp_path):
    """Python started beside a clone: its folder is a namespace package, found before the hooks of editable installs."""
    try:
        importlib.metadata.distribution("afterimage")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("afterimage is not installed here: it is only on the path")
    (tmp_path / "afterimage").symlink_to(Path(__file__).parents[2])
    code = "from afterimage import Client; import afterimage; print(afterimage.__file__)"
    done = run_to_end(python(code), environment={"PYTHONPATH": ""}, folder=tmp_path)
    assert Path(done.stdout.strip()).name == "__init__.py"
