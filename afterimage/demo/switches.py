"""Kill switches of a live demo: each ends a sensor's process, as pulling its plug would, and starts it again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from runtime.sensors.supervisor import SensorProcessError, Supervisor


class ProcessSwitches:
    """One switch per sensor. Dropping acts at once (SIGKILL); restoring takes as long as a process takes to start."""

    def __init__(self, sensors: Supervisor, show: Callable[[str], None] = lambda _: None) -> None:
        """Offer switches for sensors that have begun.

        Args:
            sensors: their supervisor; the caller closes the switches before it stops the sensors.
            show: called with a line about everything that a switch did.
        """
        self._sensors = sensors
        self._show = show
        self._lock = threading.Lock()
        self._states = dict.fromkeys(sensors.modalities, "playing")
        self._restoring: dict[str, threading.Thread] = {}
        self._closed = False

    def states(self) -> Mapping[str, str]:
        """Modality -> ``playing``, ``dropped``, ``restoring``, or why it could not be restored."""
        with self._lock:
            return dict(self._states)

    def drop(self, modality: str) -> None:
        """Kill a sensor's process; does nothing if it does not play."""
        with self._lock:
            if self._states[modality] != "playing" or self._closed:
                return
            self._sensors.kill(modality)
            self._states[modality] = "dropped"
        self._show(f"dropped {modality}: its process was killed")

    def restore(self, modality: str) -> None:
        """Start a sensor's process again, in a thread; does nothing if it plays or is being restored."""
        with self._lock:
            if self._states[modality] in ("playing", "restoring") or self._closed:
                return
            self._states[modality] = "restoring"
            thread = threading.Thread(target=self._restore, args=(modality,), daemon=True)
            self._restoring[modality] = thread
            thread.start()

    def close(self) -> None:
        """Wait until nothing is being restored any more; later commands are ignored."""
        with self._lock:
            self._closed = True
        for thread in self._restoring.values():
            thread.join()

    def _restore(self, modality: str) -> None:
        try:
            self._sensors.restart(modality)
        except SensorProcessError as e:
            outcome, line = str(e)[:200], f"{modality} could not be restored: {e}"
        else:
            outcome, line = "playing", f"restored {modality}: a new process plays where the others are"
        with self._lock:
            self._states[modality] = outcome
        self._show(line)
