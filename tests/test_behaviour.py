"""What a person expects of the built-in model, on real voices, faces and sentences.

Voices: EmoDB (CC0; Burkhardt et al. 2005), speakers 15 and 16, whom no training heard. Faces of
people are under a licence that forbids to ship them: those tests read CK+ from the folder that
TEST_DATA names; the others use the demo clip's portrait, which smiles.
"""

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from runtime.engines.ort import OrtEngine
from runtime.features.audio import audio_rows
from runtime.features.normal import SpeechStatistics
from runtime.features.pack import Rows, pack
from runtime.features.spec import SPEC
from runtime.features.text import TextFeatures
from runtime.features.vision import VisionFeatures
from runtime.judging.calibration import CONVERSATION, subset_name
from runtime.judging.reading import read
from runtime.store import models
from runtime.store.bundle import Bundle
from tests.sound import write_wav
from train.data import corpora
from train.data.sounds import decode_audio, spoken
from train.prepare import prepare

NEUTRAL = ("the meeting is at three in the afternoon", "i put the book on the table",
           "the train leaves from platform two", "she works in an office near the station",
           "we need to buy some bread and milk")  # fmt: skip
NOBODY = np.zeros((0, SPEC.vision_dim), np.float32)
SILENCE = np.zeros((0, SPEC.audio_dim), np.float32)


class Judge:
    """The built-in bundle by the device's own path: features, pack, engine."""

    def __init__(self) -> None:
        bundle = Bundle.load()
        self.emotions, self._calibration = bundle.emotions, bundle.calibration
        self._engine = OrtEngine(bundle.model)
        self._text = TextFeatures(bundle.tokenizer_json)

    def __call__(
        self, text: str = "", audio: np.ndarray = SILENCE, vision: np.ndarray = NOBODY
    ) -> tuple[dict[str, float], float]:
        """Probabilities by emotion, and sentiment."""
        ids = self._text.ids(text) if text else np.zeros(0, np.int64)
        heard = SpeechStatistics().normalise(audio)
        rows = pack(Rows(text=ids, audio=heard, vision=vision))
        out = read(self._engine, rows, self._calibration, CONVERSATION)
        self.present = [len(ids) > 0, len(heard) > 0, len(vision) > 0]
        (values,) = self._calibration.probabilities(out["emotion"], np.array([self.present]))
        found = dict(zip(self.emotions, values.tolist(), strict=True))
        return found, float(out["sentiment"][0])

    @property
    def uncertain_below(self) -> float:
        """What the last answer needed not to be uncertain."""
        return self._calibration.uncertain_below[subset_name(self.present)]


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge()


@pytest.fixture(scope="module")
def voices(root: Path) -> dict[str, np.ndarray]:
    """Audio rows by name such as 15a01Wa: speaker, sentence, W anger or N neutral, version."""
    files = (root / "tests" / "golden" / "emodb").glob("*.flac")
    return {file.stem: audio_rows(spoken(decode_audio(file))) for file in files}


def shown(row: np.ndarray) -> np.ndarray:
    """A face that is held for two seconds."""
    return np.tile(row, (30, 1)).astype(np.float32)


def top(probabilities: dict[str, float]) -> str:
    return max(probabilities, key=probabilities.__getitem__)


@pytest.fixture(scope="module")
def portrait(demo: Path) -> list[np.ndarray]:
    """Pictures of the demo clip, (H, W, 3) uint8."""
    with av.open(str(demo)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)][::40]


@pytest.fixture(scope="module")
def smile(portrait: list[np.ndarray]) -> np.ndarray:
    """The row of its first picture, which smiles with closed lips."""
    return networks().row(portrait[0])


@cache
def networks() -> VisionFeatures:
    return VisionFeatures(models.resolve("face-landmarker"))


@pytest.fixture(scope="module")
def people() -> list[tuple[str, np.ndarray]]:
    """Emotion and row of the pictures of CK+ subjects whom no training saw."""
    if "TEST_DATA" not in os.environ:
        pytest.skip("TEST_DATA names no data folder")
    faces = prepare(Path(os.environ["TEST_DATA"]), Path("build/features"), ["ckplus48"]).faces
    return [(corpora.EMOTIONS[r.emotion], row) for r, row in faces if r.split == "test"]


