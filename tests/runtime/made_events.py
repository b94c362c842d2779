"""Events made by hand, for tests of what comes after judging."""

import time
from collections.abc import Callable

from runtime.schemas import EmotionEvent
from runtime.speech.base import Word

__all__ = ["made", "until"]

_EMOTIONS = ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise")


def made(number: int, kind: str = "final", text: str = "I said it is fine") -> EmotionEvent:
    """The event of utterance `number`."""
    words = tuple(
        Word(text=word, start_s=number + i / 10, end_s=number + i / 10 + 0.1)
        for i, word in enumerate(text.split())
    )
    return EmotionEvent(
        type=kind,
        utterance=number,
        revision=0,
        start_s=float(number),
        end_s=number + 1.0,
        text=text,
        words=words,
        sentiment=-1.25,
        arousal=0.5,
        emotion="anger",
        uncertain=False,
        probabilities={name: 0.7 if name == "anger" else 0.05 for name in _EMOTIONS},
        modality_sentiment={"text": 0.5, "audio": -1.0, "vision": None},
        modality_weight={"text": 0.5, "audio": 0.5, "vision": 0.0},
        modalities={"text": "present", "audio": "present", "vision": "no camera"},
        quality=("very quiet",),
        latency_ms={"queue": 1.0, "words": 100.0, "inference": 8.0, "total": 109.0},
        reasons=("the voice is loud",),
    )


def until(true: Callable[[], object], timeout_s: float = 20.0) -> None:
    """Wait until something is true."""
    end = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.02)
