"""Feature rows on the stream's clock, and the cut of one utterance out of them."""

from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..features.audio import AudioFeatures
from ..features.spec import SPEC

__all__ = ["ALONE", "Look", "Sound", "Timeline", "alone"]

Float = NDArray[np.float32]

# An utterance, its hang-over and pre-roll, with room to spare.
_HISTORY_S = 2.0 * SPEC.max_utterance_s


class Look(NamedTuple):
    """A face in one picture: its (Dv,) row, the gap of its lips over the height of the face, and
    its box: left, top, width and height as shares of the picture."""

    row: Float
    lips: float
    box: tuple[float, float, float, float]


ALONE = 1
"""The number of a face when there is but one to follow."""


def alone(row: Float) -> dict[int, Look]:
    """The faces of a picture of which only the (Dv,) row of one face is known, zeros for none."""
    return {ALONE: Look(row, 0.0, (0.0, 0.0, 1.0, 1.0))} if row[-1] else {}


class Sound:
    """The last 30 s of sound without a gap, samples and rows; older ones are dropped."""

    def __init__(self) -> None:
        self._features = AudioFeatures()
        self._origin_s: float | None = None
        self._n_samples = 0
        self._samples: deque[tuple[int, Float]] = deque()  # (index of first sample, samples)
        self._audio: deque[Float] = deque()

    def add(self, start_s: float, samples: Float) -> None:
        """Append consecutive (n,) samples; the first chunk's `start_s` anchors the clock."""
        if self._origin_s is None:
            self._origin_s = start_s
        self._audio.extend(self._features.push(samples))
        self._samples.append((self._n_samples, samples))
        self._n_samples += len(samples)
        while len(self._audio) > _HISTORY_S * SPEC.audio_rate_hz:
            self._audio.popleft()
        oldest = self._n_samples - _HISTORY_S * SPEC.sample_rate_hz
        while self._samples[0][0] + len(self._samples[0][1]) < oldest:
            self._samples.popleft()

    def samples(self, start_s: float, end_s: float) -> Float:
        """The (n,) samples between two times, as far as they are still held."""
        if self._origin_s is None:
            return np.zeros(0, np.float32)
        first, last = self._index(start_s), self._index(end_s)
        pieces = [
            samples[max(0, first - begin) : max(0, last - begin)]
            for begin, samples in self._samples
            if begin < last and begin + len(samples) > first
        ]
        return np.concatenate([np.zeros(0, np.float32), *pieces])

    def audio_rows(self, start_s: float, end_s: float) -> Float:
        """(Ta, 43) rows that start within [start_s, end_s)."""
        first_row = self._features.n_rows - len(self._audio)
        begin, end = (-(-self._index(t) // SPEC.hop) - first_row for t in (start_s, end_s))
        rows = [self._audio[i] for i in range(max(0, begin), min(len(self._audio), end))]
        return np.array(rows, np.float32).reshape(-1, SPEC.audio_dim)

    def _index(self, time_s: float) -> int:
        assert self._origin_s is not None
        return max(0, round((time_s - self._origin_s) * SPEC.sample_rate_hz))


class Timeline:
    """Sound and vision rows of the last 30 s; older ones are dropped.

    Sound must come without gaps (see `AudioChunk`); pictures may come late or not at all.
    """

    def __init__(self) -> None:
        self.sound = Sound()
        """What is heard since the last gap."""
        self._vision: deque[tuple[float, Mapping[int, Look]]] = deque()

    def add_audio(self, start_s: float, samples: Float) -> None:
        """See `Sound.add`."""
        self.sound.add(start_s, samples)

    def restart_audio(self) -> None:
        """Sound goes on after a gap: what was heard before it stays with who holds it."""
        self.sound = Sound()

    def samples(self, start_s: float, end_s: float) -> Float:
        """See `Sound.samples`."""
        return self.sound.samples(start_s, end_s)

    def audio_rows(self, start_s: float, end_s: float) -> Float:
        """See `Sound.audio_rows`."""
        return self.sound.audio_rows(start_s, end_s)

    def add_vision(self, time_s: float, faces: Mapping[int, Look]) -> None:
        """Append the faces, by number, of a picture taken at `time_s`; a clock that was set back
        drops the older ones."""
        if self._vision and time_s < self._vision[-1][0]:
            self._vision.clear()
        self._vision.append((time_s, faces))
        while self._vision[0][0] < time_s - _HISTORY_S:
            self._vision.popleft()

    def faces(self, start_s: float, end_s: float) -> dict[int, list[tuple[float, Look]]]:
        """By number, the times and looks of the faces in the pictures between two times."""
        found: dict[int, list[tuple[float, Look]]] = {}
        for time_s, faces in self._vision:
            if start_s <= time_s < end_s:
                for face, look in faces.items():
                    found.setdefault(face, []).append((time_s, look))
        return found

    def vision_rows(self, start_s: float, end_s: float, face: int | None) -> Float:
        """(Tv, Dv) rows of a face at the fixed rate `SPEC.vision_rate_hz`.

        Each is the newest row not older than `SPEC.vision_hold_s`, or zeros (no face) where
        pictures are missing. (0, Dv) when no picture fell into the interval at all.
        """
        held = [
            (t, faces.get(-1 if face is None else face))
            for t, faces in self._vision
            if start_s - SPEC.vision_hold_s <= t < end_s
        ]
        if not any(t >= start_s for t, _ in held):
            return np.zeros((0, SPEC.vision_dim), np.float32)
        n_rows = round((end_s - start_s) * SPEC.vision_rate_hz)
        times = start_s + (np.arange(n_rows) + 1) / SPEC.vision_rate_hz
        newest = np.searchsorted([t for t, _ in held], times, side="right") - 1
        rows = np.zeros((n_rows, SPEC.vision_dim), np.float32)
        for k, index in enumerate(newest):
            look = held[index][1] if index >= 0 else None
            if look is not None and times[k] - held[index][0] <= SPEC.vision_hold_s:
                rows[k] = look.row
        return rows
