"""A speaker's baseline: habit is taken away, what differs from it stays, and off means off."""

import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from runtime.errors import UsageError
from runtime.judging.baseline import Baseline
from runtime.live import EmotionStream
from runtime.schemas import EmotionEvent
from runtime.sources.base import AudioChunk, Packet
from runtime.store.bundle import Bundle
from tests.runtime.script import Script

pytestmark = pytest.mark.usefixtures("remembering")

EMOTIONS = ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise")
NEUTRAL, SADNESS, HAPPINESS = 4, 5, 3


def reading(**likely: float) -> np.ndarray:
    """Probabilities: those named, the rest shared by the others."""
    rest = (1.0 - sum(likely.values())) / (len(EMOTIONS) - len(likely))
    return np.array([likely.get(name, rest) for name in EMOTIONS])


RESTING_SAD = reading(sadness=0.5, neutral=0.3)


def test_a_face_that_reads_sad_at_rest_becomes_neutral() -> None:
    baseline = Baseline(EMOTIONS)
    before, sentiment = baseline.correct(RESTING_SAD, -0.8)
    np.testing.assert_array_equal(before, RESTING_SAD)
    assert sentiment == -0.8
    for _ in range(60):
        baseline.learn(RESTING_SAD, -0.8)
    after, sentiment = baseline.correct(RESTING_SAD, -0.8)
    assert after.sum() == pytest.approx(1.0)
    assert after.argmax() == NEUTRAL
    assert after[NEUTRAL] == pytest.approx(2.0 * after[SADNESS], rel=0.1)
    assert sentiment == pytest.approx(0.0, abs=0.1)
    # What differs from the habit stays: sadder than usual is sad, and a smile is happy.
    sadder, _ = baseline.correct(reading(sadness=0.9, neutral=0.05), -2.0)
    assert sadder.argmax() == SADNESS
    smile, high = baseline.correct(reading(happiness=0.7, neutral=0.1), 1.5)
    assert smile.argmax() == HAPPINESS
    assert high > 1.5
    baseline.reset()
    np.testing.assert_array_equal(baseline.correct(RESTING_SAD, -0.8)[0], RESTING_SAD)


def test_who_reads_neutral_is_not_touched() -> None:
    baseline = Baseline(EMOTIONS)
    for _ in range(100):
        baseline.learn(reading(neutral=0.6, sadness=0.2), 0.0)
    for found in (RESTING_SAD, reading(happiness=0.9)):
        np.testing.assert_array_equal(baseline.correct(found, 0.5)[0], found)


def test_habit_never_outweighs_what_is_seen() -> None:
    """After a thousand certain and sad utterances a certain one is still called sad."""
    baseline = Baseline(EMOTIONS)
    for _ in range(1_000):
        baseline.learn(reading(sadness=0.97), -3.0)
    corrected, sentiment = baseline.correct(reading(sadness=0.97), -3.0)
    assert corrected.argmax() == SADNESS
    assert sentiment == pytest.approx(-2.0)


def test_a_bundle_without_neutral_has_no_baseline() -> None:
    with pytest.raises(UsageError, match="neutral"):
        Baseline(("positive", "negative"))


