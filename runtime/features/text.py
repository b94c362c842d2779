"""Text: a recogniser's words as WordPieces of the bundle's own tokenizer."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import FeatureError
from .spec import SPEC

__all__ = ["TextFeatures", "normalise"]

# Recognisers disagree on punctuation and case; the apostrophe belongs to the word ("don't").
_PUNCTUATION = re.compile(r"[^\w\s']|_")


def normalise(text: str) -> str:
    """Lower-case words separated by one space, punctuation removed, as a recogniser says them."""
    if SPEC.strip_punctuation:
        text = _PUNCTUATION.sub(" ", text.replace("\u2019", "'"))
    return " ".join(text.lower().split())


class TextFeatures:
    """WordPiece ids of a piece of text, by the `tokenizer.json` of a bundle or checkpoint."""

    def __init__(self, tokenizer_json: Path) -> None:
        from tokenizers import Tokenizer

        try:
            self._tokenizer = Tokenizer.from_file(str(tokenizer_json))
        except Exception as error:  # the library raises bare Exception
            raise FeatureError(f"{tokenizer_json}: not a tokenizer file ({error})") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def ids(self, text: str) -> NDArray[np.int64]:
        """(T,) int64 ids, special tokens included; T is not limited here, see `fits`."""
        return np.asarray(self._tokenizer.encode(normalise(text)).ids, np.int64)

    def fits(self, words: Sequence[str]) -> bool:
        """Whether these words take at most `SPEC.max_pieces` ids."""
        return len(self.ids(" ".join(words))) <= SPEC.max_pieces
