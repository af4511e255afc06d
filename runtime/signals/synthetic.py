"""The synthetic ``commands-4`` rig: a seeded source for machines without recordings, whose modalities belong together.

Each moment is one scene, one speaker and one head, all drawn from (seed, split, moment). RGB and depth are two
measurements of the same 3-D scene at the same time. No single modality shows the class reliably: bars hide fingers,
rooms are dark or loud, and flicker responses are weaker than the background.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from runtime.rig import Rig, load_rig
from runtime.signals.moments import SPLITS, Moments, Split
from runtime.signals.synthetic_audio import draw_utterances
from runtime.signals.synthetic_eeg import draw_trial
from runtime.signals.synthetic_scene import Scene, Surface, cast, draw_scene, measure_depth, shade

CLASSES = ("stop", "go", "left", "right")
CLASS_FREQUENCIES_HZ = (0.0, 21.0, 13.0, 17.0)
MOMENTS: Mapping[Split, int] = {"train": 2400, "validation": 480, "test": 480}

# Streams of randomness of one moment; frames add their number.
_SCENE, _AUDIO, _EEG, _RGB_NOISE, _DEPTH_NOISE = range(5)


class SyntheticSource:
    """Synthetic signals as a :class:`~runtime.signals.moments.MomentSource`.

    Args:
        seed: the same seed gives the same bytes everywhere.
        counts: moments per split; multiples of the number of classes.
        modalities: whose signals may be read; all by default.

    Raises:
        ValueError: a count that is not a positive multiple of the number of classes.
        KeyError: an unknown modality.
    """

    name: Literal["recorded", "synthetic"] = "synthetic"

    def __init__(
        self,
        seed: int = 0,
        *,
        counts: Mapping[Split, int] = MOMENTS,
        modalities: Sequence[str] | None = None,
    ) -> None:
        self.rig: Rig = load_rig("commands-4")
        self.classes: tuple[str, ...] = CLASSES
        self.duration_s = 5.0
        self.settle_s = {"rgb": 0.0, "depth": 0.0, "audio": 0.0, "eeg": 0.5}
        self._seed = seed
        self._rate = {s.modality: s.rate_hz for s in self.rig.sensors}
        self._lengths = {m: round(self.duration_s * rate) for m, rate in self._rate.items()}
        self._readable = tuple(self._lengths) if modalities is None else tuple(modalities)
        unknown = sorted(set(self._readable) - set(self._lengths))
        if unknown:
            raise KeyError(f"unknown modalities {unknown}; this source has {list(self._lengths)}")
        self._moments = {split: self._draw_moments(split, counts[split]) for split in SPLITS}
        # A playing sensor reads one moment message by message; across a boundary it reads two in turn.
        self._scene = lru_cache(maxsize=4)(self._draw_scene)
        self._surface = lru_cache(maxsize=4)(self._cast)
        self._utterances = lru_cache(maxsize=4)(self._draw_utterances)
        self._trial = lru_cache(maxsize=4)(self._draw_trial)

    def _draw_moments(self, split: Split, count: int) -> Moments:
        classes = len(CLASSES)
        if count < classes or count % classes:
            raise ValueError(f"{split} moments: expected a positive multiple of {classes}, got {count}")
        rng = np.random.default_rng([self._seed, SPLITS.index(split)])
        blocks = np.tile(np.arange(classes, dtype=np.int64), (count // classes, 1))
        numbers = np.arange(count, dtype=np.int64)
        return Moments(rng.permuted(blocks, axis=1).reshape(-1), {m: numbers.copy() for m in self._lengths})

    def moments(self, split: Split) -> Moments:
        """The moments of a split; ``recordings`` number the draws, the same for all modalities of a moment."""
        return self._moments[split]

    def _rng(self, split: Split, moment: int, stream: int, number: int = 0) -> np.random.Generator:
        return np.random.default_rng([self._seed, SPLITS.index(split), moment, stream, number])

    def _label(self, split: Split, moment: int) -> int:
        return int(self._moments[split].labels[moment])

    def _draw_scene(self, split: Split, moment: int) -> Scene:
        return draw_scene(CLASSES[self._label(split, moment)], self._rng(split, moment, _SCENE))

    def _cast(self, split: Split, moment: int, t: float) -> Surface:
        return cast(self._scene(split, moment), t)

    def _draw_utterances(self, split: Split, moment: int) -> npt.NDArray[np.int16]:
        word = CLASSES[self._label(split, moment)]
        rng = self._rng(split, moment, _AUDIO)
        return draw_utterances(word, rng, rate_hz=round(self._rate["audio"]), seconds=self.duration_s)

    def _draw_trial(self, split: Split, moment: int) -> npt.NDArray[np.float32]:
        frequency = CLASS_FREQUENCIES_HZ[self._label(split, moment)]
        rng = self._rng(split, moment, _EEG)
        return draw_trial(frequency, rng, rate_hz=self._rate["eeg"], samples=self._lengths["eeg"])

    def _frame(self, split: Split, moment: int, modality: str, number: int) -> npt.NDArray[Any]:
        scene = self._scene(split, moment)
        surface = self._surface(split, moment, number / self._rate[modality])
        if modality == "rgb":
            return shade(scene, surface, self._rng(split, moment, _RGB_NOISE, number))
        return measure_depth(scene, surface, self._rng(split, moment, _DEPTH_NOISE, number))

    def read(self, split: Split, moment: int, modality: str, start: int, count: int) -> npt.NDArray[Any]:
        """Samples ``start .. start + count`` of one modality in one moment; see the protocol.

        Raises:
            IndexError: moment or sample range outside the split.
            KeyError: a modality that is unknown or was not asked for.
        """
        if modality not in self._readable:
            raise KeyError(f"modality {modality!r} is not readable; readable are {list(self._readable)}")
        moments = len(self._moments[split])
        if not 0 <= moment < moments:
            raise IndexError(f"moment {moment} of {split}: valid are 0 .. {moments - 1}")
        if not 0 <= start <= start + count <= self._lengths[modality]:
            raise IndexError(
                f"{modality} samples {start} .. {start + count}: valid are 0 .. {self._lengths[modality]}"
            )
        if modality == "audio":
            return self._utterances(split, moment)[start : start + count].copy()
        if modality == "eeg":
            return self._trial(split, moment)[start : start + count].copy()
        sensor = self.rig.sensor(modality)
        frames = [self._frame(split, moment, modality, start + k) for k in range(count)]
        return np.stack(frames) if frames else np.empty((0, *sensor.sample_shape), sensor.dtype)