def test_a_smile_turns_a_neutral_sentence_positive(judge: Judge, smile: np.ndarray) -> None:
    for text in NEUTRAL:
        found, sentiment = judge(text, vision=shown(smile))
        assert top(found) == "happiness"
        assert sentiment > judge(text)[1] + 0.2


def test_a_webcam_s_face_and_one_of_48_pixels_show_the_same(
    judge: Judge, portrait: list[np.ndarray]
) -> None:
    """A picture 720 high, and the same so small that its face is 48 pixels high."""
    for picture in portrait:
        face = networks().largest_face(picture)
        assert face is not None
        height = float(np.ptp(face.landmarks[:, 1]))
        scales = 720 / picture.shape[0], 48 / height
        rows = [
            networks().row(cv2.resize(picture, None, fx=k, fy=k, interpolation=cv2.INTER_AREA))
            for k in scales
        ]
        large, small = (judge(vision=shown(row))[0] for row in rows)
        assert top(large) == top(small)


def test_the_smile_of_real_people_does_too(
    judge: Judge, people: list[tuple[str, np.ndarray]]
) -> None:
    smiles = [row for emotion, row in people if emotion == "happiness"]
    found = [judge(text, vision=shown(row)) for text in NEUTRAL for row in smiles]
    assert np.mean([sentiment > 0.2 for _, sentiment in found]) > 0.95
    assert np.mean([top(p) == "happiness" for p, _ in found]) > 0.95


@pytest.mark.parametrize("angry", ["15a01Wa", "16a04Wb"])
def test_an_angry_voice_leans_a_neutral_sentence_to_anger(
    judge: Judge, voices: dict[str, np.ndarray], angry: str
) -> None:
    for text in NEUTRAL:
        found, sentiment = judge(text, voices[angry])
        alone, before = judge(text)
        assert found["anger"] > alone["anger"] + 0.1
        assert sentiment < before
        assert top({e: p for e, p in found.items() if e != "neutral"}) == "anger"


def test_happy_words_without_a_face_are_happy(judge: Judge) -> None:
    found, sentiment = judge("I am so happy to see you")
    assert top(found) == "happiness"
    assert found["happiness"] >= judge.uncertain_below
    assert sentiment > 0.5


HAPPY = ("oh great this is exactly what i wanted", "i love it so much")


@pytest.mark.parametrize("words", HAPPY)
def test_an_angry_voice_is_heard_beside_a_smile(
    judge: Judge, voices: dict[str, np.ndarray], smile: np.ndarray, words: str
) -> None:
    kind, _ = judge(words, voices["15a01Nb"], shown(smile))
    sarcastic, _ = judge(words, voices["15a01Wa"], shown(smile))
    assert sarcastic["anger"] > kind["anger"]
    assert sarcastic["neutral"] < kind["neutral"]


@pytest.mark.parametrize("words", HAPPY)
def test_an_angry_face_lowers_the_confidence_of_happy_words(
    judge: Judge, people: list[tuple[str, np.ndarray]], words: str
) -> None:
    smiling, angry = (
        np.mean([max(judge(words, vision=shown(row))[0].values())
                 for emotion, row in people if emotion == wanted])
        for wanted in ("happiness", "anger")
    )  # fmt: skip
    assert angry < smiling


@pytest.mark.parametrize("flat", ["15a01Nb", "16a04Nc"])
def test_a_flat_reading_is_no_confident_emotion(
    judge: Judge, voices: dict[str, np.ndarray], flat: str
) -> None:
    for text in NEUTRAL:
        found, sentiment = judge(text, voices[flat])
        assert top(found) == "neutral"
        assert abs(sentiment) < 0.7


@pytest.mark.parametrize("room", ["silent", "hum"])
def test_an_empty_room_is_no_event(root: Path, tmp_path: Path, room: str) -> None:
    rng, seconds = np.random.default_rng(0), np.arange(5 * 16_000) / 16_000
    hum = 0.01 * np.sin(2 * np.pi * 50 * seconds) + rng.normal(0, 0.002, len(seconds))
    path = write_wav(tmp_path / "room.wav", hum * (room == "hum"))
    command = [sys.executable, "-m", "runtime.cli", "--file", path, "--json"]
    out = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert (out.returncode, out.stdout) == (0, ""), out.stderr
    assert "nobody spoke" in out.stderr
