"""The event that signals set: it wakes who waits, and two signals do not hang the process."""

from __future__ import annotations

import signal
import sys
import threading
import time
from contextlib import ExitStack

import pytest
from process_under_test import ProcessUnderTest, python

from runtime.stopping import StopEvent

WAITING = """
from runtime.stopping import stop_on_signals
stop = stop_on_signals()
print("ready", flush=True)
raise SystemExit(0 if stop.wait(20) else 3)
"""


def test_it_wakes_who_waits_and_stays_set() -> None:
    stop = StopEvent()
    assert not stop.wait(0.01)
    assert not stop.wait(-1.0)
    timer = threading.Timer(0.05, stop.set)
    timer.start()
    begin = time.monotonic()
    assert stop.wait(10)
    assert time.monotonic() - begin < 5
    assert stop.is_set()
    assert stop.wait()
    with pytest.raises(RuntimeError, match="stays set"):
        stop.clear()


def test_it_may_be_set_while_it_is_being_set() -> None:
    """What a second signal does, in the midst of the first one's handler: threading.Event hangs here."""
    stop = StopEvent()
    moments = []

    def profile(frame: object, event: str, argument: object) -> None:
        moments.append(event)
        stop.set()  # at every call within set(), so also where a lock of its would be held

    thread = threading.Thread(target=lambda: (sys.setprofile(profile), stop.set()), daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    assert len(moments) >= 3
    assert stop.is_set()


def test_two_signals_shortly_after_one_another_end_a_process() -> None:
    with ExitStack() as stack:
        processes = [stack.enter_context(ProcessUnderTest(python(WAITING))) for _ in range(6)]
        for i, process in enumerate(processes):
            process.wait_for("ready")
            process.send_signal(signal.SIGTERM)
            end = time.perf_counter() + i * 2e-5
            while time.perf_counter() < end:
                pass
            process.send_signal(signal.SIGINT)
        for process in processes:
            # 0 where the handlers were still there for the second signal; else it ended what was ending anyway.
            process.end(codes=(0, -signal.SIGTERM, -signal.SIGINT, 130))
