"""The edge install has no torch: what it promises to do must not import any optional package."""

import subprocess
import sys
import textwrap

OPTIONAL = ("torch", "torchaudio", "safetensors", "onnx", "matplotlib", "tensorrt", "tensorrt_rtx")

BLOCKER = f"""
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {OPTIONAL!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
"""


def run_without_extras(code, *arguments):
    program = BLOCKER + textwrap.dedent(code)
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=120, check=False
    )


def test_the_packages_import_without_torch():
    done = run_without_extras("import afterimage, runtime, engines\nprint(afterimage.__version__)")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_importing_the_packages_does_not_load_the_heavy_base_libraries_either():
    done = run_without_extras(
        "import afterimage, runtime, engines\n"
        "print(sorted({'cv2', 'onnxruntime', 'zmq', 'numpy', 'trainers'} & set(sys.modules)))"
    )
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


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
    assert done.returncode == 0, done.stderr
    assert abs(float(done.stdout) - 1) < 1e-5


def test_a_command_that_needs_an_extra_names_it_in_one_line():
    done = run_without_extras("sys.argv = ['afterimage', 'train']\nfrom afterimage.cli import main\nmain()")
    assert done.returncode == 2
    assert "afterimage[train]" in done.stderr
    assert "Traceback" not in done.stderr
