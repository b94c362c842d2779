"""What is wrong with a sound or a picture that an estimate should not be trusted for."""

from collections import deque
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from .features.spec import SPEC

__all__ = ["PictureQuality", "sound_notes"]

_HISTORY_S = 2.0 * SPEC.max_utterance_s
_FULL_SCALE = 0.999
_CLIPPED = 1e-3  # share of samples at full scale
_DARK = 30.0  # mean of 0 to 255
_FROZEN_S = 0.5  # a camera's noise makes any two pictures differ


def sound_notes(samples: NDArray[np.float32]) -> tuple[str, ...]:
    """Notes on (n,) samples in [-1, 1] of an utterance."""
    loud = np.abs(samples) >= _FULL_SCALE
    return ("sound is clipped",) if len(samples) and loud.mean() > _CLIPPED else ()


class PictureQuality:
    """Remembers how bright the pictures of the last 30 s were, and whether they changed."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, float, int]] = deque()  # time, brightness, checksum

    def add(self, time_s: float, rgb: NDArray[np.uint8]) -> None:
        """Take the (H, W, 3) uint8 picture of `time_s`; a sixteenth of its rows and columns."""
        some = rgb[::16, ::16]
        self._seen.append((time_s, float(some.mean()), crc32(some.tobytes())))
        while self._seen[0][0] < time_s - _HISTORY_S:
            self._seen.popleft()

    def notes(self, start_s: float, end_s: float) -> tuple[str, ...]:
        """Notes on the pictures of an utterance."""
        inside = [item for item in self._seen if start_s <= item[0] < end_s]
        if not inside:
            return ()
        out = []
        if np.mean([brightness for _, brightness, _ in inside]) < _DARK:
            out.append("picture is dark")
        if inside[-1][0] - inside[0][0] > _FROZEN_S and len({c for _, _, c in inside}) == 1:
            out.append("picture is frozen")
        return tuple(out)
