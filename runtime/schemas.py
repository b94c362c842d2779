"""The event that the runtime emits, and its JSON form (`event.schema.json`)."""

import json
from dataclasses import dataclass
from pathlib import Path

from .features.spec import MODALITIES
from .speech.base import Word

__all__ = ["SCHEMA", "SCHEMA_VERSION", "EmotionEvent"]

SCHEMA_VERSION = 3
"""Rises when a field of an event's JSON changes its meaning or goes away."""
SCHEMA = Path(__file__).parent / "event.schema.json"


@dataclass(frozen=True, kw_only=True)
class EmotionEvent:
    """The emotion of one utterance.

    `type` is "provisional" while it goes on, "final" once. `utterance` counts from 1; `revision`
    counts the provisional events of an utterance from 0, and is 0 in a final one. An utterance
    whose words are too many for the model gives several final events, one after the other.

    Times are seconds on the source's clock. `sentiment` is in [-3, 3] (the MOSI scale), `arousal`
    in [-1, 1], from calm to excited; `probabilities` sum to 1. `emotion` names the largest, but a
    provisional one changes only when another is clearly ahead. `uncertain`: `confidence` is below
    what four right answers in five take, by the bundle's validation data and by which modalities
    are present; better treat the emotion as unknown then.
    `modalities` maps text, audio and vision to "present" or to the reason of absence;
    `modality_sentiment` is each modality's own prediction (None when absent), `modality_weight` its
    share in the fusion, which sum to 1. `quality` notes what was wrong with sound,
    words and pictures. `latency_ms`, from when the last sound of the utterance was captured:
    `queue` until it was taken up (0 where the source has its own clock), `words` until they were
    known, `inference`, and `total` until the event; a replayed event has those of the recording.
    """

    type: str
    utterance: int
    revision: int
    start_s: float
    end_s: float
    text: str
    words: tuple[Word, ...]
    sentiment: float
    arousal: float
    emotion: str
    uncertain: bool
    probabilities: dict[str, float]
    modality_sentiment: dict[str, float | None]
    modality_weight: dict[str, float]
    modalities: dict[str, str]
    quality: tuple[str, ...]
    latency_ms: dict[str, float]

    @property
    def confidence(self) -> float:
        """Calibrated probability of `emotion`, in [0, 1]."""
        return self.probabilities[self.emotion]

    def to_json(self) -> str:
        """One line of JSON; numbers rounded to what the sensors can support."""
        return json.dumps(
            {
                "schema": SCHEMA_VERSION,
                "type": self.type,
                "utterance": self.utterance,
                "revision": self.revision,
                "start_s": round(self.start_s, 3),
                "end_s": round(self.end_s, 3),
                "text": self.text,
                "words": [
                    {
                        "text": word.text,
                        "start_s": round(word.start_s, 3),
                        "end_s": round(word.end_s, 3),
                    }
                    for word in self.words
                ],
                "sentiment": round(self.sentiment, 4),
                "arousal": round(self.arousal, 4),
                "emotion": self.emotion,
                "uncertain": self.uncertain,
                "probabilities": {name: round(p, 4) for name, p in self.probabilities.items()},
                "modality_sentiment": {
                    name: None if value is None else round(value, 4)
                    for name, value in self.modality_sentiment.items()
                },
                "modality_weight": {n: round(w, 4) for n, w in self.modality_weight.items()},
                "modalities": {name: self.modalities[name] for name in MODALITIES},
                "quality": list(self.quality),
                "latency_ms": {name: round(ms, 1) for name, ms in self.latency_ms.items()},
            },
            ensure_ascii=False,
        )
