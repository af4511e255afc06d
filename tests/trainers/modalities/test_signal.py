"""Signals: offsets and envelopes survive, constants stay themselves, steps follow the rate."""

from __future__ import annotations

import pytest
import torch
from modality_windows import SENSORS, WindowForm, raw_windows

from trainers.modalities.signal import SignalNetwork, averaging_matrix, signal_steps


def network(form: WindowForm = SENSORS["signal"]) -> SignalNetwork:
    made = SignalNetwork(form, 8).eval()
    made.start_from(raw_windows("signal", 40))
    return made


def test_level_and_envelope_of_an_observation_are_those_of_the_window() -> None:
    net, windows = network(), raw_windows("signal", 6, seed=1)
    target = net.target(windows)
    again = net.target(net.to_observation(target))
    torch.testing.assert_close(again[:, 0], target[:, 0], atol=1e-4, rtol=1e-4)
    assert (again[:, 1] - target[:, 1]).abs().mean() < 0.1


def test_gravity_is_kept() -> None:
    net, windows = network(), raw_windows("signal", 6, seed=1)
    assert net.to_observation(net.target(windows))[:, :, 2].mean() == pytest.approx(9.81, abs=0.4)


def test_a_channel_that_never_moves_stays_what_it_is() -> None:
    still = torch.full((30, 150, 6), 255.0)
    net = SignalNetwork(SENSORS["signal"], 8).eval()
    net.start_from(still)
    assert torch.equal(net.scale, torch.ones(6))
    torch.testing.assert_close(net.to_observation(net.target(still)), still, atol=0.1, rtol=0)


@pytest.mark.parametrize(
    ("samples", "rate", "steps"),
    [(400, 200.0, 20), (22, 10.0, 22), (4, 1.0, 4), (20000, 10000.0, 20), (5000, 10.0, 32)],
)
def test_steps_last_a_tenth_of_a_second_where_that_is_possible(samples: int, rate: float, steps: int) -> None:
    assert signal_steps(samples, rate) == steps
    matrix = averaging_matrix(samples, steps)
    torch.testing.assert_close(matrix.sum(1), torch.ones(steps))
    torch.testing.assert_close(matrix.sum(0) * steps, torch.full((samples,), steps * steps / samples))


def test_slow_signals_have_levels_alone() -> None:
    net = SignalNetwork(WindowForm("joints", "signal", (9,), 10.0, 22), 8)
    assert net.target_shape == (1, 9, 22)
    assert net.target(torch.zeros(2, 22, 9)).shape == (2, 1, 9, 22)


@pytest.mark.parametrize(("shape", "window"), [((2, 3), 50), ((3,), 3), ((), 50)])
def test_what_is_no_series_is_refused(shape: tuple[int, ...], window: int) -> None:
    with pytest.raises(ValueError, match=r"signal.*channels"):
        SignalNetwork(WindowForm("x", "signal", shape, 100.0, window), 8)
