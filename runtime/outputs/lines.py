"""An event as one line of output."""

from collections.abc import Callable

from ..schemas import EmotionEvent

__all__ = ["FORMATS", "readable"]


def readable(event: EmotionEvent) -> str:
    """One line for people: when, which emotion, how sure, sentiment, seen from what, the words.

    A question mark follows an uncertain emotion.
    """
    seen = "+".join(name for name, state in event.modalities.items() if state == "present")
    emotion = f"{event.emotion}?" if event.uncertain else event.emotion
    emotion += " ..." if event.type == "provisional" else ""
    return (
        f"{event.start_s:7.2f}-{event.end_s:.2f} s  {emotion:<14} {event.confidence:4.0%}  "
        f"sentiment {event.sentiment:+.1f}  [{seen}]  {event.text or '(no words)'}"
    )


FORMATS: dict[str, Callable[[EmotionEvent], str]] = {
    "text": readable,
    "json": EmotionEvent.to_json,
    "prompt": EmotionEvent.prompt,
}
"""What makes the line, by the names of `--format`."""