def test_a_bundle_without_neutral_is_opened_where_no_baseline_is_wanted(
    packets: list[Packet], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = tuple("calm" if name == "neutral" else name for name in EMOTIONS)
    bundle = Bundle.load()
    bundle = replace(bundle, emotions=names, info={**bundle.info, "calibration": {}})
    monkeypatch.setattr(Bundle, "load", lambda folder: bundle)
    source = Script([packet for packet in packets if isinstance(packet, AudioChunk)])
    source.modalities = frozenset({"audio"})
    events = finals(EmotionStream(source=source, stt="none"))
    assert [tuple(event.probabilities) for event in events] == [names] * 2
    with pytest.raises(UsageError, match="neutral"):
        EmotionStream(source=source, stt="none", baseline=True).__enter__()


def finals(stream: EmotionStream) -> list[EmotionEvent]:
    with stream:
        return list(stream)


def test_in_a_stream(clip: Path, tmp_path: Path) -> None:
    """A speaker who is known to read as the first sentence does; the file is kept up to date."""
    off = finals(EmotionStream(file=clip))
    path = tmp_path / "anna.json"
    recorded = tmp_path / "talk.jsonl"
    new = EmotionStream(file=clip, baseline=path)
    fresh = finals(new)
    assert new.stats["baseline"] == 2
    assert fresh[0].probabilities == off[0].probabilities  # nothing was known of the speaker
    assert fresh[0].sentiment == off[0].sentiment
    known = json.loads(path.read_text())
    assert known["n_learned"] == 2
    known["odds"][off[0].emotion] = 1.0
    known["sentiment"] = 0.5
    path.write_text(json.dumps(known))
    stream = EmotionStream(file=clip, baseline=path, record=recorded)
    habit = finals(stream)
    assert habit[0].probabilities[off[0].emotion] < off[0].probabilities[off[0].emotion]
    assert habit[0].sentiment == pytest.approx(off[0].sentiment - 0.5)
    assert json.loads(path.read_text())["n_learned"] == 4
    # A recording brings the baseline that it began with.
    replay = EmotionStream(replay=recorded)
    again = finals(replay)
    assert [e.probabilities for e in again] == [e.probabilities for e in habit]
    assert replay.stats["replay"] == {"events": 2, "changed": 0}


def test_resetting_is_recorded(clip: Path, tmp_path: Path) -> None:
    off = finals(EmotionStream(file=clip))
    path, recorded = tmp_path / "anna.json", tmp_path / "talk.jsonl"
    finals(EmotionStream(file=clip, baseline=path))
    known = json.loads(path.read_text())
    known["odds"] = {name: 2.0 * (name != "neutral") for name in known["odds"]}
    path.write_text(json.dumps(known))
    stream = EmotionStream(file=clip, baseline=path, record=recorded)
    stream.on_event(lambda event: stream.reset_baseline())
    first, second = finals(stream)
    assert first.probabilities != off[0].probabilities
    # What is forgotten is the baseline and the speech that the second one would be heard against.
    plain = EmotionStream(file=clip)
    plain.on_event(lambda event: plain.reset_baseline())
    assert second.probabilities == finals(plain)[1].probabilities
    assert second.probabilities != off[1].probabilities
    again = finals(EmotionStream(replay=recorded))
    assert [e.probabilities for e in again] == [first.probabilities, second.probabilities]


def test_a_file_that_cannot_be_written_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "anna.json"
    baseline = Baseline(EMOTIONS)
    baseline.save(path, "abc")
    assert Baseline(EMOTIONS).load(path, "abc")

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        baseline.save(path, "abc")
    assert [file.name for file in tmp_path.iterdir()] == ["anna.json"]


def test_a_file_is_of_one_speaker(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^a baseline_file is one speaker's, .* leave one"):
        EmotionStream(microphone="default", per_person=True, baseline=tmp_path / "anna.json")
    EmotionStream(microphone="default", per_person=True, baseline=True)


def test_resetting_at_the_end_is_saved(clip: Path, tmp_path: Path) -> None:
    path = tmp_path / "anna.json"
    with EmotionStream(file=clip, baseline=path) as stream:
        assert list(stream)
        assert stream.stats["baseline"] == 2
        stream.command("reset")
    assert json.loads(path.read_text())["n_learned"] == 0


def test_a_file_that_is_no_baseline_is_told(clip: Path, tmp_path: Path) -> None:
    path = tmp_path / "anna.json"
    finals(EmotionStream(file=clip, baseline=path))
    good = json.loads(path.read_text())
    for wrong in ("{}", "no JSON", json.dumps({**good, "odds": {"joy": 1}})):
        path.write_text(wrong)
        with pytest.raises(UsageError, match="not a baseline"):
            EmotionStream(file=clip, baseline=path).__enter__()
        assert path.read_text() == wrong
    with pytest.raises(UsageError, match="cannot be read"):
        EmotionStream(file=clip, baseline=tmp_path).__enter__()
    # Learned with another model: of no use, and begun anew.
    path.write_text(json.dumps({**good, "bundle_sha256": "0" * 64}))
    finals(EmotionStream(file=clip, baseline=path))
    assert json.loads(path.read_text()) == good
