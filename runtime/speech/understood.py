"""Words that were never said: loops of a recogniser, and what it makes of another language."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..features.text import TextFeatures
from .base import Answer, Word

__all__ = ["NOT_UNDERSTOOD", "sensible", "without_loops"]

NOT_UNDERSTOOD = "words not understood"
"""Why words are left out that the recogniser cannot have heard."""

# Measured with Moonshine: acted English has a mean confidence of 0.67 and more in 99 of 100
# utterances, German and Polish at most 0.63 in 95 of 100. One in 30 English words is none that the
# language encoder knows whole, of "English" words made of German one in four. These limits leave
# out the words of 56 of 60 German utterances, of 60 of 60 Polish ones, of none of 60 acted English
# ones and of 3 of 50 synthetic ones.
_LEAST, _SURE, _UNKNOWN = 0.45, 0.60, 0.1
_FASTEST = 7.0  # words a second: nobody speaks faster for a whole utterance
_FEW = 3  # words, which may well be said fast

_LONGEST_PHRASE = 8
_REPEATS, _WORD_REPEATS = 3, 4  # "no, no, no" is said


def sensible(answer: Answer, text: TextFeatures, length_s: float) -> Answer:
    """What is left of the words recognised in an utterance of that length."""
    kept = without_loops(answer.words)
    if kept and not _understood(answer.words, text, length_s):
        return replace(answer, words=(), error=NOT_UNDERSTOOD)
    return replace(answer, words=kept)


def _understood(words: Sequence[Word], text: TextFeatures, length_s: float) -> bool:
    """Whether words of an utterance of that length can have been said, by the recogniser's
    confidence, by how many of them are unknown, and by their number."""
    if len(words) > _FEW and len(words) > _FASTEST * length_s:
        return False
    confidence = float(np.mean([word.confidence for word in words]))
    if confidence >= _SURE:
        return True
    n_special = len(text.ids(""))
    unknown = np.mean([len(text.ids(word.text)) - n_special > 1 for word in words])
    return confidence >= _LEAST and float(unknown) < _UNKNOWN


def without_loops(words: Sequence[Word]) -> tuple[Word, ...]:
    """The words with every phrase once that is repeated at least three times in a row; one word
    alone must be repeated four times."""
    kept = list(words)
    for n in range(1, _LONGEST_PHRASE + 1):
        least = _WORD_REPEATS if n == 1 else _REPEATS
        k = 0
        while k + least * n <= len(kept):
            spelled = [word.text.strip(".,;:!?").lower() for word in kept]
            phrase, repeats = spelled[k : k + n], 1
            while spelled[k + repeats * n : k + (repeats + 1) * n] == phrase:
                repeats += 1
            if repeats >= least:
                del kept[k + n : k + repeats * n]
            k += 1
    return tuple(kept)
