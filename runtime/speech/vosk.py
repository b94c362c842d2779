"""Speech to text with Vosk, the streaming engine with true word times."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import SpeechError
from ..features.embedding import no_embedding
from ..features.spec import SPEC
from ..system.libraries import remedy
from .base import Word

__all__ = ["Vosk"]

_CHUNK = 4_000  # samples; a Kaldi decoder is meant to be fed in pieces
# What a folder must hold, and how such a file begins (Kaldi binary, OpenFst 2). Looked at first:
# Kaldi's C++ writes to stderr about a wrong folder and fails later, or aborts, on a wrong file.
_MARKS = {
    "am/final.mdl": b"\0B<Trans",
    "conf/mfcc.conf": b"",
    "graph/*.fst": b"\xd6\xfd\xb2\x7e",
}


class Vosk:
    """A Vosk model. `model`: its folder (with am/, conf/, graph/).

    Sound that was given before is not decoded again; the end of the utterance is the caller's, not
    Kaldi's, which comes seconds later. Kaldi adds random dither to the sound, so doubtful words may
    differ from run to run. Raises SpeechError when the folder is no Vosk model or Vosk cannot be
    loaded.
    """

    name = "vosk"
    streams = True
    embedding = no_embedding()  # Kaldi keeps its states to itself

    def __init__(self, model: Path) -> None:
        _check(model)
        try:
            import vosk
        except (ImportError, OSError) as error:
            way_out = remedy(error, "pip install vosk")
            raise SpeechError(f"Vosk cannot be loaded ({error}); run: {way_out}") from error
        vosk.SetLogLevel(-1)
        try:
            self._model: Any = vosk.Model(str(model))
            self._open: Any = partial(vosk.KaldiRecognizer, self._model, float(SPEC.sample_rate_hz))
            self._open()  # fails now if it ever will
        except Exception as error:  # Vosk raises no narrower class
            raise SpeechError(f"{model}: Vosk cannot load this model ({error})") from error
        self._start_s: float | None = None  # of the utterance that is being decoded
        self._n_fed = 0  # samples of it
        self._heard: list[dict[str, Any]] = []  # of it, in results that Kaldi closed by itself

    def transcribe(
        self, samples: NDArray[np.float32], start_s: float, *, final: bool = True
    ) -> tuple[Word, ...]:
        """See `SpeechToText.transcribe`; times are Kaldi's alignment."""
        try:
            found = self._decode(samples, start_s, final)
        except Exception as error:  # Vosk raises no narrower class
            self._start_s = None
            raise SpeechError(f"Vosk failed while transcribing ({error})") from error
        length_s = len(samples) / SPEC.sample_rate_hz
        return tuple(
            Word(
                text=word["word"],
                start_s=start_s + word["start"],
                end_s=start_s + min(word["end"], length_s),
                confidence=min(1.0, word["conf"]),
            )
            for word in found
            # <unk>, [noise]: marks, not words; and what was said after the end of the utterance
            if word["word"][0] not in "<[" and word["start"] < length_s
        )

    def _decode(
        self, samples: NDArray[np.float32], start_s: float, final: bool
    ) -> list[dict[str, Any]]:
        """What Vosk says of each word; decodes the samples that it has not been given yet."""
        if start_s != self._start_s:
            self._begin(start_s)
        # Whole chunks until the end, so that the words do not depend on how often we are asked.
        n = len(samples) if final else len(samples) // _CHUNK * _CHUNK
        for at in range(self._n_fed, n, _CHUNK):
            chunk = samples[at : min(at + _CHUNK, n)]
            pcm = (np.clip(chunk, -1.0, 1.0) * 32_767).astype("<i2").tobytes()
            # True: Kaldi's own end of speech; it has closed a result, which would be lost.
            if self._kaldi.AcceptWaveform(pcm):
                self._heard += json.loads(self._kaldi.Result()).get("result", [])
            self._n_fed = at + len(chunk)
        if not final:
            so_far = json.loads(self._kaldi.PartialResult())
            return self._heard + list(so_far.get("partial_result", []))
        self._start_s = None
        return self._heard + list(json.loads(self._kaldi.FinalResult()).get("result", []))

    def _begin(self, start_s: float) -> None:
        """Another utterance. A Kaldi recogniser that was reset would count time on."""
        self._kaldi = self._open()
        self._kaldi.SetWords(True)
        self._kaldi.SetPartialWords(True)
        self._start_s, self._n_fed, self._heard = start_s, 0, []

    def close(self) -> None:
        """Release the model."""
        self._kaldi = self._open = self._model = None


def _check(model: Path) -> None:
    """Raises SpeechError unless the folder holds what a Vosk model needs."""
    for pattern, mark in _MARKS.items():
        files = list(model.glob(pattern))
        if not files:
            raise SpeechError(f"{model} is no Vosk model: it has no {pattern}")
        for file in files:
            with file.open("rb") as content:
                if content.read(len(mark)) != mark:
                    raise SpeechError(f"{file} is damaged or not a Vosk file; get the model again")
