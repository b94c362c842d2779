"""The node's parameters: those of `EmotionStream`, and a few of its own. No ROS here."""

import types
import typing
from dataclasses import dataclass, fields
from typing import Any

from dmd_live.config import option
from dmd_live.errors import UsageError
from dmd_live.stream.options import StreamOptions

__all__ = ["NodeOptions", "Parameter", "options_of", "table"]

_ABSENT = {str: "", int: 0, float: 0.0, bool: False}
"""ROS parameters cannot be left out: these stand for None."""


@dataclass(frozen=True, kw_only=True)
class NodeOptions(StreamOptions):
    """What `EmotionStream` can be asked for, and where the node finds sound and pictures."""

    image_topic: str | None = option(
        None,
        help="pictures: sensor_msgs/Image, or CompressedImage where the name ends in /compressed; "
        "with audio_topic",
    )
    audio_topic: str | None = option(
        None, help="sound in place of a microphone: raw S16LE in audio_common_msgs"
    )
    audio_stamped: bool = option(
        False, help="audio_topic has AudioDataStamped messages, not AudioData"
    )
    audio_rate_hz: int = option(16_000, help="sample rate of audio_topic")
    audio_channels: int = option(1, help="channels of audio_topic, interleaved")
    frame_id: str = option("", help="of the header of every expression")
    autostart: bool = option(True, help="configure and activate when the node starts")

    @property
    def topics(self) -> bool:
        """Whether sound comes from a topic."""
        return self.audio_topic is not None

    def checked(self) -> "NodeOptions":
        """Itself. Raises UsageError, with what to do, for options that do not go together."""
        if self.image_topic is not None and not self.topics:
            raise UsageError("utterances are found by voice: image_topic needs an audio_topic")
        if not 8_000 <= self.audio_rate_hz <= 192_000 or not 1 <= self.audio_channels <= 64:
            raise UsageError("audio_rate_hz is 8000 to 192000, audio_channels 1 to 64")
        if self.camera is not None and self.microphone is None:
            raise UsageError("utterances are found by voice: a camera needs a microphone")
        self.check(own_source=self.topics)
        return self

    def for_stream(self) -> dict[str, Any]:
        """The keywords of `EmotionStream`."""
        return {item.name: getattr(self, item.name) for item in fields(StreamOptions)}


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One ROS parameter. `default` has the type that all its values have."""

    name: str
    default: str | int | float | bool
    help: str
    choices: tuple[str, ...] = ()


def table() -> list[Parameter]:
    """All parameters; names, defaults, choices and help are those of the options."""
    hints = typing.get_type_hints(NodeOptions)
    found = []
    for item in fields(NodeOptions):
        absent = item.default is None
        kind = _kind(hints[item.name])
        found.append(
            Parameter(
                name=item.name,
                default=_ABSENT[kind] if absent else kind(item.default),
                help=item.metadata["help"],
                choices=tuple(item.metadata["choices"] or ()),
            )
        )
    return found


def options_of(values: dict[str, Any]) -> NodeOptions:
    """Options from the values of parameters. Raises UsageError."""
    hints = typing.get_type_hints(NodeOptions)
    given = {}
    for name, value in values.items():
        optional = isinstance(hints[name], types.UnionType)
        given[name] = None if optional and value == _ABSENT[_kind(hints[name])] else value
    return NodeOptions(**given).checked()


def _kind(hint: Any) -> type:
    """The type of an option's values: `str` of `str | None`."""
    if isinstance(hint, types.UnionType):
        return next(kind for kind in typing.get_args(hint) if kind is not type(None))
    return hint
