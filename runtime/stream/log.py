"""The events of a stream, for any number of readers."""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial

from ..schemas import EmotionEvent

__all__ = ["EventLog"]

_N_KEPT = 1_000  # events of a live stream


class EventLog:
    """Events in the order in which they came. Every reader gets all of them, at its own pace.

    A `live` log keeps the last 1,000, and drops an early estimate that a newer event has overtaken.
    """

    def __init__(self, *, live: bool) -> None:
        self._live = live
        self._change = threading.Condition()
        self._kept: deque[tuple[int, EmotionEvent]] = deque(maxlen=_N_KEPT if live else None)
        self._counts = {"provisional": 0, "final": 0}
        self._wakers: list[Callable[[], object]] = []
        self._error: BaseException | None = None
        self._ended = False

    @property
    def ended(self) -> bool:
        """Whether no event will come."""
        return self._ended

    @property
    def counts(self) -> dict[str, int]:
        """Events so far, by type."""
        with self._change:
            return dict(self._counts)

    def latest(self) -> EmotionEvent | None:
        """The newest event, if any."""
        with self._change:
            return self._kept[-1][1] if self._kept else None

    def add(self, event: EmotionEvent) -> None:
        """Append an event and wake the readers; nothing is appended after the end."""
        with self._change:
            if self._ended:
                return
            number = self._counts["provisional"] + self._counts["final"]
            self._counts[event.type] += 1
            if self._live and self._kept and self._kept[-1][1].type == "provisional":
                self._kept.pop()  # overtaken
            self._kept.append((number, event))
            self._change.notify_all()
        self._wake()

    def end(self, error: BaseException | None) -> None:
        """No event will come; readers end, or raise `error`. The first end counts."""
        with self._change:
            if self._ended:
                return
            self._error, self._ended = error, True
            self._change.notify_all()
        self._wake()

    def after(self, seen: int, timeout_s: float | None) -> tuple[int, EmotionEvent] | None:
        """The oldest event that is newer than number `seen`, and its number.

        None when none comes in time, or at the end; then raises what the log ended with.
        """
        with self._change:
            self._change.wait_for(lambda: self._ended or self._newest() > seen, timeout_s)
            found, ended = self._after(seen), self._ended
        if found is None and ended:
            self._raise()
        return found

    def exhausted(self, seen: int) -> bool:
        """Whether no event newer than number `seen` will come."""
        with self._change:
            return self._ended and self._newest() <= seen

    def __iter__(self) -> Iterator[EmotionEvent]:
        """Events from the oldest one on, as they come; raises what the log ended with."""
        seen = -1
        while True:
            with self._change:
                while not self._ended and self._newest() <= seen:
                    self._change.wait()
                found = self._after(seen)
            if found is None:
                self._raise()
                return
            seen, event = found
            yield event

    async def __aiter__(self) -> AsyncIterator[EmotionEvent]:
        """The same for asyncio: the event loop goes on while nothing comes."""
        loop, wake, seen = asyncio.get_running_loop(), asyncio.Event(), -1
        waker = partial(loop.call_soon_threadsafe, wake.set)
        self._wakers.append(waker)
        try:
            while True:
                wake.clear()
                with self._change:
                    found, ended = self._after(seen), self._ended
                if found is not None:
                    seen, event = found
                    yield event
                elif ended:
                    self._raise()
                    return
                else:
                    await wake.wait()
        finally:
            self._wakers.remove(waker)

    def _wake(self) -> None:
        for waker in tuple(self._wakers):
            try:
                waker()
            except RuntimeError:  # its event loop has been closed
                continue

    def _newest(self) -> int:
        return self._kept[-1][0] if self._kept else -1

    def _after(self, seen: int) -> tuple[int, EmotionEvent] | None:
        """The oldest event that is newer than number `seen`."""
        if self._newest() <= seen:
            return None
        # Numbers rise by one, or by more where an event was overtaken: look no further than this.
        index = max(0, min(seen + 1 - self._kept[0][0], len(self._kept) - 1))
        while index > 0 and self._kept[index - 1][0] > seen:
            index -= 1
        return self._kept[index]

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error
