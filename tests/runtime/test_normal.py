"""Audio rows against the speech of a session."""

import numpy as np
import pytest

from runtime.features.audio import audio_rows
from runtime.features.normal import SpeechStatistics, voiced_sums
from runtime.features.spec import SPEC

F0, VOICING, ENERGY = SPEC.n_mels, SPEC.n_mels + 1, SPEC.n_mels + 2


def voice(seed: int = 0, pitch_hz: float = 150.0, seconds: float = 2.0) -> np.ndarray:
    """Raw rows of a buzz in syllables."""
    rng = np.random.default_rng(seed)
    t = np.arange(int(16_000 * seconds)) / 16_000
    phase = 2 * np.pi * np.cumsum(pitch_hz * (1 + 0.1 * np.sin(2 * np.pi * t))) / 16_000
    buzz = np.sum([np.sin(k * phase) / k for k in range(1, 20)], axis=0)
    samples = 0.1 * buzz * np.abs(np.sin(2 * np.pi * 2 * t)) + rng.normal(0, 1e-3, len(t))
    return audio_rows(samples.astype(np.float32))


def louder(rows: np.ndarray, by: float) -> np.ndarray:
    out = rows.copy()
    out[:, : SPEC.n_mels] += by
    out[:, ENERGY] += by
    return out


def test_a_first_utterance_has_no_gain() -> None:
    rows = voice()
    plain = SpeechStatistics().normalise(rows)
    np.testing.assert_allclose(SpeechStatistics().normalise(louder(rows, -3.0)), plain, atol=1e-4)
    assert np.abs(plain).mean() < 2.0


def test_after_some_speech_loud_and_high_are_seen_against_the_usual() -> None:
    statistics = SpeechStatistics()
    for seed in range(8):
        statistics.learn(voice(seed))
    usual, loud = statistics.normalise(voice(9)), statistics.normalise(louder(voice(9), 2.0))
    assert (loud - usual)[:, ENERGY].mean() > 0.5
    high = statistics.normalise(voice(9, pitch_hz=210.0))
    pitched = [rows[rows[:, F0] != 0][:, F0].mean() for rows in (usual, high)]
    assert abs(pitched[0]) < 0.3
    assert pitched[1] > pitched[0] + 0.5


def test_a_microphone_is_no_emotion_once_it_is_known() -> None:
    colour = np.zeros(SPEC.audio_dim, np.float32)
    colour[: SPEC.n_mels] = np.linspace(-3, 3, SPEC.n_mels)
    here, there = SpeechStatistics(), SpeechStatistics()
    for seed in range(20):
        here.learn(voice(seed))
        there.learn(voice(seed) + colour)
    gap = here.normalise(voice(30)) - there.normalise(voice(30) + colour)
    assert np.abs(gap).mean() < 0.1


def test_the_same_speech_gives_the_same_bits_and_none_after_a_reset() -> None:
    rows, one, other = voice(), SpeechStatistics(), SpeechStatistics()
    fresh = one.normalise(rows)
    for seed in range(3):
        one.learn(voice(seed))
        other.learn(voice(seed))
    np.testing.assert_array_equal(one.normalise(rows), other.normalise(rows))
    assert not np.array_equal(one.normalise(rows), fresh)
    one.reset()
    np.testing.assert_array_equal(one.normalise(rows), fresh)


def test_old_speech_is_forgotten_and_sums_add_up() -> None:
    def heard(statistics: SpeechStatistics) -> float:
        """Mean normalised pitch of a high voice."""
        return float(statistics.normalise(high)[high[:, VOICING] >= 0.5, F0].mean())

    low, high = voice(0, pitch_hz=100.0), voice(0, pitch_hz=240.0)
    statistics = SpeechStatistics()
    for _ in range(100):
        statistics.learn(low)
    assert heard(statistics) > 1.0
    for _ in range(100):
        statistics.learn(high)
    assert abs(heard(statistics)) < 0.3
    both = voiced_sums(voice(0)) + voiced_sums(voice(1))
    np.testing.assert_allclose(both[0, 0], voiced_sums(voice(0))[0, 0] * 2, rtol=0.2)


@pytest.mark.parametrize("samples", [np.zeros(16_000), np.full(16_000, 0.5)])
def test_silence_and_constants_are_finite(samples: np.ndarray) -> None:
    statistics = SpeechStatistics()
    rows = audio_rows(samples.astype(np.float32))
    statistics.learn(rows)
    found = statistics.normalise(rows)
    assert np.isfinite(found).all()
    assert not found[:, F0].any()
    assert statistics.normalise(rows[:0]).shape == (0, SPEC.audio_dim)
