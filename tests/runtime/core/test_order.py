"""The order of messages: loss, repetition, restart."""

import pytest

from runtime.core.clock import ahead_of, node_time
from runtime.core.order import Place, StreamOrder
from runtime.wire import Clock


@pytest.mark.parametrize(
    ("sequence", "capture", "place"),
    [
        (6, 110, Place.NEXT),
        (9, 110, Place.AFTER_LOSS),
        (5, 100, Place.DUPLICATE),
        (4, 90, Place.OUT_OF_ORDER),
        (6, 100, Place.BACKWARD),
        (0, 110, Place.RESTART),
        (5, 110, Place.RESTART),
    ],
)
def test_place_after_sequence_5_captured_at_100(sequence: int, capture: int, place: Place) -> None:
    order = StreamOrder(sequence=5, capture_ns=100)
    assert order.place(sequence, capture) is place


def test_first_message_may_have_any_number() -> None:
    assert StreamOrder().place(41, 7) is Place.FIRST


def test_lost_messages_are_counted_from_the_numbers() -> None:
    order = StreamOrder(sequence=5, capture_ns=100)
    order.accept(Place.AFTER_LOSS, 9, 110)
    assert (order.lost, order.restarts) == (3, 0)


def test_a_wild_number_costs_one_restart_not_the_stream() -> None:
    order = StreamOrder(sequence=5, capture_ns=100)
    for sequence, capture, place in (
        (2**62, 110, Place.AFTER_LOSS),
        (7, 120, Place.RESTART),
        (8, 130, Place.NEXT),
    ):
        assert order.place(sequence, capture) is place
        order.accept(place, sequence, capture)
    assert order.restarts == 1


def test_a_stamp_is_moved_onto_the_nodes_clock() -> None:
    assert node_time(1_000, Clock("camera", offset_ns=300)) == 700


def test_a_capture_ahead_of_now_is_excused_up_to_tolerance_and_uncertainty() -> None:
    clock = Clock("camera", uncertainty_ns=20)
    assert ahead_of(1000, 1070, 50, clock) == 0
    assert ahead_of(1000, 1071, 50, clock) == 1
