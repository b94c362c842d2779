"""Several live sources as one: a thread for each, one bounded buffer, devices that come back."""

import threading
from collections.abc import Iterator

from ..errors import SourceError
from ..system.threads import join
from .base import Packet, Source
from .waiting import Waiting

__all__ = ["MergedSource"]

_JOIN_S = 0.2
_TICK_S = 0.1
_RETRY_S, _RETRY_MAX_S = 0.5, 10.0


class MergedSource:
    """Live sources that share the clock of `time.monotonic()`.

    The buffer keeps 30 s of sound (then the oldest is lost) and the newest picture only;
    `n_dropped` counts the packets lost, by modality, `n_overruns` what devices lost before. A
    source that fails is closed and opened again after 0.5 s, then ever more rarely up to every
    10 s; meanwhile `down` has the reason, by modality, and `n_restarts` counts. Without `reopen`,
    what a source raises is raised to the consumer, after what was buffered before it.
    """

    monotonic = True
    """The packets' clock is `time.monotonic()`."""

    def __init__(self, *sources: Source, reopen: bool = True) -> None:
        self._sources, self._reopen = sources, reopen
        self._threads: list[threading.Thread] = []
        self._change = threading.Condition()
        self._waiting = Waiting()
        self._error: BaseException | None = None
        self._n_running = 0
        self._closed = False
        self.down: dict[str, str] = {}
        self.n_dropped = self._waiting.n_dropped
        self.n_restarts = {"audio": 0, "vision": 0}

    @property
    def modalities(self) -> frozenset[str]:
        """Of all sources together."""
        return frozenset().union(*(source.modalities for source in self._sources))

    @property
    def n_overruns(self) -> int:
        """How often a device lost sound because it was not fetched in time."""
        return sum(getattr(source, "n_overruns", 0) for source in self._sources)

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
        join(self._threads, _JOIN_S)
        self._threads = []

    def packets(self) -> Iterator[Packet | None]:
        """Packets as they come, sound and pictures that wait together in order of time; None when
        nothing came for 0.1 s."""
        while not self._ended():
            yield self._next()

    def _read(self, source: Source) -> None:
        """A thread: one source into the buffer, until it ends or is closed."""
        error: BaseException | None = None
        delay_s = _RETRY_S
        is_open = True
        while True:
            try:
                if not is_open:
                    source.__enter__()
                    is_open = True
                for packet in source.packets():
                    with self._change:
                        if self._closed:
                            break
                        if packet is not None:
                            self._waiting.put(packet)
                        self._change.notify_all()
                    self._is_back(source)
                    delay_s = _RETRY_S
                break
            except Exception as raised:
                error = raised
            if not self._reopen or self._closed:
                break
            self._is_down(source, str(error))
            source.__exit__(None, None, None)
            is_open, error = False, None
            with self._change:
                if self._change.wait_for(lambda: self._closed, delay_s):
                    break
            delay_s = min(2.0 * delay_s, _RETRY_MAX_S)
        with self._change:
            self._n_running -= 1
            self._error = self._error or (None if self._closed else error)
            self._change.notify_all()
        if self._closed and is_open:  # it may have been opened again while it was being closed
            source.__exit__(None, None, None)

    def _is_down(self, source: Source, reason: str) -> None:
        with self._change:
            for modality in source.modalities:
                self.down[modality] = reason

    def _is_back(self, source: Source) -> None:
        if not self.down:
            return
        with self._change:
            for modality in source.modalities & self.down.keys():
                del self.down[modality]
                self.n_restarts[modality] += 1

    def _ended(self) -> bool:
        """Whether nothing is left and nothing will come. Raises what ended a source."""
        with self._change:
            if self._waiting:
                return False
            if self._error is not None and not self._closed:
                raise SourceError(str(self._error)) from self._error
            return self._closed or self._n_running == 0

    def _next(self) -> Packet | None:
        with self._change:
            if not self._waiting:
                self._change.wait(_TICK_S)
            return self._waiting.take()
