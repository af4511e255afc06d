from __future__ import annotations

import numpy as np

from runtime.core.pipeline import DueWindow
from runtime.core.worklist import EncodeJob, ObserveJob, Worklist

MS = 1_000_000


def due(modality: str) -> DueWindow:
    return DueWindow(modality, np.zeros(1), 0)


def encode(modality: str) -> EncodeJob:
    return EncodeJob(modality, ((0, due(modality)),))


def test_windows_of_one_modality_are_encoded_together_up_to_the_largest_batch() -> None:
    work = Worklist(largest_batch=2)
    for rig in range(3):
        work.add_windows([due("rgb"), due("eeg")], rig)
    batches = []
    while (job := work.next(0, 50 * MS)) is not None:
        assert isinstance(job, EncodeJob)
        batches.append((job.stage, [rig for rig, _ in job.windows]))
    assert batches == [
        ("encode_rgb", [0, 1]), ("encode_eeg", [0, 1]), ("encode_rgb", [2]), ("encode_eeg", [2]),
    ]  # fmt: skip


def test_windows_come_before_observations_in_the_order_they_came() -> None:
    work = Worklist()
    work.begin_interval([ObserveJob("rgb", imputed=True, best=False)])
    work.add_windows([due("rgb"), due("eeg")])
    assert not work.wants_windows
    stages = []
    while (job := work.next(0, 50 * MS)) is not None:
        stages.append(job.stage)
    assert stages == ["encode_rgb", "encode_eeg", "observe_rgb"]
    assert work.wants_windows


def test_a_job_that_would_delay_the_tick_is_held_back_until_after_it() -> None:
    work = Worklist()
    work.finished(encode("rgb"), 10 * MS)
    work.finished(encode("eeg"), 1 * MS)
    work.add_windows([due("eeg"), due("rgb")])
    first = work.next(30 * MS, 50 * MS)
    assert first is not None
    assert first.stage == "encode_eeg"
    assert work.next(38 * MS, 50 * MS) is None, "10 ms and a margin do not fit into 12 ms"
    assert not work.wants_windows, "it waits, and no newer window is taken meanwhile"
    work.begin_interval([])
    after = work.next(50 * MS, 100 * MS)
    assert after is not None
    assert after.stage == "encode_rgb"


def test_an_engine_slower_than_the_tick_still_encodes_once_per_tick() -> None:
    work = Worklist()
    work.finished(encode("rgb"), 200 * MS)
    for _ in range(3):
        work.begin_interval([])
        work.add_windows([due("rgb")])
        assert work.next(0, 50 * MS) is not None
        work.add_windows([due("rgb")])
        assert work.next(10 * MS, 50 * MS) is None
        work.begin_interval([])
        assert work.next(60 * MS, 100 * MS) is not None


def test_observations_that_a_tick_overtakes_are_counted_and_do_not_pile_up() -> None:
    work = Worklist()
    wanted = [ObserveJob(m, imputed=True, best=True) for m in ("rgb", "depth", "audio")]
    for job in wanted:
        work.finished(job, 40 * MS)
    work.begin_interval(wanted)
    for _ in range(10):
        assert work.next(20 * MS, 50 * MS) is None
        work.begin_interval(wanted)
    assert work.superseded == 30
    assert work.next(0, 1000 * MS) == wanted[0]


def test_estimates_follow_what_jobs_take() -> None:
    work = Worklist()
    job = ObserveJob("rgb", imputed=True, best=False)
    work.finished(job, 100 * MS)
    for _ in range(50):
        work.finished(job, 1 * MS)
    work.begin_interval([job])
    assert work.next(47 * MS, 50 * MS) == job


def test_observations_take_turns_when_there_is_not_time_for_all() -> None:
    work = Worklist()
    wanted = [ObserveJob(m, imputed=True, best=True) for m in ("rgb", "depth", "audio", "eeg")]
    for job in wanted:
        work.finished(job, 20 * MS)
    made = []
    for _ in range(8):
        work.begin_interval(wanted)
        job = work.next(0, 50 * MS)
        assert isinstance(job, ObserveJob)
        made.append(job.modality)
        assert work.next(30 * MS, 50 * MS) is None
    assert made == ["rgb", "depth", "audio", "eeg"] * 2


def test_one_observation_that_was_slow_once_does_not_stop_them_all_for_good() -> None:
    work = Worklist()
    wanted = [ObserveJob(m, imputed=True, best=True) for m in ("rgb", "depth")]
    work.finished(wanted[0], 200 * MS)
    made = []
    for _ in range(200):
        work.begin_interval(wanted)
        now = 0
        while (job := work.next(now, 50 * MS)) is not None and now < 50 * MS:
            assert isinstance(job, ObserveJob)
            made.append(job.modality)
            work.finished(job, 2 * MS)
            now += 2 * MS
    assert made.count("rgb") > 100
    assert made.count("depth") > 100
