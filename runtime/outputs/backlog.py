"""Events that wait for an output that is slow or out of order."""

import threading
import time
from collections import deque
from collections.abc import Iterable

from ..schemas import EmotionEvent

__all__ = ["Backlog", "first_to_lose"]


def first_to_lose(kinds: Iterable[str]) -> int:
    """Which of events that wait, by their types, makes room: the oldest early estimate, or else the
    oldest final event."""
    return next((index for index, kind in enumerate(kinds) if kind == "provisional"), 0)


class Backlog:
    """A bounded queue between a stream's thread and an output's thread.

    `put` never waits. When `n_kept` events wait, the oldest early estimate makes room, and the
    oldest final event only where no early estimate waits. `n_lost` counts both, by type.
    """

    def __init__(self, n_kept: int) -> None:
        self._n_kept = n_kept
        self._waiting: deque[EmotionEvent] = deque()
        self._change = threading.Condition()
        self._until: float | None = None  # when time is up, once the stream has ended
        self.n_lost = {"provisional": 0, "final": 0}

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, event: EmotionEvent) -> None:
        """Append an event; after `finish` it is lost."""
        with self._change:
            if self._until is not None:
                self.n_lost[event.type] += 1
                return
            self._waiting.append(event)
            self._make_room()
            self._change.notify_all()

    def put_back(self, event: EmotionEvent) -> None:
        """Take back an event that could not be sent; it is the next one again."""
        with self._change:
            self._waiting.appendleft(event)
            self._make_room()

    def take(self, timeout_s: float) -> EmotionEvent | None:
        """The next event; None when none comes for `timeout_s`, or the stream has ended."""
        with self._change:
            if not self._waiting and self._until is None:
                self._change.wait(timeout_s)
            return self._waiting.popleft() if self._waiting else None

    def drop(self, *, finals: bool) -> None:
        """Forget the early estimates that wait, and the final events too if `finals`."""
        with self._change:
            kept = [] if finals else [e for e in self._waiting if e.type == "final"]
            for event in self._waiting:
                self.n_lost[event.type] += finals or event.type == "provisional"
            self._waiting = deque(kept)

    def pause(self, for_s: float) -> None:
        """Wait; `finish` cuts it short."""
        with self._change:
            before = self._until
            self._change.wait_for(lambda: self._until != before, for_s)

    def finish(self, within_s: float) -> None:
        """No event will come, and what waits has `within_s` left; a second call may cut it down."""
        with self._change:
            end = time.monotonic() + within_s
            self._until = end if self._until is None else min(self._until, end)
            self._change.notify_all()

    @property
    def finished(self) -> bool:
        """Whether no event will come and none waits, or time is up."""
        return self._until is not None and (not self._waiting or self.left_s <= 0.0)

    @property
    def left_s(self) -> float:
        """Time that is left after `finish`; endless before it."""
        return float("inf") if self._until is None else self._until - time.monotonic()

    def _make_room(self) -> None:
        if len(self._waiting) <= self._n_kept:
            return
        index = first_to_lose(event.type for event in self._waiting)
        self.n_lost[self._waiting[index].type] += 1
        del self._waiting[index]
