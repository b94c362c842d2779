"""An output with a thread of its own: it may be slow, fail and come back without harm."""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Protocol

from ..schemas import EmotionEvent
from ..system import threads
from .backlog import Backlog

__all__ = ["CLOSE_S", "Carrier", "Outlet", "finish_together"]

_N_KEPT = 1_000  # events that wait for an output
CLOSE_S = 0.6
"""What waits when a stream is closed has so long; closing takes 2 s at most."""
_LATE_S = 0.6  # for what the carrier still has to end after that
_FIRST_S, _LONGEST_S = 0.5, 30.0  # between one try and the next
_CALM_S = 60.0  # an output that fails later than this after its last failure fails anew

_logger = logging.getLogger("dmd_live")


class Carrier(Protocol):
    """What brings events to one place. Everything is called on the outlet's thread.

    `name` is how messages call it. `idle_s`: how long it may be left alone. What goes wrong is an
    OSError with a reason; `open` is then called again, after `close`.
    """

    name: str
    idle_s: float

    def open(self) -> None:
        """Make ready for `send`."""
        ...

    def send(self, event: EmotionEvent, over: Callable[[], bool]) -> None:
        """Bring one event. May wait, but not for longer than `over()` is false."""
        ...

    def idle(self) -> None:
        """Nothing came for `idle_s`: look whether all is well."""
        ...

    def close(self, over: Callable[[], bool]) -> None:
        """Release everything, also what `open` left half done. May wait until `over()`."""
        ...


class Outlet:
    """A sink that hands events to a carrier on a thread of its own.

    `emit` never waits. A carrier that fails is told once, and tried again with growing pauses;
    meanwhile up to 1,000 events wait, final ones first. `early`: whether early estimates are
    wanted. What was lost is told at the end, and `stats` counts it.
    """

    def __init__(self, carrier: Carrier, *, early: bool = True, n_kept: int = _N_KEPT) -> None:
        self._carrier, self._early = carrier, early
        self._backlog = Backlog(n_kept)
        self._thread: threading.Thread | None = None
        self._opened, self._told = False, ""
        self._n_sent, self._n_failures, self._failed_s = 0, 0, float("-inf")
        self._error = ""
        self._in_hand: EmotionEvent | None = None
        self._ending, self._ended = threading.Lock(), False

    def __enter__(self) -> "Outlet":
        kind = self._carrier.name.split()[0]
        self._thread = threading.Thread(target=self._work, name=f"dmd-live-{kind}", daemon=True)
        try:
            self._thread.start()
        except BaseException:  # Ctrl-C while it starts: `__exit__` is not called after this
            self._backlog.finish(0.0)
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.finish(CLOSE_S)
        if self._thread is not None:
            threads.join([self._thread], max(0.0, self._backlog.left_s) + _LATE_S)
            self._end()  # if it hangs

    def attach(self, stream: Any) -> None:
        """Let the carrier know the stream, if it takes commands."""
        if (take := getattr(self._carrier, "attach", None)) is not None:
            take(stream)

    def emit(self, event: EmotionEvent) -> None:
        """Take one event."""
        if self._early or event.type == "final":
            self._backlog.put(event)

    def finish(self, within_s: float) -> None:
        """No event will come; what waits has `within_s` left. Returns at once."""
        self._backlog.finish(within_s)

    def join(self) -> None:
        """Wait until all is brought, or the time that `finish` gave is up."""
        if self._thread is not None and self._backlog.left_s < float("inf"):
            self._thread.join(max(0.0, self._backlog.left_s) + _LATE_S)

    @property
    def stats(self) -> dict[str, Any]:
        """`name`; events `sent`, `waiting`, `lost` (by type); `failures` so far; `error`: why it
        does not work now, "" while it does."""
        return {
            "name": self._carrier.name,
            "sent": self._n_sent,
            "waiting": len(self._backlog),
            "lost": dict(self._backlog.n_lost),
            "failures": self._n_failures,
            "error": self._error,
        }

    def _over(self) -> bool:
        return self._backlog.left_s <= 0.0

    def _work(self) -> None:
        """The thread: carry until the end, and start anew after each failure."""
        wait_s = _FIRST_S
        while not self._backlog.finished:
            try:
                self._carry()
            except Exception as error:
                calm = time.monotonic() - self._failed_s > _CALM_S
                wait_s = _FIRST_S if calm else min(2.0 * wait_s, _LONGEST_S)
                self._fail(_reason(error), calm=calm)
                self._shut(lambda: True)
                self._backlog.drop(finals=False)  # they are stale when it works again
                self._backlog.pause(min(wait_s, max(0.0, self._backlog.left_s)))
        self._shut(self._over)
        self._end()

    def _carry(self) -> None:
        """Until the end; raises what the carrier raises."""
        if not self._opened:
            self._opened = True
            self._carrier.open()
        while not self._backlog.finished:
            event = self._backlog.take(self._carrier.idle_s)
            if event is None:
                self._carrier.idle()
            else:
                self._send(event)
            if self._told:
                _logger.warning("%s works again", self._carrier.name)
            self._error = self._told = ""

    def _send(self, event: EmotionEvent) -> None:
        self._in_hand = event
        try:
            self._carrier.send(event, self._over)
            self._n_sent += 1
        except OSError:
            self._backlog.put_back(event)
            raise
        except Exception:  # a fault in the carrier: the next event may pass
            self._backlog.n_lost[event.type] += 1
            raise
        finally:
            self._in_hand = None

    def _fail(self, reason: str, *, calm: bool) -> None:
        self._n_failures += 1
        self._failed_s, self._error = time.monotonic(), reason
        if calm or (self._told and self._told != reason):
            self._told = reason
            _logger.warning("%s: %s; it is tried again", self._carrier.name, reason)

    def _shut(self, over: Callable[[], bool]) -> None:
        if self._opened:
            self._opened = False
            with suppress(OSError):
                self._carrier.close(over)

    def _end(self) -> None:
        """Tell what is lost, once."""
        with self._ending:
            if self._ended:
                return
            self._ended = True
        self._backlog.drop(finals=True)
        lost = dict(self._backlog.n_lost)
        if self._in_hand is not None:
            lost[self._in_hand.type] += 1
        parts = [
            f"{lost[kind]} {what}{'s' if lost[kind] > 1 else ''}"
            for kind, what in (("final", "final event"), ("provisional", "early estimate"))
            if lost[kind]
        ]
        if parts:
            _logger.warning("%s: lost %s", self._carrier.name, " and ".join(parts))


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return str(error.strerror or error)
    return f"{type(error).__name__}: {error}"


def finish_together(outlets: Iterable[Outlet], within_s: float) -> None:
    """Wait until every outlet has brought what it has, for `within_s` at most in all."""
    outlets = tuple(outlets)
    for outlet in outlets:
        outlet.finish(within_s)
    for outlet in outlets:
        outlet.join()
