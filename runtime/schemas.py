"""The event that the runtime emits, and its JSON form."""

import json
from dataclasses import dataclass

from .features.spec import MODALITIES
from .speech.base import Word

__all__ = ["EmotionEvent"]


@dataclass(frozen=True, kw_only=True)
class EmotionEvent:
    """The emotion of one utterance.

    Times are seconds on the source's clock. `sentiment` is in [-3, 3] (the MOSI scale);
    `probabilities` sum to 1, `emotion` names the largest. `modalities` maps text, audio and vision
    to "present" or to the reason of absence; `modality_sentiment` is each modality's own
    prediction (None when absent), `modality_weight` its share in the fusion, which sum to 1.
    `uncertain`: `confidence` is below what four right answers in five take, by the bundle's
    validation data; better treat the emotion as unknown then. `latency_ms` is the time from the
    last packet of the utterance to this event.
    """

    type: str
    start_s: float
    end_s: float
    text: str
    words: tuple[Word, ...]
    sentiment: float
    emotion: str
    uncertain: bool
    probabilities: dict[str, float]
    modality_sentiment: dict[str, float | None]
    modality_weight: dict[str, float]
    modalities: dict[str, str]
    latency_ms: float

    @property
    def confidence(self) -> float:
        """Calibrated probability of `emotion`, in [0, 1]."""
        return self.probabilities[self.emotion]

    def to_json(self) -> str:
        """One line of JSON; numbers rounded to what the sensors can support."""
        return json.dumps(
            {
                "type": self.type,
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
                "emotion": self.emotion,
                "uncertain": self.uncertain,
                "probabilities": {name: round(p, 4) for name, p in self.probabilities.items()},
                "modality_sentiment": {
                    name: None if value is None else round(value, 4)
                    for name, value in self.modality_sentiment.items()
                },
                "modality_weight": {n: round(w, 4) for n, w in self.modality_weight.items()},
                "modalities": {name: self.modalities[name] for name in MODALITIES},
                "latency_ms": round(self.latency_ms, 1),
            },
            ensure_ascii=False,
        )
