"""Utterances of a sound as the device cuts them: for training and for measurements."""

import numpy as np

from ..features.spec import SPEC
from ..sources.base import AudioChunk
from ..speech.vad import VoiceActivity
from .segmenter import Segment, Segmenter

__all__ = ["Cutter"]


class Cutter:
    """Finds utterances as the device does, by voice activity alone."""

    def __init__(self) -> None:
        self._voice = VoiceActivity()
        self._segmenter: Segmenter | None = None
        self._rest = np.zeros(0, np.float32)

    def push(self, chunk: AudioChunk) -> list[Segment]:
        """The utterances that end in the next chunk of sound."""
        size = VoiceActivity.CHUNK
        if self._segmenter is None:
            self._segmenter = Segmenter(size / SPEC.sample_rate_hz, chunk.start_s)
        samples = np.concatenate([self._rest, chunk.samples])
        n = len(samples) // size * size
        self._rest = samples[n:]
        found = [
            self._segmenter.push(self._voice.probability(piece))
            for piece in samples[:n].reshape(-1, size)
        ]
        return [segment for segment in found if segment is not None]

    def flush(self) -> list[Segment]:
        """The one that is open where the sound ends."""
        last = self._segmenter.flush() if self._segmenter else None
        return [last] if last else []
