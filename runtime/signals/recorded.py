"""Real recordings as moments: the ``commands-4`` rig over the packs ``asl_rgbd``, ``speech_commands``, ``ssvep_exo``.

RGB and depth were recorded together (the hand signs s, g, l, r); the spoken word and the EEG are paired with them at
random within class and within split. Real signals, artificial pairing: say so where results are reported.

How a moment plays:

* RGB and depth start at the paired frame and run through the frames of that letter's block, forwards and backwards, at
  the rig's frame rate; both always show the same recorded frame, and never the same frame twice in a row.
* The spoken word repeats, once per clip length.
* EEG is one trial, from the onset of the flicker.

Validation is a part of the packs' training split, chosen by group: the last stretch of each letter's frames (with a gap
before it), one speaker in five, the last training session of every subject who has several, and every fifth subject
among those who have one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import numpy.typing as npt

from runtime.rig import Rig, load_rig
from runtime.signals.moments import SPLITS, Moments, Split
from runtime.signals.packs import Pack, PackError
from runtime.signals.pairing import pair_within_class, stable_fraction

CLASSES = ("stop", "go", "left", "right")
CLASS_FREQUENCIES_HZ = (0.0, 21.0, 13.0, 17.0)
"""Flicker that stands for each class in the EEG; 0 is rest."""

# Of a letter's training frames in time order, the first share trains, and what follows the gap validates.
_SIGN_TRAIN_SHARE, _SIGN_GAP_SHARE = 0.80, 0.05
_VALIDATION_SPEAKERS = 0.20
_SUBJECT_STRIDE = 5

RowsOf = dict[Split, list[npt.NDArray[np.int64]]]
"""Split -> per class, the pack's row numbers in time order."""


class _Recordings(Protocol):
    """One pack: the rows of every split and class, and how a row plays."""

    rows: RowsOf

    def load(self, modality: str) -> None:
        """Read the signals of one modality into memory."""
        ...

    def read(self, modality: str, row: int, start: int, count: int) -> npt.NDArray[Any]:
        """Samples of one recording as it plays from its beginning."""
        ...


@dataclass(frozen=True)
class _Block:
    """The frames among which one frame plays: the same letter, the same split, in time order."""

    rows: npt.NDArray[np.int64]
    position: int


def bounce(position: int, steps: npt.NDArray[np.int64], length: int) -> npt.NDArray[np.int64]:
    """Positions in 0 .. length-1 that run forwards and backwards, never the same twice in a row.

    Args:
        position: where step 0 is.
        steps: (K,) steps from there, >= 0.
        length: number of positions, >= 2.

    Returns:
        (K,) positions: a triangle wave of period 2 (length - 1).
    """
    phase = (position + steps) % (2 * (length - 1))
    return np.minimum(phase, 2 * (length - 1) - phase)


