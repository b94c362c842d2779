"""Training text as a recogniser hears it: words get lost or are mistaken for similar-sounding ones.

Case and punctuation are the tokenizer's business (`runtime.features.text.normalise`).
"""

from collections import defaultdict
from collections.abc import Iterable
from itertools import pairwise

import numpy as np

from runtime.features.text import normalise

__all__ = ["Spoken"]

# Soundex (Russell 1918): consonants that are confused share a digit; vowels carry none.
_CODES = {c: digit for digit, group in
          enumerate(("bfpv", "cgjkqsxz", "dt", "l", "mn", "r"), 1) for c in group}  # fmt: skip


class Spoken:
    """Knows the words of a corpus by their sound."""

    def __init__(self, sentences: Iterable[str], drop_rate: float, confusion_rate: float) -> None:
        self._drop_rate, self._confusion_rate = drop_rate, confusion_rate
        alike: dict[str, set[str]] = defaultdict(set)
        for sentence in sentences:
            for word in normalise(sentence).split():
                alike[soundex(word)].add(word)
        self._alike = {key: sorted(words) for key, words in alike.items()}

    def __call__(self, text: str, rng: np.random.Generator) -> str:
        """The words as they may be heard; at least one is left of a text that has any."""
        words = normalise(text).split()
        heard = []
        for word in words:
            lost, confused = rng.random(2) < (self._drop_rate, self._confusion_rate)
            others = self._alike.get(soundex(word), [word])
            if confused:
                word = others[int(rng.integers(len(others)))]
            if not lost:
                heard.append(word)
        return " ".join(heard or words[:1])


def soundex(word: str) -> str:
    """First letter and the digits of the consonants after it, repeated ones once."""
    digits = [_CODES.get(letter, 0) for letter in word]
    told = [str(b) for a, b in pairwise(digits) if b and a != b]
    return word[:1] + "".join(told[:4])
