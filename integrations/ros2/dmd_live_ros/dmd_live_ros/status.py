"""What diagnostics say of a stream, as plain data. No ROS here."""

from dataclasses import dataclass
from typing import Any

__all__ = ["ERROR", "OK", "WARN", "Status", "status_of"]

OK, WARN, ERROR = 0, 1, 2
"""Levels of diagnostic_msgs/DiagnosticStatus."""
_SILENT_S = 3.0


@dataclass(frozen=True, kw_only=True)
class Status:
    """The fields of diagnostic_msgs/DiagnosticStatus but for its name."""

    level: int
    message: str
    values: dict[str, str]


def status_of(
    stats: dict[str, Any] | None, *, error: str = "", refused: str = "", silent_s: float = 0.0
) -> Status:
    """From `EmotionStream.stats`, None while no stream is open.

    `error`: why the stream ended. `refused`: why a message of a topic could not be used.
    `silent_s`: for how long no sound has come from a topic.
    """
    if stats is None:
        return Status(level=ERROR if error else OK, message=error or "inactive", values={})
    values = {
        name: "" if value is None else str(value)
        for name, value in stats.items()
        if not isinstance(value, dict)
    }
    for name, value in stats.items():
        if isinstance(value, dict):
            values |= {f"{name}.{key}": str(inner) for key, inner in value.items()}
    if error:
        return Status(level=ERROR, message=error, values=values)
    wrong = [f"{name}: {why}" for name, why in stats["down"].items()]
    wrong += [f"message refused: {refused}"] if refused else []
    wrong += [f"no sound from audio_topic for {silent_s:.0f} s"] if silent_s > _SILENT_S else []
    if wrong:
        return Status(level=WARN, message="; ".join(wrong), values=values)
    return Status(level=OK, message="listening", values=values)
