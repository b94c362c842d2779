"""DMD Live: one emotion per utterance from words, voice and face; live, offline, embeddable.

Importing this package loads numpy and the standard library only.
"""

import os

from .errors import DmdLiveError
from .live import EmotionStream
from .outputs.sinks import Sink
from .schemas import EmotionEvent, Person
from .sources.base import AudioChunk, Source, VideoFrame
from .version import __version__

__all__ = [
    "AudioChunk",
    "DmdLiveError",
    "EmotionEvent",
    "EmotionStream",
    "Person",
    "Sink",
    "Source",
    "VideoFrame",
    "__version__",
]

# From 1.29 on, onnxruntime reports to its maker unless this is set before it is first imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
