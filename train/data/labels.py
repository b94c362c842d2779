"""What corpora say: emotions, sentences, recordings, splits."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import DmdLiveError

__all__ = [
    "EMOTIONS",
    "NAMES",
    "NEUTRAL",
    "RAVDESS_EMOTIONS",
    "RAVDESS_HELD_OUT",
    "SPLITS",
    "UNKNOWN",
    "VOTES",
    "DataError",
    "Recording",
    "Text",
    "split_by_half",
    "split_by_hash",
]

EMOTIONS = ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise")
NEUTRAL = EMOTIONS.index("neutral")
UNKNOWN = -1
SPLITS = ("train", "valid", "test")
NAMES = {
    **{name: k for k, name in enumerate(EMOTIONS)},
    "joy": EMOTIONS.index("happiness"),
    "happy": EMOTIONS.index("happiness"),
    "surprised": EMOTIONS.index("surprise"),
}
# Columns of FER+'s label files after file and box.
VOTES = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt",
         "unknown", "not a face")  # fmt: skip

# 02, calm, has no counterpart among the seven: neither neutral nor any other.
RAVDESS_EMOTIONS = {"01": "neutral", "03": "happiness", "04": "sadness", "05": "anger",
                    "06": "fear", "07": "disgust", "08": "surprise"}  # fmt: skip
# Odd actors are men, even ones women. All others are for training.
RAVDESS_HELD_OUT = {
    **dict.fromkeys(("09", "21", "22"), "valid"),
    **dict.fromkeys(("11", "12", "23", "24"), "test"),
}


class DataError(DmdLiveError, ValueError):
    """A corpus is missing, or a row of it is not what its layout says."""


@dataclass(frozen=True, kw_only=True)
class Text:
    """One sentence. `emotion`: index into EMOTIONS or -1; `rating`: human sentiment in [-3, 3] or
    None; `polarity`: -1, 0, 1 or None; `arousal`: human rating in [-1, 1] or None."""

    text: str
    emotion: int
    rating: float | None
    polarity: float | None
    split: str
    corpus: str
    arousal: float | None = None


@dataclass(frozen=True, kw_only=True)
class Recording:
    """One sound or picture file of one person showing one emotion (index into EMOTIONS).

    `votes`: of FER+'s pictures, how many people said each of VOTES. `parts`: files that are joined
    to one sound, the first of which is `path`. `intensity`: how strongly the emotion shows; 1 where
    the corpus does not say.
    """

    path: Path
    emotion: int
    person: str
    split: str
    corpus: str
    votes: tuple[int, ...] = ()
    parts: tuple[Path, ...] = ()
    intensity: float = 1.0


def split_by_hash(key: str) -> str:
    """A split that never changes: 70 % train, 10 % valid, 20 % test."""
    slot = int(hashlib.sha256(key.encode()).hexdigest(), 16) % 10
    return "valid" if slot == 0 else "test" if slot in (1, 2) else "train"


def split_by_half(key: str) -> str:
    """`valid` or `test`, one as likely as the other; never changes."""
    return ("valid", "test")[int(hashlib.sha256(key.encode()).hexdigest(), 16) % 2]
