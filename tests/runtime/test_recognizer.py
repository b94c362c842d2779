"""From packets to evidence, where every sound but silence is voice, and no network runs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.features.spec import SPEC
from runtime.features.text import TextFeatures
from runtime.judging.evidence import Evidence
from runtime.sources.base import AudioChunk
from runtime.speech.vad import VoiceActivity
from runtime.utterances import recognizer as recognizer_module
from runtime.utterances.recognizer import Recognizer

N_MOST = round(SPEC.max_utterance_s * SPEC.audio_rate_hz)


class Loud:
    """Takes for voice whatever is not silent."""

    CHUNK = VoiceActivity.CHUNK

    def probability(self, samples: np.ndarray) -> float:
        return 0.95 if samples.all() else 0.0

    def reset(self) -> None:
        pass


@pytest.fixture(autouse=True)
def loud(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recognizer_module, "VoiceActivity", Loud)


@pytest.fixture(scope="module")
def text(tokenizer_json: Path) -> TextFeatures:
    return TextFeatures(tokenizer_json)


def listener(text: TextFeatures, **options: Any) -> Recognizer:
    return Recognizer(
        text, **{"vision": None, "transcriber": None, "no_text": "", "no_vision": "", **options}
    )


def hear(
    recognizer: Recognizer, *parts: tuple[float, float], start_s: float = 0.0
) -> list[Evidence]:
    """The evidence of sound in parts: how long each lasts, and how loud it is."""
    rng = np.random.default_rng(0)
    sound = [level * rng.uniform(0.1, 1.0, round(16_000 * s)) for s, level in parts]
    samples = np.concatenate(sound).astype(np.float32)
    found = []
    for at in range(0, len(samples), 1_600):
        chunk = AudioChunk(start_s=start_s + at / 16_000, samples=samples[at : at + 1_600])
        found += recognizer.push(chunk)
    return found


def test_an_early_estimate_joins_no_more_than_a_final_one(text: TextFeatures) -> None:
    recognizer = listener(text, hop_s=0.5, join_s=2.0)
    found = hear(recognizer, (10.0, 0.5), (0.7, 0.0), (6.0, 0.5)) + recognizer.flush()
    assert max(len(evidence.audio) for evidence in found) <= N_MOST
    assert [e.utterance for e in found if e.type == "final"] == [1, 2]
    second = [e for e in found if e.type == "provisional" and e.end_s > 10.7]
    assert {e.utterance for e in second if e.end_s <= SPEC.max_utterance_s} == {1}  # joined
    assert {e.utterance for e in second if e.end_s > SPEC.max_utterance_s} == {2}
