"""Panes: what a browser draws stands for the numbers that came, whatever they are."""

from __future__ import annotations

import numpy as np
import pytest
from published import observation

from runtime.view.panes import (
    LINE_POINTS,
    LONGEST_SIDE,
    PaneMaker,
    Scale,
    follow,
    make_pane,
    mel_spectrum,
    round_ends,
    span,
)

S = 1_000_000_000


def test_a_picture_is_its_own_bytes() -> None:
    values = np.random.default_rng(0).integers(0, 256, (64, 48, 3)).astype(np.float32)
    pane = make_pane("rgb", values, "intensity", Scale(0, 255, 0))
    assert (pane.form, pane.shape) == ("picture", (64, 48))
    assert pane.data == values.astype(np.uint8).tobytes()


def test_a_depth_picture_tells_millimetres_and_leaves_holes_open() -> None:
    values = np.full((4, 5), 1000, np.float32)
    values[0, 0], values[0, 1], values[1, 1] = 0, 500, 1500
    pane = make_pane("depth", values, "mm", Scale(500, 1500, 0))
    cells = np.frombuffer(pane.data, np.uint8).reshape(pane.shape)
    assert (cells[0, 0], cells[0, 1], cells[1, 1], cells[3, 3]) == (0, 1, 255, 128)
    assert span("depth", values)[0] >= 500, "a hole is no distance"


@pytest.mark.parametrize("shape", [(480, 640, 3), (1, 2000, 3), (3000, 2, 3)])
def test_a_large_picture_is_made_small_and_keeps_its_shape(shape: tuple[int, ...]) -> None:
    pane = make_pane("rgb", np.full(shape, 7.0, np.float32), "intensity", Scale(0, 255, 0))
    assert max(pane.shape) <= LONGEST_SIDE
    assert len(pane.data) == 3 * pane.shape[0] * pane.shape[1]
    assert set(pane.data) == {7}


def test_lines_keep_every_peak_and_their_unit() -> None:
    values = np.zeros((7680, 8), np.float32) + np.arange(8)  # offsets are not shown
    values[4321, 2] += 40.0
    pane = make_pane("eeg", values, "uV", Scale(-50, 50, 0))
    assert pane.shape == (8, LINE_POINTS)
    lines = np.frombuffer(pane.data, "<i2").reshape(pane.shape) * pane.step
    assert lines[2].max() == pytest.approx(40, abs=pane.step)
    assert not lines[[0, 1, 3, 4, 5, 6, 7]].any()


def test_a_waveform_is_one_line() -> None:
    wave = np.sin(np.linspace(0, 20, 16_000)).astype(np.float32)
    assert make_pane("audio", wave, "pcm16", Scale(-1, 1, 0)).shape == (1, LINE_POINTS)


@pytest.mark.parametrize("kind", ["rgb", "depth", "audio", "eeg"])
def test_values_that_are_no_numbers_are_drawn_as_nothing(kind: str) -> None:
    seen = observation(kind)
    values = np.full_like(seen.values, np.nan)
    low, high = span(kind, values)
    assert low < high
    assert make_pane(kind, values, seen.unit, Scale(low, high, 0)).data


def test_mfcc_are_shown_as_the_spectrum_that_they_were_made_of() -> None:
    spectrum = np.random.default_rng(0).normal(0, 10, (40, 11)).astype(np.float32)
    n = np.arange(40)
    basis = np.sqrt(2 / 40) * np.cos(np.pi / 40 * (n[None, :] + 0.5) * n[:, None])
    basis[0] /= np.sqrt(2)
    np.testing.assert_allclose(mel_spectrum((basis @ spectrum).astype(np.float32)), spectrum, atol=1e-3)


def test_a_scale_follows_at_once_upwards_and_slowly_down() -> None:
    scale = follow(None, -10, 10, 0)
    scale = follow(scale, -100, 50, S)
    assert (scale.low, scale.high) == (-100, 50)
    later = follow(scale, -10, 10, 2 * S)
    assert -100 < later.low < -80
    much_later = follow(later, -10, 10, 200 * S)
    assert (much_later.low, much_later.high) == pytest.approx((-10, 10), abs=0.1)


@pytest.mark.parametrize(
    ("low", "high", "form", "ends"),
    [
        (-17, 17, "lines", (-20, 20)),
        (-0.3, 0.3, "lines", (-0.5, 0.5)),
        (-100, 100, "lines", (-100, 100)),
        (612, 1388, "map", (600, 1400)),
        (-12, 27, "map", (-20, 30)),
        (0, 0, "map", (0, 10)),
    ],
)
def test_scales_have_round_ends(low: float, high: float, form: str, ends: tuple[float, float]) -> None:
    scale = round_ends(Scale(low, high, 0), form)  # type: ignore[arg-type]
    assert (scale.low, scale.high) == ends


def test_a_pane_is_made_once_and_both_of_a_modality_share_their_scale() -> None:
    maker = PaneMaker({"depth": "depth"})
    best, twin = observation("depth"), observation("depth", "imputed", imputed=True)
    pane = maker.pane(best)
    assert maker.pane(best) is pane
    assert maker.pane(twin).high == pane.high
    assert maker.pane(observation("depth", at_ns=1)) is not pane
