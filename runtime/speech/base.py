"""What every speech recogniser offers."""

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..features.embedding import no_embedding

__all__ = ["Answer", "SpeechToText", "Word"]


@dataclass(frozen=True, kw_only=True)
class Word:
    """One recognised word, as the recogniser spells it, and when it was said (seconds).

    `confidence` is the recogniser's own, in [0, 1]; it is no part of an event.
    """

    text: str
    start_s: float
    end_s: float
    confidence: float = field(default=1.0, compare=False)


@dataclass(frozen=True)
class Answer:
    """The words of a segment; or none, and what went wrong.

    `embedding`: (576,) of the voice, as `features.embedding.pooled` makes it; zeros: not known.
    """

    words: tuple[Word, ...]
    error: str = ""
    embedding: NDArray[np.float32] = field(default_factory=no_embedding, compare=False, repr=False)


class SpeechToText(Protocol):
    """A loaded recogniser.

    `streams`: it works on sound while it comes, so that an end of speech finds most of it done;
    it should be given what there is of an utterance several times a second. `embedding`: of the
    samples that were transcribed last, as in `Answer`.
    """

    name: str
    streams: bool
    embedding: NDArray[np.float32]

    def transcribe(
        self, samples: NDArray[np.float32], start_s: float, *, final: bool = True
    ) -> tuple[Word, ...]:
        """Words of one utterance, in order, with times inside it.

        `samples`: (n,) float32 in [-1, 1] at 16 kHz, starting at `start_s` on the stream's clock.
        Without `final` they are the beginning of an utterance that goes on: a later call with the
        same `start_s` has the same samples and more, and builds on what this one found. Empty when
        nothing was understood. Raises SpeechError when the engine fails.
        """
        ...

    def close(self) -> None:
        """Release the engine; `transcribe` must not be called afterwards."""
        ...
