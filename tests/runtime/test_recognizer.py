"""From packets to evidence, where every sound but silence is voice, and no network runs."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from runtime.features.spec import SPEC
from runtime.features.text import TextFeatures
from runtime.judging.evidence import Evidence
from runtime.sources.base import AudioChunk, VideoFrame
from runtime.speech.base import Answer
from runtime.speech.vad import VoiceActivity
from runtime.utterances import recognizer as recognizer_module
from runtime.utterances.recognizer import Recognizer
from runtime.utterances.segmenter import Segment, SegmenterConfig

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


@pytest.mark.parametrize("camera", [True, False])
def test_an_utterance_ends_when_the_microphone_does(
    text: TextFeatures, monkeypatch: pytest.MonkeyPatch, camera: bool
) -> None:
    """A device that comes back minutes later does not hold the final back."""
    now_s = 102.0

    def without_sound() -> list[Evidence]:
        if not camera:
            return recognizer.tick()
        return recognizer.push(VideoFrame(time_s=now_s, rgb=np.zeros((2, 2, 3), np.uint8)))

    clock = SimpleNamespace(monotonic=lambda: now_s)
    monkeypatch.setattr(recognizer_module, "time", clock)
    recognizer = listener(text, monotonic=True)
    assert hear(recognizer, (2.0, 0.5), start_s=100.0) == []
    now_s = 102.9
    assert without_sound() == []
    now_s = 103.2
    (final,) = without_sound()
    assert final.type == "final"
    assert final.end_s == pytest.approx(102.0, abs=0.1)
    assert final.modalities["audio"] == "present"
    assert without_sound() == []
    # Sound that was only held up goes on from there.
    now_s = 104.0
    (rest,) = hear(recognizer, (1.0, 0.5), (1.0, 0.0), start_s=102.0)
    assert rest.utterance == 2
    assert rest.start_s == pytest.approx(final.end_s)


def test_words_that_come_after_a_gap_find_their_sound(text: TextFeatures) -> None:
    class Slow:
        anticipates = streams = False
        ready = False

        def ask(self, segment: Segment, samples: np.ndarray, stage: str) -> None:
            pass

        def answer(self, segment: Segment) -> Answer | None:
            return Answer(()) if self.ready else None

    slow = Slow()
    kept: list[np.ndarray] = []
    recognizer = listener(
        text,
        transcriber=slow,
        stt_wait_s=60.0,
        keep=lambda n, segment, samples: kept.append(samples),
    )
    assert hear(recognizer, (2.0, 0.5)) == []
    assert hear(recognizer, (0.5, 0.0), start_s=60.0) == []  # another device
    slow.ready = True
    (final,) = recognizer.tick()
    assert final.modalities["audio"] == "present"
    assert len(final.audio) == pytest.approx(2.0 * SPEC.audio_rate_hz, abs=2)
    assert [len(samples) for samples in kept] == [pytest.approx(32_000, abs=512)]


def test_a_click_gets_no_early_estimate(text: TextFeatures) -> None:
    """Nor does any utterance before it is sure to get a final one."""
    turns = SegmenterConfig(hang_over_s=2.0, min_speech_s=0.5)
    recognizer = listener(text, hop_s=0.1, turns=turns)
    click, pause = (0.2, 0.5), (3.0, 0.0)
    assert hear(recognizer, pause, click, pause) == []
    found = hear(recognizer, click, (1.5, 0.0), (0.6, 0.5), pause, start_s=6.2)
    assert found[-1].type == "final"
    early = [evidence for evidence in found if evidence.type == "provisional"]
    assert early
    assert all(evidence.end_s > 6.2 + 0.2 + 1.5 + 0.2 for evidence in early)
