"""Recordings through other microphones, rooms and lines."""

import numpy as np
import pytest

from runtime.features.audio import audio_rows
from runtime.features.spec import SPEC
from train.data.sounds import Channel, spoken_again


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    """Two syllables and a pause between them, (n,) float32."""
    t = np.arange(40_000) / 16_000
    buzz = np.sum([np.sin(2 * np.pi * 140 * k * t) / k for k in range(1, 30)], axis=0)
    return (0.1 * buzz * (np.sin(2 * np.pi * 0.4 * t) > 0.2)).astype(np.float32)


def test_a_channel_is_the_same_for_all_that_is_said_there(speech: np.ndarray) -> None:
    for seed in range(40):
        channel = Channel((7, seed))
        out = channel.through(speech)
        assert out.shape == speech.shape
        assert out.dtype == np.float32
        assert np.isfinite(out).all()
        assert np.abs(out).max() <= 1.0
        np.testing.assert_array_equal(out, Channel((7, seed)).through(speech))


def test_channels_differ_in_band_and_level(speech: np.ndarray) -> None:
    rows = np.array([audio_rows(Channel((k,)).through(speech)).mean(axis=0) for k in range(40)])
    high, low = rows[:, SPEC.n_mels - 5], rows[:, 5]
    assert np.std(rows[:, -1]) > 1.0  # gain
    assert np.ptp(high - low) > 4.0  # some lines carry no highs


def test_other_readings_differ_in_length_and_pauses(speech: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    again = [spoken_again(rng, speech) for _ in range(40)]
    lengths = {len(samples) for samples in again}
    assert min(lengths) < len(speech) < max(lengths)
    assert all(np.isfinite(samples).all() and samples.dtype == np.float32 for samples in again)
    assert len(spoken_again(rng, speech[:1_000])) > 0  # too short to be cut
