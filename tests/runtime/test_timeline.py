"""The timeline gives back what went in, on one clock, at fixed rates."""

import numpy as np

from runtime.features.audio import audio_rows
from runtime.features.spec import SPEC
from runtime.utterances.timeline import ALONE, Timeline, alone


def face(value: float) -> np.ndarray:
    return np.full(SPEC.vision_dim, value, np.float32)


def filled(seconds: float, origin_s: float = 0.0, chunk: int = 700) -> tuple[Timeline, np.ndarray]:
    signal = np.random.default_rng(1).normal(0, 0.1, int(seconds * 16_000)).astype(np.float32)
    timeline = Timeline()
    for at in range(0, len(signal), chunk):
        timeline.add_audio(origin_s + at / 16_000, signal[at : at + chunk])
    return timeline, signal


def test_samples_and_rows_of_an_interval() -> None:
    timeline, signal = filled(5.0, origin_s=3.0)
    np.testing.assert_array_equal(timeline.samples(4.0, 6.5), signal[16_000:56_000])
    np.testing.assert_array_equal(timeline.audio_rows(4.0, 6.0), audio_rows(signal)[25:75])


def test_old_audio_is_dropped_and_indices_stay_right() -> None:
    timeline, signal = filled(40.0)
    np.testing.assert_array_equal(timeline.samples(38.0, 39.0), signal[608_000:624_000])
    np.testing.assert_array_equal(timeline.audio_rows(38.0, 39.0), audio_rows(signal)[950:975])
    assert len(timeline.samples(0.0, 40.0)) < 31 * 16_000


def test_longest_utterance_fits_the_contract() -> None:
    timeline, _ = filled(20.0)
    for start_s in (0.0, 0.013, 2.5):
        n = len(timeline.audio_rows(start_s, start_s + SPEC.max_utterance_s))
        assert n <= SPEC.max_utterance_s * SPEC.audio_rate_hz


def test_vision_has_a_fixed_rate_and_holds_briefly() -> None:
    timeline = Timeline()
    for k in range(30):  # 15 pictures a second for 2 s, but none in the second second
        if k < 15:
            timeline.add_vision(k / 15, alone(face(k + 1.0)))
    timeline.add_vision(2.0, alone(face(99.0)))
    rows = timeline.vision_rows(0.0, 2.1, ALONE)
    assert rows.shape == (32, SPEC.vision_dim)
    assert rows[:14, 0].tolist() == [float(k + 2) for k in range(14)]
    assert rows[15, 0] == 15.0  # held
    assert np.all(rows[20:28] == 0.0)  # too old: no face rather than an old one
    assert rows[-1, 0] == 99.0


def test_no_picture_in_the_interval_is_no_vision() -> None:
    timeline = Timeline()
    timeline.add_vision(0.95, alone(face(1.0)))
    assert timeline.vision_rows(1.0, 2.0, ALONE).shape == (0, SPEC.vision_dim)
