"""The pipeline over the real wire format: faults in, states, masks and counters out, under a fake clock."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pipeline_bench import EVIDENCE_SIZE, MS, SECOND, SENSORS, START, WINDOW, Bench

from engines.bundle import Manifest
from runtime.core.pipeline import Pipeline, Received, Rejected, State
from runtime.rig import Rig, RigError
from runtime.wire import Clock, Limits, Reason, encode_frame

ALL = tuple(SENSORS)


def test_every_modality_becomes_live_when_its_first_window_is_there(bench: Bench) -> None:
    bench.run(1.0)
    started = {e.modality: e.at_ns - START for e in bench.events}
    assert {e.reason for e in bench.events} == {"started"}
    # Three frames for images; for signals the window (0.2 s, 0.5 s), each rounded up to the next judgement.
    assert 99 * MS <= started["rgb"] <= 150 * MS
    assert 200 * MS <= started["audio"] <= 250 * MS
    assert 500 * MS <= started["eeg"] <= 550 * MS


def test_ticks_are_steady_and_tell_the_whole_mask(live: Bench) -> None:
    plans = live.plans
    assert [p.number for p in plans] == list(range(40))
    assert {b.deadline_ns - a.deadline_ns for a, b in pairwise(plans)} == {50 * MS}
    plan = plans[-1]
    assert plan.input.presence.tolist() == [1, 1, 1]
    assert plan.input.imputed == ()
    assert set(plan.input.evidence) == set(ALL)
    assert plan.capture_ns is not None
    assert 0 <= plan.deadline_ns - plan.capture_ns <= 35 * MS
    ages = {m: s.age_ns for m, s in plan.modalities.items()}
    assert all(age is not None and 0 <= age <= 160 * MS for age in ages.values())


def test_windows_are_given_out_on_their_hop(live: Bench) -> None:
    for modality, (_, hop) in WINDOW.items():
        captures = [c for m, c, _ in live.encoded if m == modality]
        hop_ns = hop / SENSORS[modality]["rate_hz"] * SECOND
        assert np.diff(captures) == pytest.approx(hop_ns, abs=100)


@pytest.mark.parametrize("modality", ALL)
def test_silence_is_flagged_within_the_bound_and_touches_nobody_else(live: Bench, modality: str) -> None:
    live.silent = {modality}
    onset = live.now
    live.run(0.5)
    (event,) = live.events
    assert (event.modality, event.state, event.reason) == (modality, "missing", "silence")
    # Judged when the silence is up, not a tick later.
    assert event.at_ns - onset <= 100 * MS + 1
    plan = live.plans[-1]
    assert plan.input.imputed == (modality,)
    assert plan.input.presence.tolist() == [float(m != modality) for m in ALL]
    assert modality not in plan.input.evidence
    assert plan.modalities[modality].weight == 0
    assert plan.modalities[modality].imputed


@pytest.mark.parametrize(("modality", "bound_ms"), [("rgb", 150), ("audio", 250), ("eeg", 550)])
def test_return_waits_for_a_window_of_new_samples_only(live: Bench, modality: str, bound_ms: int) -> None:
    live.silent = {modality}
    live.run(0.4)
    live.silent = set()
    back = live.now
    live.events.clear()
    live.run(1.0)
    (event,) = live.events
    assert (event.state, event.reason) == ("live", "recovered")
    window_ns = WINDOW[modality][0] / SENSORS[modality]["rate_hz"] * SECOND
    # The first message after the silence holds samples captured up to one period before it came.
    assert event.at_ns - back >= (window_ns - live.period(modality) if modality != "rgb" else 60 * MS)
    assert event.at_ns - back <= (bound_ms + 50) * MS
    first = next(c for m, c, at in live.encoded if m == modality and at > back)
    assert first - (window_ns if modality != "rgb" else 0) >= back - live.period(modality)


def test_silence_without_a_gap_in_the_numbers_breaks_the_window_too(live: Bench) -> None:
    live.silent = {"audio"}
    live.run(0.4)
    live.silent = set()
    live.sequence["audio"] -= 20
    before = live.pipeline.counters()["modalities"]["audio"]["lost"]
    back = live.now
    live.run(0.15)
    assert not [c for m, c, at in live.encoded if m == "audio" and at > back]
    assert live.pipeline.counters()["modalities"]["audio"]["lost"] == before


def test_one_lost_message_breaks_a_signal_but_not_an_image(live: Bench) -> None:
    for modality in ALL:
        live.sequence[modality] += 1
    cut = live.now
    live.run(0.19)
    later = {m for m, _, at in live.encoded if at > cut}
    assert later == {"rgb"}
    assert {m: c["lost"] for m, c in live.pipeline.counters()["modalities"].items()} == dict.fromkeys(ALL, 1)


def test_frozen_after_five_identical_messages_and_back(live: Bench) -> None:
    still = live.samples("rgb")
    live.spoil = {"rgb": lambda _: still}
    onset = live.now
    live.run(0.5)
    (event,) = live.events
    assert (event.state, event.reason) == ("frozen", "identical")
    assert event.at_ns - onset <= 5 * live.period("rgb") + 50 * MS
    live.spoil, live.events = {}, []
    live.run(0.3)
    assert live.changes("rgb") == [("frozen", "live", "recovered")]


def test_a_frozen_signal_leaves_no_repeated_sample_in_the_window_after_it(live: Bench) -> None:
    still = live.samples("audio")
    live.spoil = {"audio": lambda _: still}
    live.run(0.5)
    live.spoil = {}
    live.run(0.5)
    latest = live.pipeline.latest_window("audio")
    assert latest is not None
    assert not (latest.window.reshape(-1, 20) == still).all(axis=1).any()


def test_digital_silence_is_not_frozen_but_corrupt(live: Bench) -> None:
    live.spoil = {"audio": np.zeros_like}
    live.run(0.5)
    assert live.changes("audio") == [("live", "corrupt", "rms_min")]


@pytest.mark.parametrize(
    ("modality", "spoil", "check"),
    [
        ("rgb", np.zeros_like, "black_share_max"),
        (
            "audio",
            lambda x: np.clip(x.astype(np.int32) * 200, -32768, 32767).astype(np.int16),
            "clipped_share_max",
        ),
        ("eeg", lambda x: np.where(np.arange(4) < 2, np.float32(187_500), x), "flat_share_max"),
    ],
)
def test_bad_content_is_corrupt_and_never_evidence(
    live: Bench, modality: str, spoil: Any, check: str
) -> None:
    # Black images repeat, so they become frozen as well; the content check must be first.
    live.spoil = {modality: spoil}
    onset = live.now
    live.run(0.25)
    event = live.events[0]
    assert (event.modality, event.state, event.reason) == (modality, "corrupt", check)
    assert ">" in event.detail
    assert event.at_ns - onset <= 200 * MS
    assert not [c for m, c, _ in live.encoded if m == modality and c > event.at_ns]
    live.spoil, live.events = {}, []
    live.run(1.5)
    assert live.changes(modality)[-1][1:] == ("live", "recovered")


def test_late_data_is_late_and_recovers(live: Bench) -> None:
    live.delay_ns["rgb"] = 400 * MS
    live.run(1.0)
    assert [s for _, s, _ in live.changes("rgb")] == ["missing", "late"]
    assert live.plans[-1].input.imputed == ("rgb",)
    # The connection catches up: the waiting frames come at once.
    live.delay_ns["rgb"] = 0
    live.run(0.5)
    assert live.changes("rgb")[-1] == ("late", "live", "recovered")


def test_a_restarted_sensor_counts_from_zero_and_is_taken_back(live: Bench) -> None:
    for modality in ALL:
        live.sequence[modality] = 0
    live.run(1.0)
    counters = live.pipeline.counters()
    assert counters["restarts"] == 3
    assert counters["dropped"].get("out_of_order") is None
    assert {live.pipeline.state(m) for m in ALL} == {State.LIVE}


REFUSALS: dict[Reason, tuple[str, dict[str, Any]]] = {
    Reason.WRONG_DTYPE: ("rgb", {"samples": np.zeros((1, 8, 8, 3), np.float32)}),
    Reason.WRONG_SHAPE: ("eeg", {"samples": np.zeros((8, 5), np.float32)}),
    Reason.WRONG_UNIT: ("eeg", {"unit": "mV"}),
    Reason.NOT_FINITE: (
        "eeg",
        {"samples": np.full((8, 4), np.nan, np.float32), "capture_ns": START + 2 * SECOND + MS},
    ),
    Reason.FUTURE: ("audio", {"capture_ns": START + 10 * SECOND}),
    Reason.WRONG_RIG: ("audio", {"rig": "other"}),
    Reason.UNKNOWN_MODALITY: ("audio", {"modality": "radar", "sequence": 0}),
}


@pytest.mark.parametrize("reason", REFUSALS)
def test_a_refusal_is_counted_with_expected_and_came(live: Bench, reason: Reason) -> None:
    modality, changes = REFUSALS[reason]
    before = live.pipeline.counters()
    samples = changes.get("samples")
    answer = live.send(modality, samples, **{k: v for k, v in changes.items() if k != "samples"})
    assert isinstance(answer, Rejected)
    assert answer.reason is reason
    assert answer.expected
    assert answer.came
    after = live.pipeline.counters()
    assert after["dropped"][reason.value] == before["dropped"].get(reason.value, 0) + 1
    assert after["unaccounted"] == 0
    owner = after["modalities"][modality]["dropped"] if answer.modality else after["unattributed"]["dropped"]
    assert owner[reason.value] == 1
    live.run(0.5)
    others = [m for m in ALL if m != modality]
    assert all(live.pipeline.state(m) is State.LIVE for m in others)
    assert not [e for e in live.events if e.modality in others]


def test_duplicate_out_of_order_and_backward_are_refused_by_name(bench: Bench) -> None:
    bench.now += 100 * MS
    assert isinstance(bench.send("rgb", sequence=4), Received)
    again = bench.send("rgb", sequence=4)
    older = bench.send("rgb", sequence=3, capture_ns=bench.now - MS)
    backward = bench.send("rgb", sequence=5, capture_ns=bench.now - MS)
    assert [getattr(a, "reason", None) for a in (again, older, backward)] == [
        Reason.DUPLICATE,
        Reason.OUT_OF_ORDER,
        Reason.BACKWARD,
    ]


def test_nan_makes_its_modality_corrupt_at_once_and_breaks_its_window(live: Bench) -> None:
    live.send("eeg", np.full((8, 4), np.nan, np.float32), capture_ns=live.next_capture["eeg"] - MS)
    onset, (event,) = live.now, live.pipeline.events()
    assert (event.modality, event.state, event.reason) == ("eeg", "corrupt", "not_finite")
    assert live.pipeline.counters()["lost"] == 0
    live.run(0.45)
    assert not [c for m, c, at in live.encoded if m == "eeg" and at > onset], "0.5 s make a window"


def test_a_bad_header_is_charged_to_the_modality_of_its_topic(bench: Bench) -> None:
    answer = bench.pipeline.receive([b"frame/bench/eeg", b"\xc1", b""], bench.now)
    assert isinstance(answer, Rejected)
    assert (answer.reason, answer.modality) == (Reason.BAD_HEADER, "eeg")


def test_an_oversized_payload_is_refused_before_it_is_read(rig: Rig, manifest: Manifest) -> None:
    pipeline = Pipeline(rig, manifest, START, limits=Limits(payload_bytes=100))
    parts = encode_frame(
        "bench", "rgb", 0, np.zeros((1, 8, 8, 3), np.uint8), capture_ns=START, unit="intensity", clock=Clock()
    )
    answer = pipeline.receive(parts, START)
    assert isinstance(answer, Rejected)
    assert (answer.reason, answer.came) == (Reason.OVERSIZED, "192 bytes")


def test_a_sensor_clock_with_an_offset_is_aligned(bench: Bench) -> None:
    bench.now += SECOND
    clock = Clock("camera", offset_ns=7 * SECOND)
    bench.send("rgb", capture_ns=bench.now + 7 * SECOND - 5 * MS, clock=clock)
    (due,) = bench.pipeline.due_windows(bench.now)
    assert due.capture_ns == bench.now - 5 * MS


def test_a_slow_engine_gets_the_newest_window_and_old_evidence_becomes_late(live: Bench) -> None:
    live.encode = False
    before = live.pipeline.counters()["windows"]["superseded"]
    live.run(1.0)
    assert [c[1:] for c in live.changes("rgb")] == [("late", "evidence_age")]
    live.encode = True
    live.run(0.3)
    assert live.changes("rgb") == [("late", "live", "recovered")]
    counters = live.pipeline.counters()
    assert counters["windows"]["superseded"] > before + 20
    assert counters["dropped"]["superseded"] >= 20
    assert counters["unaccounted"] == 0


def test_an_engine_failure_takes_only_its_modality_out(live: Bench) -> None:
    live.pipeline.encode_failed("audio", live.now, "RuntimeError: no")
    live.pipeline.store_evidence("eeg", np.full(EVIDENCE_SIZE, np.nan, np.float32), live.now)
    live.pipeline.check(live.now)
    events = live.pipeline.events()
    assert [(e.modality, e.state, e.reason) for e in events] == [
        ("audio", "missing", "encode_failed"),
        ("eeg", "missing", "encode_failed"),
    ]
    live.run(0.5)
    assert {live.pipeline.state(m) for m in ALL} == {State.LIVE}


def test_evidence_of_the_wrong_shape_is_a_fault_of_the_shell(bench: Bench) -> None:
    with pytest.raises(ValueError, match=r"'eeg': expected shape \(3,\), got \(1, 3\)"):
        bench.pipeline.store_evidence("eeg", np.zeros((1, 3), np.float32), START)


def test_policies_to_compare_with_come_on_the_same_tick(rig: Rig, manifest: Manifest) -> None:
    bench = Bench(rig, manifest, compare=("hold", "zero"))
    for modality in ALL:
        bench.pipeline.set_blank_evidence(modality, np.full(EVIDENCE_SIZE, -1, np.float32))
    bench.run(2.0)
    bench.silent = {"rgb"}
    bench.run(0.5)
    plan = bench.plans[-1]
    assert plan.input.presence.tolist() == [0, 1, 1]
    hold, zero = plan.alternatives["hold"], plan.alternatives["zero"]
    assert hold.presence.tolist() == zero.presence.tolist() == [1, 1, 1]
    last = max(c for m, c, _ in bench.encoded if m == "rgb")
    assert hold.evidence["rgb"].tolist() == [last % 1000] * EVIDENCE_SIZE
    assert zero.evidence["rgb"].tolist() == [-1] * EVIDENCE_SIZE


def test_a_rig_that_cannot_feed_the_bundle_is_refused(rig: Rig, manifest: Manifest) -> None:
    faster = rig.sensors[0].model_copy(update={"rate_hz": 60.0})
    with pytest.raises(RigError, match=r"rate_hz is 60\.0"):
        Pipeline(rig.model_copy(update={"sensors": (faster, *rig.sensors[1:])}), manifest, START)


ACTIONS = st.sampled_from(
    [
        "run",
        "run",
        "silence",
        "speak",
        "freeze",
        "black",
        "clean",
        "lose",
        "restart",
        "nan",
        "garbage",
        "stall",
        "late",
    ]
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(actions=st.lists(st.tuples(ACTIONS, st.sampled_from(ALL)), max_size=25), junk=st.binary(max_size=40))
def test_whatever_happens_counters_reconcile_and_the_mask_equals_the_states(
    rig: Rig, manifest: Manifest, actions: list[tuple[str, str]], junk: bytes
) -> None:
    bench = Bench(rig, manifest)
    sent = 0
    for action, modality in actions:
        match action:
            case "silence":
                bench.silent.add(modality)
            case "speak":
                bench.silent.discard(modality)
            case "freeze":
                still = bench.samples(modality)
                bench.spoil[modality] = lambda _, still=still: still
            case "black":
                bench.spoil[modality] = np.zeros_like
            case "clean":
                bench.spoil.pop(modality, None)
            case "lose":
                bench.sequence[modality] += 3
            case "restart":
                bench.sequence[modality] = 0
            case "nan":
                if modality == "eeg":
                    bench.send("eeg", np.full((8, 4), np.inf, np.float32), capture_ns=bench.now - MS // 2)
            case "garbage":
                bench.pipeline.receive([b"frame/bench/" + modality.encode(), junk, junk], bench.now)
                bench.pipeline.receive([junk, junk], bench.now)
                sent += 1
            case "stall":
                bench.now += 170 * MS
                bench.work()
            case "late":
                bench.delay_ns[modality] = 300 * MS - bench.delay_ns[modality]
        bench.run(0.3)
        counters = bench.pipeline.counters()
        assert counters["unaccounted"] == 0
        assert all(c["unaccounted"] == 0 for c in counters["modalities"].values())
        assert counters["received"] == (
            counters["used"] + counters["pending"] + sum(counters["dropped"].values())
        )
        assert counters["unattributed"]["received"] == sent
    for plan in bench.plans:
        for flag, (name, status) in zip(plan.input.presence, plan.modalities.items(), strict=True):
            assert (flag == 1) == (status.state is State.LIVE) == (name in plan.input.evidence)
            assert (name in plan.input.imputed) == status.imputed == (flag == 0)
            assert (status.reason == "") == (flag == 1)
    deadlines = [p.deadline_ns for p in bench.plans]
    assert deadlines == sorted(set(deadlines))
    for name in ALL:
        chain = [e for e in bench.events if e.modality == name]
        assert [e.previous for e in chain] == ["waiting", *(e.state for e in chain)][: len(chain)]
