"""What a room does to the ears: false utterances of noise alone, and sentences missed in it.

Noises are made here from a seed: a piece of music, a vacuum cleaner, a keyboard, and babble of six
voices at once. Sentences come from a folder of sound files; without one, from the package of the
speech recogniser. Levels are signal-to-noise ratios against speech of -26 dBFS.

With `--noises`, recorded sounds without speech take the place of the made ones, and the settings of
the detector are compared: sentences of which nothing is heard, and false utterances.
"""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from runtime.config import option, parse
from runtime.errors import DmdLiveError, UsageError
from runtime.features.spec import SPEC
from runtime.sources.base import AudioChunk
from runtime.sources.file import FileSource
from runtime.speech.vad import VoiceActivity
from runtime.system.files import write_file
from runtime.utterances.cutter import Cutter
from runtime.utterances.segmenter import Segment, Segmenter, SegmenterConfig

__all__ = ["NOISES", "Options", "main", "segments"]

Float = NDArray[np.float64]
Sound = NDArray[np.float32]

_RATE = SPEC.sample_rate_hz
_CHUNK_S = VoiceActivity.CHUNK / _RATE
_SPEECH = 10.0 ** (-26 / 20)  # root mean square of the sentences
_GAP_S = 1.5  # between sentences
_LONGEST_S = 8.0
_LOUDEST_S = 0.2  # of a sentence: what an utterance must cover
_NOISE_S = 240.0  # of a recorded noise, at most
_BEFORE_S, _AFTER_S = 1.0, 1.5  # silence about each sound where settings are compared
_SETTINGS = tuple(
    SegmenterConfig(open_at=open_at, close_below=close_below, min_speech_s=min_speech_s)
    for open_at, close_below, min_speech_s in (
        (0.5, 0.35, 0.2),
        (0.5, 0.35, 0.1),
        (0.5, 0.35, 0.06),
        (0.4, 0.25, 0.1),
        (0.3, 0.2, 0.2),
        (0.3, 0.2, 0.1),
        (0.2, 0.1, 0.3),
    )
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measure false and missed utterances in noise."""

    voices: str | None = option(
        None, metavar="FOLDER", help="sound files with a sentence each; default: the recogniser's"
    )
    minutes: float = option(5.0, metavar="MIN", help="of each noise at each level")
    sentences: int = option(60, metavar="N", help="at each level, at most")
    levels: str = option("20,10,5,0,-5", metavar="DB,DB", help="signal-to-noise ratios in dB")
    noises: str | None = option(
        None,
        metavar="FOLDER",
        help="recorded sounds without speech: compare the detector's settings on them",
    )
    json: str | None = option(None, metavar="FILE", help="write the figures here as well")


def _music(rng: np.random.Generator, n: int, _: list[Float]) -> Float:
    """Chords, a melody over them and a drum."""
    t, out = np.arange(n) / _RATE, np.zeros(n)
    beat = int(0.5 * _RATE)
    for begin in range(0, n, beat):
        part = slice(begin, min(begin + beat, n))
        local = t[part] - t[begin]
        root = 110.0 * 2 ** (rng.choice([0, 5, 7, 9]) / 12)
        notes = [root, root * 2 ** (4 / 12), root * 1.5, root * 2 ** (rng.integers(12, 24) / 12)]
        for note in notes:
            for harmonic in range(1, 7):
                out[part] += np.sin(2 * np.pi * note * harmonic * local) / harmonic
        out[part] *= np.exp(-2.0 * local)
        out[part] += 2.0 * np.exp(-30.0 * local) * rng.normal(size=len(local))
    return out


def _vacuum(rng: np.random.Generator, n: int, _: list[Float]) -> Float:
    """A motor's hum and its harmonics in broad noise that falls with the frequency."""
    t = np.arange(n) / _RATE
    spectrum = np.fft.rfft(rng.normal(size=n))
    spectrum /= np.maximum(np.fft.rfftfreq(n, 1 / _RATE), 50.0) ** 0.5
    air = np.fft.irfft(spectrum, n)
    hum = sum(np.sin(2 * np.pi * 98.0 * k * t + k) / k for k in range(1, 20))
    return np.asarray(air / air.std() + 0.5 * hum)


def _keyboard(rng: np.random.Generator, n: int, _: list[Float]) -> Float:
    """Five to ten keys a second, each a click down and a softer one up."""
    out, at = np.zeros(n), 0
    decay = np.exp(-np.arange(480) / 60.0)
    while at < n - 2_000:
        for offset, loud in ((0, 1.0), (int(rng.integers(800, 1_500)), 0.4)):
            out[at + offset : at + offset + 480] += loud * decay * rng.normal(size=480)
        at += int(_RATE / rng.uniform(5.0, 10.0))
    return out


def _babble(rng: np.random.Generator, n: int, voices: list[Float]) -> Float:
    """Six voices at once."""
    out = np.zeros(n)
    for _ in range(6):
        at = 0
        while at < n:
            voice = voices[rng.integers(len(voices))]
            piece = voice[: n - at]
            out[at : at + len(piece)] += piece
            at += len(piece)
    return out


NOISES: dict[str, Callable[[np.random.Generator, int, list[Float]], Float]] = {
    "music": _music,
    "vacuum cleaner": _vacuum,
    "keyboard": _keyboard,
    "babble": _babble,
}


def segments(samples: Sound) -> list[Segment]:
    """The utterances that the device hears in (n,) samples in [-1, 1] at 16 kHz."""
    cutter = Cutter()
    return [*cutter.push(AudioChunk(start_s=0.0, samples=samples)), *cutter.flush()]


def measure(options: Options) -> list[dict[str, float | str]]:
    """One row for each noise and level."""
    voices = _sounds(options.voices, _LONGEST_S)
    rows: list[dict[str, float | str]] = []
    cases = [(name, float(db)) for name in NOISES for db in options.levels.split(",")]
    n_sentences = min(options.sentences, len(voices))
    speech, spoken = _sentences(voices[:n_sentences])
    for name, db in tqdm(cases, "noises", unit="case"):
        rng = np.random.default_rng(0)
        n = max(int(60 * options.minutes * _RATE), len(speech))
        noise = NOISES[name](rng, n, voices)
        noise *= _SPEECH * 10.0 ** (-db / 20) / np.sqrt((noise**2).mean())
        false = segments(_clipped(noise[: int(60 * options.minutes * _RATE)]))
        found = segments(_clipped(speech + noise[: len(speech)]))
        missed = sum(not _covered(part, found) for part in spoken)
        rows.append(
            {
                "noise": name,
                "snr_db": db,
                "false_per_hour": 60.0 * len(false) / options.minutes,
                "missed": missed / len(spoken),
            }
        )
    return rows


def table(rows: list[dict[str, float | str]]) -> str:
    """Markdown: false utterances an hour of noise alone / sentences missed."""
    levels = sorted({float(row["snr_db"]) for row in rows}, reverse=True)
    lines = ["| Noise | " + " | ".join(f"{db:g} dB" for db in levels) + " |"]
    lines.append("| --- |" + " --- |" * len(levels))
    for name in dict.fromkeys(row["noise"] for row in rows):
        by_level = {row["snr_db"]: row for row in rows if row["noise"] == name}
        cells = [
            f"{by_level[db]['false_per_hour']:.0f} / {float(by_level[db]['missed']):.0%}"
            for db in levels
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def compare(options: Options) -> list[dict[str, float]]:
    """One row for each setting of the detector. Every sound begins a stream of its own."""
    voices = [_probabilities(v) for v in tqdm(_sounds(options.voices, _LONGEST_S), "voices")]
    noises = [_probabilities(n) for n in tqdm(_sounds(options.noises, _NOISE_S), "noises")]
    hours = sum(len(noise) for noise in noises) * _CHUNK_S / 3_600
    return [
        {
            "open_at": setting.open_at,
            "close_below": setting.close_below,
            "min_speech_s": setting.min_speech_s,
            "missed": sum(not _cut(voice, setting) for voice in voices),
            "voices": len(voices),
            "false_per_hour": sum(len(_cut(noise, setting)) for noise in noises) / hours,
            "hours": hours,
        }
        for setting in _SETTINGS
    ]


def comparison(rows: list[dict[str, float]]) -> str:
    """Markdown: the settings, the sentences missed, the false utterances an hour."""
    lines = [
        "| Opens at | Closes below | Voice needed | Missed | False utterances an hour |",
        "| --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {row['open_at']:g} | {row['close_below']:g} | {row['min_speech_s']:g} s | "
        f"{row['missed']} of {row['voices']} | {row['false_per_hour']:.0f} |"
        for row in rows
    ]
    return "\n".join(lines)


def _probabilities(sound: Float) -> list[float]:
    """How likely each chunk of a sound, with silence about it, is speech."""
    samples = _clipped(np.pad(sound, (int(_BEFORE_S * _RATE), int(_AFTER_S * _RATE))))
    voice, size = VoiceActivity(), VoiceActivity.CHUNK
    n = len(samples) // size * size
    return [voice.probability(piece) for piece in samples[:n].reshape(-1, size)]


def _cut(probabilities: list[float], setting: SegmenterConfig) -> list[Segment]:
    segmenter = Segmenter(_CHUNK_S, 0.0, setting)
    found = [*map(segmenter.push, probabilities), segmenter.flush()]
    return [segment for segment in found if segment is not None]


def _sounds(folder: str | None, longest_s: float) -> list[Float]:
    """Sounds at the level of speech: whole files, or the recogniser's sentences, cut apart."""
    if folder is None:
        import moonshine_voice

        files = sorted(Path(moonshine_voice.__file__).parent.rglob("*.wav"))
    else:
        files = sorted(p for p in Path(folder).rglob("*") if p.suffix in (".wav", ".flac", ".ogg"))
    voices = []
    for path in files:
        with FileSource(path) as source:
            chunks = [p.samples for p in source.packets() if isinstance(p, AudioChunk)]
        sound = np.concatenate([np.zeros(0, np.float32), *chunks])
        whole = Segment(0.0, len(sound) / _RATE)
        for part in [whole] if folder is not None else segments(sound):
            voice = sound[int(part.start_s * _RATE) : int(part.end_s * _RATE)].astype(np.float64)
            voice = voice[: int(longest_s * _RATE)]
            if len(voice) and voice.any():
                voices.append(voice * _SPEECH / np.sqrt((voice**2).mean()))
    if not voices:
        raise UsageError(f"{folder}: no sound files there (wav, flac, ogg)")
    return voices


def _sentences(voices: list[Float]) -> tuple[Float, list[Segment]]:
    """All of them with pauses, and where each is loudest."""
    gap = np.zeros(int(_GAP_S * _RATE))
    parts, spoken, at = [gap], [], len(gap)
    for voice in voices:
        n = int(_LOUDEST_S * _RATE)
        loudest = int(np.convolve(voice**2, np.ones(n), "valid").argmax()) if len(voice) > n else 0
        spoken.append(Segment((at + loudest) / _RATE, (at + loudest + n) / _RATE))
        parts += [voice, gap]
        at += len(voice) + len(gap)
    return np.concatenate(parts), spoken


def _covered(part: Segment, found: list[Segment]) -> bool:
    middle_s = (part.start_s + part.end_s) / 2
    return any(other.start_s <= middle_s < other.end_s for other in found)


def _clipped(samples: Float) -> Sound:
    return np.clip(samples, -1.0, 1.0).astype(np.float32)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    options = parse(Options, argv, prog="python -m export.hearing")
    try:
        if options.noises is not None:
            settings = compare(options)
            found, told = comparison(settings), json.dumps(settings, indent=2)
        else:
            rows = measure(options)
            found, told = table(rows), json.dumps(rows, indent=2)
        if options.json is not None:
            write_file(Path(options.json), told.encode())
        print(found)
    except DmdLiveError as error:
        print(f"export.hearing: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
