"""What every speech recogniser offers."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["SpeechToText", "Word"]


@dataclass(frozen=True, kw_only=True)
class Word:
    """One recognised word, as the recogniser spells it, and when it was said (seconds)."""

    text: str
    start_s: float
    end_s: float


class SpeechToText(Protocol):
    """A loaded recogniser."""

    name: str

    def transcribe(self, samples: NDArray[np.float32], start_s: float) -> tuple[Word, ...]:
        """Words of one utterance, in order, with times inside it.

        `samples`: (n,) float32 in [-1, 1] at 16 kHz, starting at `start_s` on the stream's clock.
        Empty when nothing was understood. Raises SpeechError when the engine fails.
        """
        ...

    def close(self) -> None:
        """Release the engine; `transcribe` must not be called afterwards."""
        ...
