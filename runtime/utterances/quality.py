"""What is wrong with sound, words or pictures that an estimate should not be trusted for."""

from collections import deque
from typing import NamedTuple
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from ..features.spec import SPEC
from ..speech.base import Word

__all__ = ["ASKEW", "FROZEN", "PictureQuality", "sound_notes", "word_notes"]

FROZEN = "picture is frozen"
ASKEW = "faces are not upright"

_HISTORY_S = 2.0 * SPEC.max_utterance_s
_FULL_SCALE = 0.999
_CLIPPED = 1e-3  # share of samples at full scale
# Mean confidence. Measured with Moonshine on speech in noise: every third word is wrong below it,
# one in thirty from 0.8 on.
_DOUBTFUL = 0.7
_DARK = 30.0  # mean of 0 to 255
_FEW_HZ = 5.0  # pictures a second: an expression may pass between them
_FROZEN_S = 0.5  # a camera's noise makes any two pictures differ


def sound_notes(samples: NDArray[np.float32]) -> tuple[str, ...]:
    """Notes on (n,) samples in [-1, 1] of an utterance."""
    loud = np.abs(samples) >= _FULL_SCALE
    return ("sound is clipped",) if len(samples) and loud.mean() > _CLIPPED else ()


def word_notes(words: tuple[Word, ...]) -> tuple[str, ...]:
    """Notes on the words of an utterance."""
    if words and np.mean([word.confidence for word in words]) < _DOUBTFUL:
        return ("words are doubtful",)
    return ()


class _Picture(NamedTuple):
    time_s: float
    brightness: float
    checksum: int
    n_faces: int
    upright: bool


class PictureQuality:
    """Remembers of the pictures of the last 30 s what can be wrong with them."""

    def __init__(self) -> None:
        self._seen: deque[_Picture] = deque()

    def add(self, time_s: float, rgb: NDArray[np.uint8], n_faces: int, upright: bool) -> None:
        """Take the (H, W, 3) uint8 picture of `time_s`: a sixteenth of its rows and columns."""
        some = rgb[::16, ::16]
        if self._seen and time_s < self._seen[-1].time_s:  # the clock was set back
            self._seen.clear()
        self._seen.append(
            _Picture(time_s, float(some.mean()), crc32(some.tobytes()), n_faces, upright)
        )
        while self._seen[0].time_s < time_s - _HISTORY_S:
            self._seen.popleft()

    def notes(self, start_s: float, end_s: float) -> tuple[str, ...]:
        """Notes on the pictures of an utterance."""
        inside = [picture for picture in self._seen if start_s <= picture.time_s < end_s]
        if not inside:
            return ()
        out = []
        if np.mean([picture.brightness for picture in inside]) < _DARK:
            out.append("picture is dark")
        lasted_s = inside[-1].time_s - inside[0].time_s
        if lasted_s > _FROZEN_S and len({picture.checksum for picture in inside}) == 1:
            out.append(FROZEN)
        if 2 * sum(not picture.upright for picture in inside) > len(inside):
            out.append(ASKEW)
        rate_hz = len(inside) / max(end_s - start_s, 1e-9)
        if len(inside) >= 2 and rate_hz < _FEW_HZ:
            out.append(f"only {rate_hz:.0f} pictures a second")
        n_people = int(np.median([picture.n_faces for picture in inside]))
        if n_people > 1:
            out.append(f"{n_people} people in view")
        return tuple(out)