class _Signs:
    """Hand signs: RGB and depth frames of ``asl_rgbd.npz``."""

    _MEMBER: ClassVar = {"rgb": ("rgb", (64, 64, 3), "uint8"), "depth": ("depth_mm", (64, 64), "uint16")}

    def __init__(self, folder: Path) -> None:
        self._pack = Pack(folder / "asl_rgbd.npz", ("rgb", "depth_mm", "label", "letters", "split", "frame"))
        letters = [str(x) for x in self._pack.array("letters")]
        label, split, frame = (self._pack.array(k) for k in ("label", "split", "frame"))
        self.rows: RowsOf = {s: [] for s in SPLITS}
        for letter in (c[0] for c in CLASSES):
            if letter not in letters:
                raise PackError(f"{self._pack.path}: letters should hold {letter!r}, they are {letters}")
            of_letter = label == letters.index(letter)
            train = self._in_time(of_letter & (split == 0), frame)
            ends = [
                round(len(train) * share)
                for share in (_SIGN_TRAIN_SHARE, _SIGN_TRAIN_SHARE + _SIGN_GAP_SHARE)
            ]
            self.rows["train"].append(train[: ends[0]])
            self.rows["validation"].append(train[ends[1] :])
            self.rows["test"].append(self._in_time(of_letter & (split == 1), frame))
        _refuse_small(self._pack.path, self.rows, at_least=2)
        self._blocks = {
            int(row): _Block(block, position)
            for blocks in self.rows.values()
            for block in blocks
            for position, row in enumerate(block)
        }
        self._loaded_rows = np.sort(np.fromiter(self._blocks, np.int64, len(self._blocks)))
        self._frames: dict[str, npt.NDArray[Any]] = {}

    @staticmethod
    def _in_time(chosen: npt.NDArray[np.bool_], frame: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        rows = np.flatnonzero(chosen)
        return rows[np.argsort(frame[rows], kind="stable")]

    def load(self, modality: str) -> None:
        """Stream the frames of the four letters."""
        member, shape, dtype = self._MEMBER[modality]
        self._frames[modality] = self._pack.rows(member, self._loaded_rows, shape, dtype)

    def read(self, modality: str, row: int, start: int, count: int) -> npt.NDArray[Any]:
        """Frames of the row's block, bouncing from the row itself; (count, 64, 64[, 3])."""
        block = self._blocks[row]
        at = bounce(block.position, np.arange(start, start + count), len(block.rows))
        return self._frames[modality][np.searchsorted(self._loaded_rows, block.rows[at])]


class _Words:
    """Spoken words: clips of ``speech_commands.npz``."""

    def __init__(self, folder: Path, rate_hz: float) -> None:
        self._pack = Pack(
            folder / "speech_commands.npz",
            ("wave", "label", "words", "speaker", "speaker_ids", "split", "sample_rate"),
        )
        _expect_rate(self._pack, rate_hz)
        words = [str(x) for x in self._pack.array("words")]
        label, speaker, ids, split = (
            self._pack.array(k) for k in ("label", "speaker", "speaker_ids", "split")
        )
        held_out = np.array([stable_fraction(str(i)) < _VALIDATION_SPEAKERS for i in ids], bool)[speaker]
        self.rows: RowsOf = {s: [] for s in SPLITS}
        for word in CLASSES:
            if word not in words:
                raise PackError(f"{self._pack.path}: words should hold {word!r}, they are {words}")
            of_word = label == words.index(word)
            self.rows["train"].append(np.flatnonzero(of_word & (split == 0) & ~held_out))
            self.rows["validation"].append(np.flatnonzero(of_word & (split == 0) & held_out))
            self.rows["test"].append(np.flatnonzero(of_word & (split == 1)))
        _refuse_small(self._pack.path, self.rows, at_least=1)
        self._loaded_rows = np.sort(np.concatenate([r for rows in self.rows.values() for r in rows]))
        self._clip = round(rate_hz)
        self._waves: npt.NDArray[np.int16] = np.empty((0, self._clip), np.int16)

    def load(self, modality: str) -> None:
        """Stream the clips of the four words."""
        self._waves = self._pack.rows("wave", self._loaded_rows, (self._clip,), "int16")

    def read(self, modality: str, row: int, start: int, count: int) -> npt.NDArray[Any]:
        """The clip, repeated; (count,) int16."""
        wave = self._waves[np.searchsorted(self._loaded_rows, row)]
        played: npt.NDArray[np.int16] = wave[np.arange(start, start + count) % len(wave)]
        return played


class _Trials:
    """EEG trials of ``ssvep_exo.npz``."""

    def __init__(self, folder: Path, rate_hz: float, samples: int) -> None:
        self._pack = Pack(
            folder / "ssvep_exo.npz",
            ("eeg", "scale_uV", "label", "subject", "session", "class_freq_hz", "split", "sample_rate"),
        )
        _expect_rate(self._pack, rate_hz)
        self._samples = samples
        frequencies = [float(x) for x in self._pack.array("class_freq_hz")]
        label, subject, session, split = (
            self._pack.array(k) for k in ("label", "subject", "session", "split")
        )
        held_out = _held_out_sessions(subject, session, split)
        self.rows: RowsOf = {s: [] for s in SPLITS}
        for frequency in CLASS_FREQUENCIES_HZ:
            if frequency not in frequencies:
                raise PackError(
                    f"{self._pack.path}: class_freq_hz should hold {frequency:g} Hz, they are {frequencies}"
                )
            of_class = label == frequencies.index(frequency)
            self.rows["train"].append(np.flatnonzero(of_class & (split == 0) & ~held_out))
            self.rows["validation"].append(np.flatnonzero(of_class & (split == 0) & held_out))
            self.rows["test"].append(np.flatnonzero(of_class & (split == 1)))
        _refuse_small(self._pack.path, self.rows, at_least=1)
        self._loaded_rows = np.sort(np.concatenate([r for rows in self.rows.values() for r in rows]))
        self._microvolts: npt.NDArray[np.float32] = np.empty((0, samples, 8), np.float32)

    def load(self, modality: str) -> None:
        """Stream the trials and convert them to microvolts, time first."""
        raw = self._pack.rows("eeg", self._loaded_rows, (8, self._samples), "int16")
        scale = np.float32(self._pack.array("scale_uV"))
        self._microvolts = np.ascontiguousarray(raw.transpose(0, 2, 1)).astype(np.float32) * scale

    def read(self, modality: str, row: int, start: int, count: int) -> npt.NDArray[Any]:
        """The trial from the onset of the flicker; (count, 8) float32 microvolts."""
        return self._microvolts[np.searchsorted(self._loaded_rows, row), start : start + count].copy()


def _held_out_sessions(
    subject: npt.NDArray[Any], session: npt.NDArray[Any], split: npt.NDArray[Any]
) -> npt.NDArray[np.bool_]:
    """Which trials validate unless they are test trials; see the module's docstring."""
    train = split == 0
    held_out = np.zeros(len(subject), bool)
    single = []
    for person in np.unique(subject[train]):
        sessions = np.unique(session[train & (subject == person)])
        if len(sessions) > 1:
            held_out |= (subject == person) & (session == sessions[-1])
        else:
            single.append(person)
    return held_out | np.isin(subject, single[_SUBJECT_STRIDE - 1 :: _SUBJECT_STRIDE])


def _expect_rate(pack: Pack, rate_hz: float) -> None:
    found = float(pack.array("sample_rate"))
    if found != rate_hz:
        raise PackError(f"{pack.path}: sample_rate should be {rate_hz:g} Hz, it is {found:g} Hz")


def _refuse_small(path: Path, rows: RowsOf, at_least: int) -> None:
    for split, per_class in rows.items():
        for name, chosen in zip(CLASSES, per_class, strict=True):
            if len(chosen) < at_least:
                raise PackError(
                    f"{path}: class {name!r} has {len(chosen)} recordings in the {split} split, "
                    f"at least {at_least} are needed"
                )


class RecordedSource:
    """The recorded ``commands-4`` rig as a :class:`~runtime.signals.moments.MomentSource`.

    Args:
        data_dir: folder that holds the three packs.
        seed: of the pairing; the same seed and packs give the same moments everywhere.
        pairings: moments of train and of validation in which every recording takes part, at least. The test split
            has one moment per recording of its largest class and modality, so that every test recording is used.
        modalities: whose signals to load (a sensor process needs only its own); all by default. The moments are
            the same whatever is loaded.

    Raises:
        PackError: a pack is missing, broken, or not of the expected layout.
        KeyError: an unknown modality.
    """

    name: Literal["recorded", "synthetic"] = "recorded"

    def __init__(
        self, data_dir: Path, *, seed: int = 0, pairings: int = 30, modalities: Sequence[str] | None = None
    ) -> None:
        self.rig: Rig = load_rig("commands-4")
        self.classes: tuple[str, ...] = CLASSES
        self.duration_s = 5.0
        self.settle_s = {"rgb": 0.0, "depth": 0.0, "audio": 0.0, "eeg": 0.5}
        rate = {s.modality: s.rate_hz for s in self.rig.sensors}
        signs = _Signs(data_dir)
        words = _Words(data_dir, rate["audio"])
        trials = _Trials(data_dir, rate["eeg"], round(self.duration_s * rate["eeg"]))
        known: dict[str, _Recordings] = {"rgb": signs, "depth": signs, "audio": words, "eeg": trials}
        wanted = tuple(known) if modalities is None else tuple(modalities)
        for modality in wanted:
            if modality not in known:
                raise KeyError(f"unknown modality {modality!r}; this source has {list(known)}")
            known[modality].load(modality)
        self._recordings = {m: known[m] for m in wanted}
        self._lengths = {m: round(self.duration_s * rate[m]) for m in known}
        self._moments = {
            split: pair_within_class(
                {"rgb": signs.rows[split], "audio": words.rows[split], "eeg": trials.rows[split]},
                {"depth": "rgb"},
                1 if split == "test" else pairings,
                np.random.default_rng([seed, number]),
            )
            for number, split in enumerate(SPLITS)
        }

    def moments(self, split: Split) -> Moments:
        """The moments of a split; ``recordings`` are row numbers of the packs, the frame where RGB and depth start."""
        return self._moments[split]

    def read(self, split: Split, moment: int, modality: str, start: int, count: int) -> npt.NDArray[Any]:
        """Samples ``start .. start + count`` of one modality in one moment; see the protocol.

        Raises:
            IndexError: moment or sample range outside the split.
            KeyError: a modality that is unknown or was not loaded.
        """
        moments = self._moments[split]
        if modality not in self._recordings:
            raise KeyError(f"modality {modality!r} is not loaded; loaded are {list(self._recordings)}")
        if not 0 <= moment < len(moments):
            raise IndexError(f"moment {moment} of {split}: valid are 0 .. {len(moments) - 1}")
        if not 0 <= start <= start + count <= self._lengths[modality]:
            raise IndexError(
                f"{modality} samples {start} .. {start + count}: valid are 0 .. {self._lengths[modality]}"
            )
        row = int(moments.recordings[modality][moment])
        return self._recordings[modality].read(modality, row, start, count)
