"""When the stream must not listen: while the robot itself speaks."""

import threading
import time
from collections import deque
from dataclasses import dataclass

__all__ = ["Muting"]

_N_KEPT = 1_000
_FOREVER = float("inf")


@dataclass
class _Interval:
    from_s: float
    to_s: float
    drop: bool


class Muting:
    """Intervals of `time.monotonic()` in which sound does not count; for any thread.

    `mute` and `unmute` switch. `hold` and `release` nest, and add to that: the stream listens again
    when nothing mutes it any more. `drop`: an utterance that is open then is thrown away, else it
    is judged as far as it went.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._intervals: deque[_Interval] = deque(maxlen=_N_KEPT)
        self._switched = False
        self._n_holds = 0

    @property
    def muted(self) -> bool:
        """Whether sound of this moment does not count."""
        return self.at(time.monotonic()) is not None

    def mute(self, *, drop: bool = False) -> None:
        """From now on sound does not count."""
        with self._lock:
            self._switched = True
            self._begin(drop)

    def unmute(self) -> None:
        """From now on it counts again, unless a `hold` lasts."""
        with self._lock:
            self._switched = False
            self._end(0.0)

    def hold(self, *, drop: bool = False) -> None:
        """Sound does not count until `release`."""
        with self._lock:
            self._n_holds += 1
            self._begin(drop)

    def release(self, tail_s: float) -> None:
        """The end of a `hold`; it lasts `tail_s` longer, for the room's echo."""
        with self._lock:
            self._n_holds -= 1
            self._end(tail_s)

    def at(self, time_s: float) -> bool | None:
        """None when sound of that time counts, else whether an open utterance is dropped."""
        with self._lock:
            for interval in reversed(self._intervals):
                if interval.from_s <= time_s < interval.to_s:
                    return interval.drop
                if interval.to_s <= time_s:
                    break
        return None

    def _begin(self, drop: bool) -> None:
        now = time.monotonic()
        last = self._intervals[-1] if self._intervals else None
        if last is not None and last.to_s > now:  # on already, or in its tail
            last.to_s, last.drop = _FOREVER, last.drop or drop
        else:
            self._intervals.append(_Interval(now, _FOREVER, drop))

    def _end(self, tail_s: float) -> None:
        if not self._switched and self._n_holds == 0 and self._intervals:
            last = self._intervals[-1]
            last.to_s = min(last.to_s, time.monotonic() + tail_s)
