"""From balanced logits to probabilities."""

from dataclasses import replace

import numpy as np
import pytest

from runtime.errors import BundleError, UsageError
from runtime.judging.calibration import (
    BALANCED,
    CONVERSATION,
    PRIORS,
    SUBSETS,
    Calibration,
    subset_name,
)

SEVEN = ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise")
ALL, TEXT = [[True, True, True]], [[True, False, False]]


def test_nothing_known_gives_the_prior() -> None:
    calibration = Calibration(emotions=SEVEN)
    flat = np.zeros((1, 7))
    np.testing.assert_allclose(calibration.probabilities(flat, ALL, BALANCED), 1 / 7)
    (common,) = calibration.probabilities(flat, ALL)
    assert common.sum() == pytest.approx(1.0)
    assert SEVEN[int(common.argmax())] == "neutral"
    assert 0.4 < common.max() < 0.5  # half of what people say in MELD


def test_every_subset_has_a_temperature_of_its_own() -> None:
    calibration = Calibration(emotions=SEVEN, temperature={"text": 4.0})
    logits = np.random.default_rng(0).normal(0, 3, (1, 7))
    whole = calibration.probabilities(logits, ALL, BALANCED)
    softer = calibration.probabilities(logits, TEXT, BALANCED)
    np.testing.assert_allclose(softer, whole**0.25 / (whole**0.25).sum())


@pytest.mark.parametrize("prior", PRIORS)
def test_a_temperature_says_how_sure_an_answer_is_and_never_which(prior: str) -> None:
    logits = np.random.default_rng(0).normal(0, 2, (200, 7))
    present = np.repeat(TEXT, 200, axis=0)
    as_is, softer = (
        Calibration(emotions=SEVEN, temperature={"text": t}).probabilities(logits, present, prior)
        for t in (1.0, 3.0)
    )
    np.testing.assert_array_equal(softer.argmax(axis=1), as_is.argmax(axis=1))
    assert (softer.max(axis=1) < as_is.max(axis=1)).all()


def test_words_count_by_themselves_where_they_show_an_emotion() -> None:
    calibration = Calibration(emotions=SEVEN, words_share=0.4)
    glad, plain, hardly = 3.0 * np.eye(7)[[3, 4, 2]] - [[0.0]] * 3
    hardly = hardly / 3.0  # less than neutral is commoner than fear
    alone = np.array([glad, plain, hardly])
    np.testing.assert_array_equal(calibration.share_of_words(alone, CONVERSATION), [0.4, 0.0, 0.0])
    np.testing.assert_array_equal(calibration.share_of_words(alone, BALANCED), [0.4, 0.0, 0.4])


def test_a_voice_that_no_encoder_has_heard_has_a_temperature_and_a_threshold_of_its_own() -> None:
    calibration = Calibration(
        emotions=SEVEN,
        temperature={"audio": 1.0, "audio, rows alone": 4.0},
        uncertain_below={"audio": 0.5, "audio, rows alone": 0.8, "text": 0.6},
    )
    voice, words = [False, True, False], [True, False, False]
    assert calibration.needed(voice) == 0.5
    assert calibration.needed(voice, heard=False) == 0.8
    assert calibration.needed(words, heard=False) == 0.6  # nothing of its own
    logits = np.random.default_rng(0).normal(0, 3, (1, 7))
    sure = calibration.probabilities(logits, np.array([voice]), BALANCED)
    softer = calibration.probabilities(logits, np.array([voice]), BALANCED, heard=False)
    np.testing.assert_allclose(softer, sure**0.25 / (sure**0.25).sum())


def test_subsets_are_named_in_the_contract_s_order() -> None:
    assert len(SUBSETS) == 7
    assert subset_name([True, False, True]) == "text+vision"
    assert {subset_name([bool(k & 1), bool(k & 2), bool(k & 4)]) for k in range(1, 8)} == {*SUBSETS}
    assert subset_name([False] * 3) == ""


def test_other_emotions_have_no_conversation() -> None:
    strange = Calibration(emotions=("bored", "neutral"))
    np.testing.assert_allclose(strange.prior(CONVERSATION), 0.5)
    with pytest.raises(UsageError, match="no prior 'mine'; there are: conversation, balanced"):
        strange.prior("mine")


@pytest.mark.parametrize(
    "found",
    [
        {"temperature": {"text": 0.0}},
        {"temperature": {"text": "hot"}},
        {"temperature": {"smell": 1.0}},
        {"temperature": {"text, rows alone": 1.0}},
        {"temperature": 1.0},
        {"uncertain_below": {"text": -0.1}},
        {"uncertain_below": {"text": float("nan")}},
        {"words_share": 1.0},
        {"words_share": float("nan")},
        {"words_share": True},
        {"fitted_on": "meld"},
        {"fitted_on": [1]},
        {"priors": "even"},
        {"priors": {"mine": dict.fromkeys(SEVEN, 1 / 7)}},
        {"priors": {"conversation": {"neutral": 1.0}}},
        {"priors": {"conversation": dict.fromkeys(SEVEN, 0.0)}},
        {"priors": {"conversation": dict.fromkeys(SEVEN, float("nan"))}},
    ],
)
def test_numbers_that_mean_nothing_are_refused(found: dict[str, object]) -> None:
    with pytest.raises(BundleError, match="calibration: "):
        Calibration.from_dict(SEVEN, found)


def test_what_is_written_is_read() -> None:
    calibration = Calibration(
        emotions=SEVEN,
        temperature={"text": 1.5, "text+audio, rows alone": 2.0},
        uncertain_below={"audio": 0.6},
        words_share=0.5,
        fitted_on=("meld", "ravdess"),
    )
    read = Calibration.from_dict(SEVEN, calibration.to_dict())
    assert read == replace(calibration, priors=read.priors)
    assert read.to_dict() == calibration.to_dict()
    for name in PRIORS:
        np.testing.assert_array_equal(read.prior(name), calibration.prior(name))


def test_a_bundle_s_own_prior_counts() -> None:
    grim = {**dict.fromkeys(SEVEN, 0.05), "sadness": 0.7}
    calibration = Calibration.from_dict(SEVEN, {"priors": {CONVERSATION: grim}})
    np.testing.assert_allclose(calibration.prior(CONVERSATION), [grim[e] for e in SEVEN])
    np.testing.assert_allclose(calibration.prior(BALANCED), 1 / 7)
