"""From evidence to an event, with the built-in model."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.engines.ort import OrtEngine
from runtime.features.embedding import EMBEDDING_DIM, no_embedding
from runtime.features.spec import SPEC
from runtime.features.text import TextFeatures
from runtime.judging import judge as judge_module
from runtime.judging.evidence import PRESENT, Evidence
from runtime.judging.judge import Judge
from runtime.schemas import EmotionEvent, Person
from runtime.speech.base import Word
from runtime.store.bundle import Bundle


def judged(
    *texts: str, bundle: Bundle | None = None, embedding: NDArray[np.float32] | None = None
) -> EmotionEvent:
    """The event of a second of noise with these words, a tenth of a second each."""
    bundle = bundle or Bundle.load()
    judge = Judge(bundle, OrtEngine(bundle.model), TextFeatures(bundle.tokenizer_json))
    noise = np.random.default_rng(0).normal(size=(25, SPEC.audio_dim)).astype(np.float32)
    words = [Word(text=t, start_s=k / 10, end_s=(k + 1) / 10) for k, t in enumerate(texts)]
    evidence = Evidence(
        type="final",
        utterance=1,
        start_s=0.0,
        end_s=1.0,
        words=tuple(words),
        audio=noise,
        vision=np.zeros((0, SPEC.vision_dim), np.float32),
        modalities={"text": PRESENT, "audio": PRESENT, "vision": "no camera"},
        quality=(),
        audio_embedding=no_embedding() if embedding is None else embedding,
    )
    return judge.event(evidence)


def test_words_that_do_not_fit_are_left_out_from_the_first_on() -> None:
    event = judged(*["hello"] * 100, "bye")
    assert event.text.startswith("hello hello")
    assert event.text.endswith("bye")
    assert len(event.words) == SPEC.max_pieces - 2
    assert event.modalities["text"] == "present"


def test_a_word_that_is_no_word_is_no_text() -> None:
    event = judged("qxz" * 33)
    assert event.words == ()
    assert event.modalities == {
        "text": "words do not fit", "audio": "present", "vision": "no camera"
    }  # fmt: skip
    assert event.modality_sentiment["text"] is None
    assert event.modality_weight["text"] == 0.0
    assert judged("hello").modality_weight["text"] > 0.0


def test_who_has_not_spoken_for_longest_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge_module, "_MOST_KNOWN", 2)
    bundle = Bundle.load()
    text = TextFeatures(bundle.tokenizer_json)
    judge = Judge(bundle, OrtEngine(bundle.model), text, per_person=True)
    people = [Person(id=k, confidence=1.0, n_in_view=1, box=(0, 0, 1, 1)) for k in range(3)]
    first, second = (judge._habits(person) for person in people[:2])
    assert judge._habits(people[0]) is first
    judge._habits(people[2])
    assert judge._habits(people[0]) is first
    assert judge._habits(people[1]) is not second


def test_a_voice_that_no_encoder_has_heard_needs_more_to_be_sure() -> None:
    shipped = Bundle.load()
    never = {"text+audio": 0.0, "text+audio, rows alone": 1.0}
    strict = replace(shipped, info={**shipped.info, "calibration": {"uncertain_below": never}})
    heard = np.random.default_rng(0).normal(size=EMBEDDING_DIM).astype(np.float32)
    assert judged("hello", bundle=strict).uncertain
    assert not judged("hello", bundle=strict, embedding=heard).uncertain
    for name in ("audio", "text+audio"):  # the built-in bundle has thresholds for both
        assert {name, f"{name}, rows alone"} <= shipped.calibration.uncertain_below.keys()
