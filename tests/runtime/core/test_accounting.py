"""The ledger of one modality: which outcome a message is charged to, at the edges of windows."""

from __future__ import annotations

from runtime.core.accounting import Ledger
from runtime.wire import Reason


def ledger_of(*ends: int) -> Ledger:
    """One whose accepted messages end there, each beginning where the one before it ends."""
    ledger, start = Ledger(), 0
    for end in ends:
        ledger.arrive()
        ledger.accept(start, end)
        start = end
    return ledger


def test_a_message_that_ends_where_a_refused_window_begins_is_not_called_corrupt() -> None:
    """Nothing in it was judged: it is overtaken, and only the message inside the window was refused."""
    ledger = ledger_of(10, 20, 30)
    ledger.window_refused(10, 20)
    ledger.expire(30)
    assert ledger.dropped == {Reason.SUPERSEDED: 2, Reason.CORRUPT: 1}
    assert ledger.unaccounted() == 0


def test_a_message_of_a_refused_window_is_used_if_a_later_window_with_it_passes() -> None:
    ledger = ledger_of(10, 20)
    ledger.window_refused(0, 15)
    ledger.window_used(5, 20)
    assert (ledger.used, ledger.pending, ledger.dropped) == (2, 0, {})
