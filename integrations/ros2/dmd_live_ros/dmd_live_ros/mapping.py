"""From events to messages, as plain data. No ROS here."""

from dataclasses import dataclass

from dmd_live import EmotionEvent

__all__ = ["EXPRESSIONS", "Expression", "expressions_of", "stamp_ns"]

EXPRESSIONS = {
    "anger": "angry",
    "disgust": "disgusted",
    "fear": "scared",
    "happiness": "happy",
    "neutral": "neutral",
    "sadness": "sad",
    "surprise": "surprised",
}
"""Constants of hri_msgs/Expression, by emotion."""


@dataclass(frozen=True, kw_only=True)
class Expression:
    """A topic, and the fields of hri_msgs/Expression but for its header.

    `valence` and `arousal` are in [-1, 1], `confidence` in [0, 1].
    """

    topic: str
    expression: str
    valence: float
    arousal: float
    confidence: float


def expressions_of(event: EmotionEvent) -> list[Expression]:
    """One message for the face and one for the voice, of those that were there.

    An uncertain event is neutral, with the probability of neutral. An emotion of a bundle of one's
    own that ROS4HRI has no word for gives none.
    """
    emotion = "neutral" if event.uncertain else event.emotion
    if emotion not in EXPRESSIONS:
        return []
    return [
        Expression(
            topic=topic,
            expression=EXPRESSIONS[emotion],
            valence=_within(event.sentiment / 3.0, -1.0, 1.0),
            arousal=_within(event.arousal, -1.0, 1.0),
            confidence=_within(event.probabilities.get(emotion, 0.0), 0.0, 1.0),
        )
        for topic in _topics(event)
    ]


def stamp_ns(at_s: float, *, monotonic_s: float, ros_ns: int) -> int:
    """ROS time of `at_s`, when the clock of the stream shows `monotonic_s` and ROS's `ros_ns`."""
    return max(0, ros_ns - round(max(0.0, monotonic_s - at_s) * 1e9))


def _topics(event: EmotionEvent) -> list[str]:
    """A part of a ROS name cannot begin with a digit, so ids are face3 and voice3.

    While nobody is numbered, they are face and voice.
    """
    number = "" if event.person is None else str(event.person.id)
    named = {"vision": f"humans/faces/face{number}", "audio": f"humans/voices/voice{number}"}
    return [
        f"{name}/expression"
        for modality, name in named.items()
        if event.modalities[modality] == "present"
    ]


def _within(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)
