"""Faults of content: messages in good form whose samples a sensor that works would not deliver."""

from __future__ import annotations

import random
from collections.abc import Iterable

import numpy as np
from spoiling import Encode, Freeze, Message, Parts, Samples, Spoiling


class Content(Spoiling):
    """The samples of every message are changed; what came of each follows from the windows it was in."""

    tolerated = 0

    def spoil(self, message: Message, encode: Encode, chance: random.Random) -> Iterable[Parts]:
        message.samples = self.changed(message.samples).astype(message.samples.dtype)
        self.accepted()
        yield encode(message)

    def changed(self, samples: Samples) -> Samples:
        raise NotImplementedError


class Dark(Content):
    """A dark room: no more than the noise of the sensor."""

    def changed(self, samples: Samples) -> Samples:
        return samples // 40


class Blinded(Content):
    """Light into the lens."""

    def changed(self, samples: Samples) -> Samples:
        return 255 - samples // 40


class Holes(Content):
    """Nine readings in ten are lost, each time others."""

    def changed(self, samples: Samples) -> Samples:
        return np.where(samples % 10, 0, samples)


class Nothing(Freeze):
    """A cap on the lens: one picture after the other is all zeros, which is also the same picture again and again."""

    tolerated = 0

    def spoil(self, message: Message, encode: Encode, chance: random.Random) -> Iterable[Parts]:
        message.samples = np.zeros_like(message.samples)
        return super().spoil(message, encode, chance)


class Silence(Content):
    """Digital silence: as long as there is anything else in the window, it is a pause."""

    tolerated = 49
    is_seen = True

    def changed(self, samples: Samples) -> Samples:
        return np.zeros_like(samples)


class Clipped(Content):
    """Twenty times too loud."""

    def changed(self, samples: Samples) -> Samples:
        return (samples.astype(np.int32) * 20).clip(-32768, 32767)


class Flat(Content):
    """A stuck converter; of 768 samples 2 % may equal the three before, which two chunks do."""

    tolerated = 2
    is_seen = True

    def changed(self, samples: Samples) -> Samples:
        return np.zeros_like(samples)


class Rail(Content):
    """One channel sits at the end of the converter's range."""

    def changed(self, samples: Samples) -> Samples:
        samples = samples.copy()
        samples[:, 0] = 187500
        return samples


class Offset(Content):
    """One electrode drifts off, the signal rides on the offset; one chunk moves the mean by half of what is allowed."""

    tolerated = 1

    def changed(self, samples: Samples) -> Samples:
        return samples + np.float32(5000) * (np.arange(samples.shape[1]) == 0)


class Loud(Content):
    """Muscles and movement: two hundred times the signal, around zero."""

    def changed(self, samples: Samples) -> Samples:
        return samples * 200


class NotFinite(Content):
    """One sample in a message is no number: it came, so it is not lost, but no window may have it."""

    tolerated = None

    def changed(self, samples: Samples) -> Samples:
        samples = samples.copy()
        samples[-1, -1] = np.nan
        return samples

    def accepted(self, count: int = 1) -> None:
        self.injected["not_finite"] += count
        self.breaks()
