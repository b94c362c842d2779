"""Audio, text and packing: chunking never changes rows; known signals give known numbers."""

import numpy as np
import pytest

from runtime.errors import FeatureError
from runtime.features.audio import AudioFeatures, audio_rows
from runtime.features.embedding import EMBEDDING_DIM
from runtime.features.pack import Rows, pack
from runtime.features.spec import SPEC
from runtime.features.text import TextFeatures, normalise

F0, VOICING, ENERGY = SPEC.n_mels, SPEC.n_mels + 1, SPEC.n_mels + 2


def voice(f0_hz: float, seconds: float = 1.0) -> np.ndarray:
    """A harmonic tone that falls off like a voice."""
    t = np.arange(int(seconds * SPEC.sample_rate_hz)) / SPEC.sample_rate_hz
    tone = sum(np.sin(2 * np.pi * f0_hz * k * t) / k for k in range(1, 8))
    return (0.1 * tone).astype(np.float32)


@pytest.mark.parametrize("seed", range(5))
def test_chunking_does_not_change_rows(seed: int) -> None:
    rng = np.random.default_rng(seed)
    signal = voice(140.0) + rng.normal(0, 0.05, 16_000).astype(np.float32)
    whole = audio_rows(signal)
    stream, pieces, at = AudioFeatures(), [], 0
    while at < len(signal):
        n = int(rng.integers(1, 3_000))
        pieces.append(stream.push(signal[at : at + n]))
        at += n
    np.testing.assert_allclose(np.concatenate(pieces), whole, atol=1e-5)
    assert len(whole) == (16_000 - SPEC.window) // SPEC.hop + 1


@pytest.mark.parametrize("f0_hz", [80.0, 120.0, 220.0, 400.0])
def test_pitch_of_a_voice(f0_hz: float) -> None:
    rows = audio_rows(voice(f0_hz))
    assert np.all(rows[:, VOICING] > 0.9)
    np.testing.assert_allclose(150.0 * 2.0 ** rows[:, F0], f0_hz, rtol=0.02)


def test_noise_and_silence_have_no_pitch() -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
    assert np.mean(audio_rows(noise)[:, F0] == 0.0) > 0.9
    silence = audio_rows(np.zeros(16_000, np.float32))
    assert np.all(silence[:, F0] == 0.0)
    np.testing.assert_allclose(silence[:, ENERGY], np.log(SPEC.log_floor), atol=1e-4)


def test_gain_shifts_log_columns() -> None:
    quiet, loud = audio_rows(voice(200.0)), audio_rows(10.0 * voice(200.0))
    np.testing.assert_allclose(loud[:, ENERGY] - quiet[:, ENERGY], np.log(100.0), atol=0.01)
    np.testing.assert_allclose(loud[:, F0], quiet[:, F0], atol=0.01)


@pytest.mark.parametrize(
    "samples", [np.zeros((2, 100), np.float32), np.array([0.0, np.nan]), np.array([np.inf])]
)
def test_bad_audio_is_refused(samples: np.ndarray) -> None:
    with pytest.raises(FeatureError):
        audio_rows(samples)


def test_short_audio_has_no_rows() -> None:
    assert audio_rows(np.zeros(SPEC.window - 1, np.float32)).shape == (0, SPEC.audio_dim)


def test_recognisers_agree_after_normalising() -> None:
    assert normalise("Well, I DON\u2019T   know!") == normalise("well i don't know")


def test_text_is_measured_not_truncated(tokenizer_json) -> None:
    text = TextFeatures(tokenizer_json)
    ids = text.ids("hello world").tolist()
    assert ids[0] == text.ids("").tolist()[0]  # it begins with [CLS]
    assert len(ids) == len(text.ids("")) + 2
    long = ["extraordinarily"] * 80
    assert not text.fits(long)
    assert len(text.ids(" ".join(long))) > SPEC.max_pieces


def rows(**changed: np.ndarray) -> Rows:
    values = {
        "text": np.arange(4, dtype=np.int64),
        "audio": np.zeros((10, SPEC.audio_dim), np.float32),
        "vision": np.zeros((6, SPEC.vision_dim), np.float32),
    }
    return Rows(**{**values, **changed})


def test_absent_modality_is_an_all_zero_mask() -> None:
    batch = pack(rows(vision=np.zeros((0, SPEC.vision_dim), np.float32)))
    assert batch["vision"].shape == (1, 1, SPEC.vision_dim)
    assert not batch["vision_mask"].any()
    assert batch["audio_mask"].all()
    assert batch["text_mask"].all()


@pytest.mark.parametrize(
    "changed",
    [
        {"audio": np.zeros((10, 5), np.float32)},
        {"vision": np.full((3, SPEC.vision_dim), np.nan, np.float32)},
        {"audio": np.zeros((1_000, SPEC.audio_dim), np.float32)},
        {"text": np.zeros(SPEC.max_pieces + 1, np.int64)},
    ],
)
def test_wrong_rows_are_refused(changed: dict[str, np.ndarray]) -> None:
    with pytest.raises(FeatureError):
        pack(rows(**changed))


def test_an_embedding_is_that_of_a_voice_or_nothing() -> None:
    assert not pack(rows())["audio_embedding"].any()
    known = np.ones(EMBEDDING_DIM, np.float32)
    np.testing.assert_array_equal(pack(rows(audio_embedding=known))["audio_embedding"], [known])
    for wrong in (known[:-1], known * np.nan):
        with pytest.raises(FeatureError, match=r"audio embedding .* expected \(576,\)"):
            pack(rows(audio_embedding=wrong))
