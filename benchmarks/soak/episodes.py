"""When the sensors of a soak have which fault: episodes, with good messages between them."""

from __future__ import annotations

from benchmarks.virtual_node.catalogue import FAULTS, Fault
from benchmarks.virtual_node.sensor import Step, VirtualSensor
from runtime.core.clock import NS_PER_S

_LEAST_GOOD = 5
_LONGEST_CALM = 5.0
"""Times the average."""


class EpisodicSensor:
    """A sensor that sends good messages for a while, then has a fault, again and again.

    Faults are drawn from a shuffled deck, so that all of them come equally often.
    """

    def __init__(self, sensor: VirtualSensor, start_ns: int, calm_s: float) -> None:
        """Begin with good messages.

        Args:
            sensor: the sensor.
            start_ns: its first message is captured one period later.
            calm_s: good messages between two faults, in seconds on average.
        """
        self.sensor = sensor
        self._start_ns, self._calm_s = start_ns, calm_s
        self._index = 0
        self._faults = [f for f in FAULTS if f.is_predictable and f.in_soak and sensor.spec.kind in f.kinds]
        self._deck: list[Fault] = []
        self._calming = False
        self._good_left = self._draw_good()

    @property
    def next_ns(self) -> int:
        """When its next message is captured."""
        spec = self.sensor.spec
        return self._start_ns + round((self._index + 1) * spec.chunk * NS_PER_S / spec.rate_hz)

    @property
    def is_calm(self) -> bool:
        """Whether no fault is under way, and none will begin."""
        return self._calming and not self.sensor.has_fault

    def calm_down(self) -> None:
        """Begin no fault from now on."""
        self._calming = True

    def step(self) -> Step:
        """What it sends and does at its next time."""
        capture_ns = self.next_ns
        self._index += 1
        if not self.sensor.has_fault:
            if self._good_left > 0 or self._calming:
                self._good_left -= 1
            else:
                self._begin_episode()
                self._good_left = self._draw_good()
        return self.sensor.step(capture_ns)

    def _begin_episode(self) -> None:
        chance = self.sensor.chance
        if not self._deck:
            self._deck = [self._faults[i] for i in chance.permutation(len(self._faults))]
        fault = self._deck.pop()
        if fault.messages is not None:
            messages = int(chance.integers(*fault.messages, endpoint=True))
        else:
            messages = self.sensor.periods(chance.uniform(*fault.seconds))
        self.sensor.ledger.injected[fault.name] += 1
        self.sensor.begin(fault.play(self.sensor, messages))

    def _draw_good(self) -> int:
        drawn_s = min(self.sensor.chance.exponential(self._calm_s), _LONGEST_CALM * self._calm_s)
        return max(_LEAST_GOOD, self.sensor.periods(drawn_s))
