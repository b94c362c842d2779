"""Speech to text with Vosk, the engine with true word times."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import SpeechError
from .base import Word

__all__ = ["Vosk"]

_RATE_HZ = 16_000
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

    Kaldi adds random dither to the sound, so doubtful words may differ from run to run. Raises
    SpeechError when the folder is no Vosk model or Vosk cannot be loaded.
    """

    name = "vosk"

    def __init__(self, model: Path) -> None:
        _check(model)
        try:
            import vosk
        except (ImportError, OSError) as error:
            raise SpeechError(f"Vosk cannot be loaded ({error}); run: pip install vosk") from error
        vosk.SetLogLevel(-1)
        try:
            self._model: Any = vosk.Model(str(model))
            vosk.KaldiRecognizer(self._model, float(_RATE_HZ))  # fails now if it ever will
        except Exception as error:  # Vosk raises no narrower class
            raise SpeechError(f"{model}: Vosk cannot load this model ({error})") from error
        self._recogniser: Any = vosk.KaldiRecognizer

    def transcribe(self, samples: NDArray[np.float32], start_s: float) -> tuple[Word, ...]:
        """See `SpeechToText.transcribe`; times are Kaldi's alignment."""
        pcm = (np.clip(samples, -1.0, 1.0) * 32_767).astype("<i2").tobytes()
        heard: list[dict[str, Any]] = []
        try:
            recogniser = self._recogniser(self._model, float(_RATE_HZ))
            recogniser.SetWords(True)
            for at in range(0, len(pcm), 2 * _CHUNK):
                # True: Kaldi's own end of speech; it has closed a result, which would be lost.
                if recogniser.AcceptWaveform(pcm[at : at + 2 * _CHUNK]):
                    heard += json.loads(recogniser.Result()).get("result", [])
            heard += json.loads(recogniser.FinalResult()).get("result", [])
        except Exception as error:  # Vosk raises no narrower class
            raise SpeechError(f"Vosk failed while transcribing ({error})") from error
        length_s = len(samples) / _RATE_HZ
        return tuple(
            Word(
                text=word["word"],
                start_s=start_s + min(word["start"], length_s),
                end_s=start_s + min(word["end"], length_s),
            )
            for word in heard
            if word["word"][0] not in "<["  # <unk>, [noise]: marks, not words
        )

    def close(self) -> None:
        """Release the model."""
        self._model = None


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
