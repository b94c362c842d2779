"""Packets between the threads that bring them and the stream that reads them."""

from collections import deque

from ..features.spec import SPEC
from .base import AudioChunk, Packet, VideoFrame

__all__ = ["Waiting"]

_N_SAMPLES = 30 * SPEC.sample_rate_hz


class Waiting:
    """30 s of sound, then the oldest is lost, and the newest picture only.

    `n_dropped` counts the packets lost, by modality. Not for several threads at once: whoever has
    one holds a lock.
    """

    def __init__(self) -> None:
        self.n_dropped = {"audio": 0, "vision": 0}
        self._sound: deque[AudioChunk] = deque()
        self._n_samples = 0  # of all that sound
        self._picture: VideoFrame | None = None

    def __bool__(self) -> bool:
        return bool(self._sound) or self._picture is not None

    def put(self, packet: Packet) -> None:
        """Append a packet."""
        if isinstance(packet, VideoFrame):
            self.n_dropped["vision"] += self._picture is not None
            self._picture = packet
            return
        self._sound.append(packet)
        self._n_samples += len(packet.samples)
        # The newest stays, however long it is.
        while len(self._sound) > 1 and self._n_samples > _N_SAMPLES:
            self._oldest()
            self.n_dropped["audio"] += 1

    def take(self) -> Packet | None:
        """The packet that comes first in time; None when none waits."""
        picture = self._picture
        if picture is not None and not (self._sound and self._sound[0].start_s < picture.time_s):
            self._picture = None
            return picture
        return self._oldest() if self._sound else None

    def _oldest(self) -> AudioChunk:
        chunk = self._sound.popleft()
        self._n_samples -= len(chunk.samples)
        return chunk
