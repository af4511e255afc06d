import numpy as np
import pytest

from afterimage.demo.scoring import FaultInterval, TickRecord
from afterimage.demo.timeline import ImputedExample, draw_timeline, log_mel

pytest.importorskip("matplotlib", reason="the picture needs the extra [plot]")


def test_log_mel_inverts_the_cosine_transform():
    bands = np.random.default_rng(0).normal(size=(40, 7))
    order, band = np.arange(40)[:, None], np.arange(40)[None, :]
    transform = np.cos(np.pi * order * (2 * band + 1) / 80) * np.sqrt(2 / 40)
    transform[0] = np.sqrt(1 / 40)
    np.testing.assert_allclose(log_mel(transform @ bands), bands, atol=1e-9)


def test_the_picture_is_drawn_with_every_kind_of_sensor(tmp_path):
    names, classes = ("rgb", "depth", "audio", "eeg"), ("stop", "go")
    rng = np.random.default_rng(0)
    ticks = [
        TickRecord(i * 0.05, "go", "stop", True, dict.fromkeys(names, "live"), (), (0.3, 0.7))
        for i in range(40)
    ]
    shapes = {"rgb": (64, 64, 3), "depth": (64, 64), "audio": (40, 101), "eeg": (768, 8)}
    examples = [
        ImputedExample(n, n, "go", ("rgb",), rng.normal(size=s), rng.normal(size=s))
        for n, s in shapes.items()
    ]
    path = tmp_path / "deep" / "report.png"
    draw_timeline(
        path,
        "title",
        classes,
        names,
        ticks,
        [FaultInterval("rgb", "silence", 0.5, 1)],
        examples,
        {"eeg": 256.0},
    )
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size > 20_000
