"""Voice activity -> utterances: nothing spoken is lost, nothing overlaps, nothing is too long."""

from itertools import pairwise

import numpy as np
import pytest

from runtime.features.spec import SPEC
from runtime.speech.base import Word
from runtime.utterances.segmenter import Segment, Segmenter, split_words

CHUNK_S = 0.032


def segments(probabilities: list[float]) -> list[Segment]:
    segmenter = Segmenter(CHUNK_S, 0.0)
    found = [segmenter.push(p) for p in probabilities] + [segmenter.flush()]
    return [segment for segment in found if segment is not None]


def chunks(seconds: float) -> int:
    return round(seconds / CHUNK_S)


def test_two_sentences_are_two_utterances() -> None:
    silence, speech = [0.02] * chunks(1.0), [0.95] * chunks(2.0)
    found = segments(silence + speech + silence + speech + silence)
    assert len(found) == 2
    for segment, start_s in zip(found, (1.0, 4.0), strict=True):
        assert segment.start_s == pytest.approx(start_s - 0.15, abs=0.06)
        assert segment.end_s == pytest.approx(start_s + 2.15, abs=0.06)


def test_a_breath_inside_a_sentence_does_not_cut_it() -> None:
    assert len(segments([0.9] * chunks(1) + [0.1] * chunks(0.4) + [0.9] * chunks(1))) == 1


def test_silence_and_clicks_give_nothing() -> None:
    assert segments([0.1] * 500) == []
    assert segments([0.1] * 50 + [0.9] * 3 + [0.1] * 50) == []


def test_speech_up_to_the_end_is_not_lost() -> None:
    (segment,) = segments([0.0] * 10 + [0.9] * chunks(1.5))
    assert segment.end_s == pytest.approx((10 + chunks(1.5)) * CHUNK_S)


@pytest.mark.parametrize("seed", range(10))
def test_long_speech_is_cut_without_loss_or_overlap(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = chunks(70.0)
    probabilities = np.clip(rng.normal(0.9, 0.1, n), 0.4, 1.0)
    found = segments(probabilities.tolist())
    assert len(found) >= 5
    assert found[0].start_s == 0.0
    assert found[-1].end_s == pytest.approx(n * CHUNK_S)
    for before, after in pairwise(found):
        assert after.start_s == pytest.approx(before.end_s)
    assert all(0 < s.end_s - s.start_s <= SPEC.max_utterance_s for s in found)


def test_long_speech_is_cut_at_its_pause() -> None:
    probabilities = [0.95] * chunks(11.0) + [0.4] * 5 + [0.95] * chunks(9.0)
    first, second = segments(probabilities)
    assert first.end_s == pytest.approx(11.0 + 4.5 * CHUNK_S, abs=0.05)
    assert second.start_s == first.end_s


def test_words_are_split_at_the_longest_pause_of_the_middle() -> None:
    starts = [0.0, 1.0, 2.0, 3.0, 5.0, 6.0, 7.0, 8.0]
    words = tuple(Word(text=f"w{k}", start_s=s, end_s=s + 0.9) for k, s in enumerate(starts))
    first, second, cut = split_words(Segment(0.0, 9.0), words)
    assert cut == 4
    assert first == Segment(0.0, 4.45)
    assert second == Segment(4.45, 9.0)
