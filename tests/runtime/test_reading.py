"""Words that show an emotion are also read by themselves."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.engines.base import Arrays
from runtime.engines.ort import OrtEngine
from runtime.features.embedding import EMBEDDING_DIM
from runtime.features.pack import OUTPUTS, Rows, pack
from runtime.features.spec import SPEC
from runtime.features.text import TextFeatures
from runtime.judging.calibration import BALANCED, CONVERSATION
from runtime.judging.reading import read, words_alone
from runtime.store.bundle import Bundle

GLAD, PLAIN = "i am so happy to see you", "the chair is next to the table"


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.load()


class Counting(OrtEngine):
    """Says how many utterances it was asked for."""

    def __init__(self, model: bytes) -> None:
        super().__init__(model)
        self.n_read: list[int] = []

    def infer(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        self.n_read.append(len(inputs["input_ids"]))
        return super().infer(inputs)


@pytest.fixture
def engine(bundle: Bundle) -> Counting:
    return Counting(bundle.model)


def inputs(bundle: Bundle, words: str, *, others: bool = True) -> dict[str, NDArray[Any]]:
    """Words, and beside them the noise of a voice and a face."""
    rng = np.random.default_rng(0)
    n_audio, n_vision = (50, 30) if others else (0, 0)
    rows = Rows(
        text=TextFeatures(bundle.tokenizer_json).ids(words) if words else np.zeros(0, np.int64),
        audio=rng.normal(size=(n_audio, SPEC.audio_dim)).astype(np.float32),
        audio_embedding=others * rng.normal(size=EMBEDDING_DIM).astype(np.float32),
        vision=rng.normal(size=(n_vision, SPEC.vision_dim)).astype(np.float32),
    )
    return pack(rows)


def test_words_that_show_an_emotion_count_by_themselves(bundle: Bundle, engine: Counting) -> None:
    calibration = replace(bundle.calibration, words_share=0.25)
    given = inputs(bundle, GLAD)
    fused = engine.infer(given)
    alone = engine.infer(inputs(bundle, GLAD, others=False))
    found = read(engine, given, calibration, CONVERSATION)
    assert found.keys() == {*OUTPUTS}
    assert np.abs(fused["emotion"] - alone["emotion"]).max() > 0.5
    for name in ("sentiment", "emotion", "arousal", "modality_weight"):
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], 0.75 * fused[name] + 0.25 * alone[name], atol=1e-5)
    np.testing.assert_array_equal(found["modality_sentiment"], fused["modality_sentiment"])
    assert found["modality_weight"].sum() == pytest.approx(1.0, abs=1e-5)
    assert found["modality_weight"][0, 0] > fused["modality_weight"][0, 0]


def test_neutral_words_leave_the_answer_to_the_voice_and_the_face(
    bundle: Bundle, engine: Counting
) -> None:
    calibration = replace(bundle.calibration, words_share=0.5)
    given = inputs(bundle, PLAIN)
    fused, found = engine.infer(given), read(engine, given, calibration, CONVERSATION)
    for name in OUTPUTS:
        np.testing.assert_array_equal(found[name], fused[name])


@pytest.mark.parametrize(
    ("words", "others", "share"), [(GLAD, False, 0.5), ("", True, 0.5), (GLAD, True, 0.0)]
)
def test_what_has_one_reading_is_read_once(
    bundle: Bundle, engine: Counting, words: str, others: bool, share: float
) -> None:
    given = inputs(bundle, words, others=others)
    read(engine, given, replace(bundle.calibration, words_share=share), CONVERSATION)
    assert engine.n_read == [1]


def test_each_utterance_of_a_batch_has_its_own_share(bundle: Bundle, engine: Counting) -> None:
    calibration = replace(bundle.calibration, words_share=0.5)
    one, other = inputs(bundle, GLAD), inputs(bundle, PLAIN)
    together = read(engine, stacked([one, other]), calibration, BALANCED)
    assert engine.n_read == [2, 2]
    for k, given in enumerate((one, other)):
        expected = read(engine, given, calibration, BALANCED)
        np.testing.assert_allclose(together["emotion"][k], expected["emotion"][0], atol=0.1)


def stacked(batches: Sequence[dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """One batch of several that differ in their words alone."""
    longest = max(batch["input_ids"].shape[1] for batch in batches)
    padded = [
        batch
        | {
            name: np.pad(batch[name], ((0, 0), (0, longest - batch[name].shape[1])))
            for name in ("input_ids", "text_mask")
        }
        for batch in batches
    ]
    return {name: np.concatenate([batch[name] for batch in padded]) for name in padded[0]}


def test_words_alone_are_what_an_utterance_without_the_others_is(bundle: Bundle) -> None:
    expected = inputs(bundle, GLAD, others=False)
    found = words_alone(inputs(bundle, GLAD))
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name].shape == values.shape
        if name not in ("audio", "vision"):  # masked
            np.testing.assert_array_equal(found[name], values)
