"""What an event is judged from."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..features.embedding import no_embedding
from ..schemas import Person
from ..speech.base import Word

__all__ = ["PRESENT", "Evidence"]

Float = NDArray[np.float32]

PRESENT = "present"
"""What `modalities` says of a modality that is there."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """All that one event depends on, but for the model and what was judged before.

    `audio`: (Ta, 43) raw, `vision`: (Tv, Dv) float32 rows, none where the modality is absent;
    `modalities`: "present" or the reason of absence; `arrived_s` and `known_s`: when the last
    packet came, after waiting for `queued_s`, and when the words were known, by
    `time.monotonic()`; `baseline_reset`: what is known of the speaker, baseline and voice, is
    forgotten before this one is judged; `audio_embedding`: (576,), zeros where the recogniser gave
    none. The rest is as in `EmotionEvent`.
    """

    type: str
    utterance: int
    start_s: float
    end_s: float
    words: tuple[Word, ...]
    audio: Float
    vision: Float
    modalities: dict[str, str]
    quality: tuple[str, ...]
    queued_s: float = 0.0
    arrived_s: float = 0.0
    known_s: float = 0.0
    baseline_reset: bool = False
    person: Person | None = None
    replaces: int | None = None
    audio_embedding: Float = field(default_factory=no_embedding)
