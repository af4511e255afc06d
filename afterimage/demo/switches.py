"""Kill switches of a live demo: each ends a sensor's process and starts it again, as pulling a plug does."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from runtime.sensors.process import SensorGroup, SensorProcessError


class ProcessSwitches:
    """One switch per sensor of a playing group. Dropping is at once (SIGKILL); restoring takes a process's start."""

    def __init__(self, group: SensorGroup, said: Callable[[str], None] = lambda _: None) -> None:
        """Take over a group that has been started.

        Args:
            group: the sensors; closed by the caller after the switches.
            said: told, in a line, what was done.
        """
        self._group = group
        self._said = said
        self._lock = threading.Lock()
        self._states = dict.fromkeys(group.modalities, "playing")
        self._restoring: dict[str, threading.Thread] = {}
        self._closed = False

    def states(self) -> Mapping[str, str]:
        """Modality -> ``playing``, ``dropped``, ``restoring``, or why it could not be restored."""
        with self._lock:
            return dict(self._states)

    def drop(self, modality: str) -> None:
        """Kill a sensor's process; nothing if it does not play."""
        with self._lock:
            if self._states[modality] != "playing" or self._closed:
                return
            self._group.kill(modality)
            self._states[modality] = "dropped"
        self._said(f"dropped {modality}: its process was killed")

    def restore(self, modality: str) -> None:
        """Start a sensor's process again, in a thread; nothing if it plays or is being restored."""
        with self._lock:
            if self._states[modality] in ("playing", "restoring") or self._closed:
                return
            self._states[modality] = "restoring"
            thread = threading.Thread(target=self._restore, args=(modality,), daemon=True)
            self._restoring[modality] = thread
            thread.start()

    def close(self) -> None:
        """Wait for what is being restored; later commands are ignored."""
        with self._lock:
            self._closed = True
        for thread in self._restoring.values():
            thread.join()

    def _restore(self, modality: str) -> None:
        try:
            self._group.restart(modality)
        except SensorProcessError as e:
            outcome, words = str(e)[:200], f"{modality} could not be restored: {e}"
        else:
            outcome, words = "playing", f"restored {modality}: a new process plays where the others are"
        with self._lock:
            self._states[modality] = outcome
        self._said(words)
