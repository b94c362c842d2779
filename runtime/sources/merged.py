"""Several live sources as one: a thread for each, one bounded buffer."""

import threading
from collections import deque
from collections.abc import Iterator

from ..errors import SourceError
from ..features.spec import SPEC
from .base import AudioChunk, Packet, Source, VideoFrame

__all__ = ["MergedSource"]

_AUDIO_S = 30.0
_JOIN_S = 2.0


class MergedSource:
    """Live sources that share the clock of `time.monotonic()`.

    The buffer keeps 30 s of sound (then the oldest is lost) and the newest picture only;
    `n_dropped` counts the packets lost, by modality. What a source raises is raised to the
    consumer, after what was buffered before it.
    """

    def __init__(self, *sources: Source) -> None:
        self._sources = sources
        self._threads: list[threading.Thread] = []
        self._change = threading.Condition()
        self._sound: deque[AudioChunk] = deque()
        self._picture: VideoFrame | None = None
        self._error: BaseException | None = None
        self._n_running = 0
        self._closed = False
        self.n_dropped = {"audio": 0, "vision": 0}

    @property
    def modalities(self) -> frozenset[str]:
        """Of all sources together."""
        return frozenset().union(*(source.modalities for source in self._sources))

    def __enter__(self) -> "MergedSource":
        opened: list[Source] = []
        try:
            for source in self._sources:
                source.__enter__()
                opened.append(source)
        except BaseException:
            for source in opened:
                source.__exit__(None, None, None)
            raise
        self._n_running = len(self._sources)
        for source in self._sources:
            name = f"dmd-live-{'-'.join(sorted(source.modalities))}"
            thread = threading.Thread(target=self._read, args=(source,), name=name, daemon=True)
            self._threads.append(thread)
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        with self._change:
            self._closed = True
            self._change.notify_all()
        for source in self._sources:
            source.__exit__(None, None, None)
        for thread in self._threads:
            thread.join(_JOIN_S)
        self._threads = []

    def packets(self) -> Iterator[Packet]:
        """Packets as they come, sound and pictures that wait together in order of time."""
        while (packet := self._next()) is not None:
            yield packet

    def _read(self, source: Source) -> None:
        """A thread: one source into the buffer, until it ends, fails or is closed."""
        error: BaseException | None = None
        try:
            for packet in source.packets():
                with self._change:
                    if self._closed:
                        break
                    self._put(packet)
                    self._change.notify_all()
        except Exception as raised:
            error = raised
        with self._change:
            self._n_running -= 1
            self._error = self._error or (None if self._closed else error)
            self._change.notify_all()

    def _put(self, packet: Packet) -> None:
        if isinstance(packet, VideoFrame):
            self.n_dropped["vision"] += self._picture is not None
            self._picture = packet
            return
        self._sound.append(packet)
        limit_s = packet.start_s + len(packet.samples) / SPEC.sample_rate_hz - _AUDIO_S
        while self._sound[0].start_s < limit_s:
            self._sound.popleft()
            self.n_dropped["audio"] += 1

    def _next(self) -> Packet | None:
        with self._change:
            while not self._sound and self._picture is None:
                if self._closed:
                    return None
                if self._error is not None:
                    raise SourceError(str(self._error)) from self._error
                if self._n_running == 0:
                    return None
                self._change.wait()
            picture = self._picture
            if picture is not None and not (
                self._sound and self._sound[0].start_s < picture.time_s
            ):
                self._picture = None
                return picture
            return self._sound.popleft()
