"""An event as a language model should read it: one line, whose grammar is in `docs/agents.md`."""

import re
import unicodedata
from typing import TYPE_CHECKING

from ..features.spec import MODALITIES

if TYPE_CHECKING:
    from ..schemas import EmotionEvent

__all__ = ["prompt"]

_FEELINGS = {
    "anger": "angry",
    "disgust": "disgusted",
    "fear": "afraid",
    "happiness": "happy",
    "neutral": "neutral",
    "sadness": "sad",
    "surprise": "surprised",
}
_SENSES = {"text": "words", "audio": "voice", "vision": "face"}
_NEUTRAL = 0.5  # of the MOSI scale: what its raters round to 0


def prompt(event: "EmotionEvent") -> str:
    """What is felt, how sure, what to know about it; then the words: `[sad, 71 %] Go away.`

    Never more than one line; the only square brackets are the two around the first part. A sense
    that was absent is not named.
    """
    feeling = _feeling(event.emotion)
    if event.uncertain:
        feeling = f"unsure, perhaps {feeling}"
    who, notes, words = _who(event), _notes(event), _plain(event.text)
    head = f"[{who}{feeling}, {100 * event.confidence:.0f} %"
    return head + (f"; {', '.join(notes)}]" if notes else "]") + (f" {words}" if words else "")


def _feeling(emotion: str) -> str:
    """The adjective; the label of a bundle of one's own as it is, in letters and digits."""
    own = re.sub(r"[^a-z0-9]+", "-", emotion.lower()).strip("-") or "unknown"
    return _FEELINGS.get(emotion, own)


def _who(event: "EmotionEvent") -> str:
    person = event.person
    if person is None or person.n_in_view < 2 or event.modalities["vision"] != "present":
        return ""
    return f"person {person.id}: "


def _notes(event: "EmotionEvent") -> list[str]:
    present = [name for name in MODALITIES if event.modalities[name] == "present"]
    notes = []
    if event.mixed:
        # Those that agree with the whole would add nothing.
        whole = _tone(event.sentiment)
        for name in present:
            alone = event.modality_sentiment[name]
            if name in event.disagree and alone is not None and _tone(alone) != whole:
                notes.append(f"{_SENSES[name]} {_tone(alone)}")
        notes.append("mixed signals")
    if len(present) == 1:
        notes.append(f"{_SENSES[present[0]]} only")
    if "text" in present and "words are doubtful" in event.quality:
        notes.append("words doubtful")
    if event.type == "provisional":
        notes.append("still speaking")
    return notes


def _tone(sentiment: float) -> str:
    if abs(sentiment) < _NEUTRAL:
        return "calm"
    return "pleasant" if sentiment > 0 else "unpleasant"


def _plain(text: str) -> str:
    """The words in one line, with round brackets for all others; what is not seen is left out."""
    return " ".join("".join(_character(c) for c in text).split())


def _character(c: str) -> str:
    kind = unicodedata.category(c)
    if kind in ("Cc", "Zl", "Zp"):
        return " "
    if kind in ("Cf", "Cs", "Co", "Cn"):
        return ""
    if kind == "Ps" or c == "<":
        return "("
    if kind == "Pe" or c == ">":
        return ")"
    return c
