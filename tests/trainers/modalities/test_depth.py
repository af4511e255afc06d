from __future__ import annotations

import pytest
import torch
from modality_windows import LATENT, SENSORS, WindowForm, raw_windows

from trainers.modalities import build_modality
from trainers.modalities.depth import FARTHEST_MM, FILLED_WEIGHT, fill_holes


def test_readings_are_kept_and_holes_take_their_neighbours_value() -> None:
    depth = torch.full((1, 1, 64, 64), 2.0)
    depth[..., :32] = 1.0
    valid = torch.ones_like(depth)
    valid[..., 10:14, 8:12] = 0.0  # a hole in the near half
    valid[..., 10:14, 50:54] = 0.0  # and one in the far half
    filled = fill_holes(depth * valid, valid, 64)
    torch.testing.assert_close(filled, depth)


def test_what_lies_under_a_hole_has_no_say() -> None:
    valid = (torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0)) > 0.3).float()
    depth = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(1)) + 1.0
    torch.testing.assert_close(
        fill_holes(depth, valid, 32), fill_holes(torch.where(valid > 0, depth, 77.0), valid, 32)
    )


def test_filled_values_lie_within_the_readings() -> None:
    valid = (torch.rand(4, 1, 64, 64, generator=torch.Generator().manual_seed(0)) > 0.95).float()
    depth = torch.rand(4, 1, 64, 64, generator=torch.Generator().manual_seed(1)) + 1.0
    filled = fill_holes(depth, valid, 64)
    seen = torch.where(valid > 0, depth, torch.nan).flatten(1)
    for row in range(4):
        readings = seen[row][~seen[row].isnan()]
        assert float(filled[row].min()) >= float(readings.min()) - 1e-5
        assert float(filled[row].max()) <= float(readings.max()) + 1e-5


@pytest.mark.parametrize("size", [48, 64])
def test_one_reading_fills_the_frame(size: int) -> None:
    # 48 halves to 3x3 only: the coarsest level then has holes of its own.
    network = build_modality(WindowForm("depth", "depth", (size, size), 30.0, 1), LATENT).eval()
    window = torch.zeros(1, size, size)
    window[0, 5, 7] = 1234.0
    torch.testing.assert_close(network.observe(window), torch.full((1, size, size), 1234.0))


def test_a_frame_without_readings_is_far_away() -> None:
    network = build_modality(SENSORS["depth"], LATENT).eval()
    observed = network.observe(torch.zeros(1, 64, 64))
    torch.testing.assert_close(observed, torch.full_like(observed, FARTHEST_MM))


def test_holes_weigh_less() -> None:
    network = build_modality(SENSORS["depth"], LATENT).eval()
    window = raw_windows("depth", 1)
    weight = network.target_weight(window)[0, 0]
    assert bool((weight[window[0] > 0] == 1.0).all())
    assert bool(((weight[window[0] == 0] - FILLED_WEIGHT).abs() < 1e-6).all())


def test_normals_of_a_slanted_plane() -> None:
    network = build_modality(SENSORS["depth"], LATENT).eval()
    # 4 mm farther per pixel to the right, the nominal pixel width: 45 degrees, turned to the left.
    window = (1000.0 + 4.0 * torch.arange(64.0)).expand(1, 64, 64)
    normal = network.features(window)[0, 2:5, 10:-10, 10:-10]
    expected = torch.tensor([-1.0, 0.0, 1.0]) / 2**0.5
    torch.testing.assert_close(normal, expected[:, None, None].expand_as(normal), rtol=1e-3, atol=1e-3)


def test_relative_depth_does_not_depend_on_distance() -> None:
    network = build_modality(SENSORS["depth"], LATENT).eval()
    window = raw_windows("depth", 1)
    relative = network.features(window)[:, 0]
    torch.testing.assert_close(network.features(window * 1.3)[:, 0], relative, rtol=1e-4, atol=1e-4)
