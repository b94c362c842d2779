"""DMD Live: one emotion per utterance from words, voice and face; live, offline, embeddable.

Importing this package loads numpy and the standard library only.
"""

from .errors import DmdLiveError
from .live import EmotionStream
from .schemas import EmotionEvent
from .sources.base import AudioChunk, Source, VideoFrame

__all__ = [
    "AudioChunk",
    "DmdLiveError",
    "EmotionEvent",
    "EmotionStream",
    "Source",
    "VideoFrame",
    "__version__",
]

__version__ = "0.1.0"
