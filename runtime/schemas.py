"""The event that the runtime emits, and its JSON form (`event.schema.json`)."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .features.spec import MODALITIES
from .outputs.prompt import prompt
from .speech.base import Word

__all__ = ["SCHEMA", "SCHEMA_VERSION", "EmotionEvent", "Person"]

SCHEMA_VERSION = 4
"""Rises when a field of an event's JSON changes its meaning or goes away."""
SCHEMA = Path(__file__).parent / "event.schema.json"


@dataclass(frozen=True, kw_only=True)
class Person:
    """Whose face an utterance was judged with.

    `id` counts from 1 and stays while the person is in view. `confidence`, in [0, 1]: how sure it
    is that this person spoke. `n_in_view`: people in view. `box`: left, top, width and height of
    the face, as shares of the picture's width and height.
    """

    id: int
    confidence: float
    n_in_view: int
    box: tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class EmotionEvent:
    """The emotion of one utterance.

    `type` is "provisional" while it goes on, "final" once. `utterance` counts from 1; `revision`
    counts the provisional events of an utterance from 0, and is 0 in a final one. An utterance
    whose words are too many for the model gives several final events, one after the other. With
    `--join-ms`, a final event may come again for the same utterance, longer: its `revision` is one
    higher, and `replaces` is the revision of the final event that it takes the place of.

    Times are seconds on the source's clock. `sentiment` is in [-3, 3] (the MOSI scale), `arousal`
    in [-1, 1], from calm to excited; `probabilities` sum to 1. `emotion` names the largest, but a
    provisional one changes only when another is clearly ahead. `uncertain`: `confidence` is below
    what four right answers in five take, by the bundle's validation data and by which modalities
    are present; better treat the emotion as unknown then.
    `modalities` maps text, audio and vision to "present" or to the reason of absence;
    `modality_sentiment` is each modality's own prediction (None when absent), `modality_weight` its
    share in the fusion, which sum to 1. `quality` notes what was wrong with sound,
    words and pictures. `person`: whose face it is, None without one. `reasons`: up to three short
    lines on what was measured. `mixed`: two present modalities clearly disagree; `disagree` names
    them. `latency_ms`, from when the sound that closed the utterance was captured (the pause of
    `--pause-ms` after the voice is not in it; an early estimate counts from its newest sound):
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
    person: Person | None = None
    reasons: tuple[str, ...] = ()
    mixed: bool = False
    disagree: tuple[str, ...] = ()
    replaces: int | None = None

    @property
    def confidence(self) -> float:
        """Calibrated probability of `emotion`, in [0, 1]."""
        return self.probabilities[self.emotion]

    def to_dict(self) -> dict[str, Any]:
        """What the JSON holds; numbers rounded to what the sensors can support."""
        person = self.person
        return {
            "schema": SCHEMA_VERSION,
            "type": self.type,
            "utterance": self.utterance,
            "revision": self.revision,
            "replaces": self.replaces,
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
            "mixed": self.mixed,
            "disagree": list(self.disagree),
            "reasons": list(self.reasons),
            "person": None
            if person is None
            else {
                "id": person.id,
                "confidence": round(person.confidence, 4),
                "n_in_view": person.n_in_view,
                "box": [round(share, 4) for share in person.box],
            },
            "quality": list(self.quality),
            "latency_ms": {name: round(ms, 1) for name, ms in self.latency_ms.items()},
        }

    def to_json(self) -> str:
        """`to_dict` as one line."""
        return json.dumps(self.to_dict(), ensure_ascii=False)

    def prompt(self) -> str:
        """One line for a language model: `[angry, 82 %; face calm, mixed signals] It is fine.`

        `docs/agents.md` has its grammar.
        """
        return prompt(self)
