"""What clients still have to be sent: a bounded queue for each, and the last finals for new ones.

All of it lives on the server's event loop.
"""

import asyncio
import json
from collections import deque
from collections.abc import Iterable

from ...schemas import EmotionEvent
from ..backlog import first_to_lose

__all__ = ["Feed", "Hub"]

_N_WAITING = 256  # events
_N_EARLY = 16  # early estimates among them
_N_KEPT = 1_000  # finals, for clients that come later
_TELL_S = 1.0  # between two messages on what was lost


class Feed:
    """The queue of one client.

    `backlog`: what it is sent first. When it falls behind, the oldest early estimates are lost
    first: more than 16 never wait. Finals are lost when 256 wait. `state`: the newest one waits
    only.
    """

    def __init__(self, *, provisional: bool, state: bool, backlog: Iterable[str] = ()) -> None:
        self.wants_state = state
        self.n_lost = {"provisional": 0, "final": 0}
        self._provisional = provisional
        self._backlog = deque(backlog)
        self._waiting: deque[tuple[str, str]] = deque()  # type, JSON
        self._n_early = 0
        self._state: str | None = None
        self._untold, self._told_s = False, 0.0
        self._wake = asyncio.Event()

    def put(self, kind: str, text: str) -> None:
        """Add an event; `kind` is its type."""
        early = kind == "provisional"
        if early and not self._provisional:
            return
        self._waiting.append((kind, text))
        self._n_early += early
        if self._n_early > _N_EARLY or len(self._waiting) > _N_WAITING:
            self._lose()
        self._wake.set()

    def put_state(self, text: str) -> None:
        """Replace the state that waits."""
        self._state = text
        self._wake.set()

    async def next(self) -> str:
        """The next message, when there is one."""
        while True:
            now_s = asyncio.get_running_loop().time()
            if self._untold and now_s - self._told_s >= _TELL_S:
                self._untold, self._told_s = False, now_s
                return json.dumps({"lost": self.n_lost})
            if self._backlog:
                return self._backlog.popleft()
            if self._waiting:
                kind, text = self._waiting.popleft()
                self._n_early -= kind == "provisional"
                return text
            if self._state is not None:
                text, self._state = self._state, None
                return text
            await self._woken(self._told_s + _TELL_S - now_s if self._untold else None)

    async def _woken(self, timeout_s: float | None) -> None:
        self._wake.clear()
        try:
            await asyncio.wait_for(self._wake.wait(), timeout_s)
        except asyncio.TimeoutError:  # until 3.10 not the built-in one
            return

    def _lose(self) -> None:
        """The oldest early estimate, or else the oldest final."""
        index = first_to_lose(kind for kind, _ in self._waiting)
        kind, _ = self._waiting[index]
        del self._waiting[index]
        self._n_early -= kind == "provisional"
        self.n_lost[kind] += 1
        self._untold = True


class Hub:
    """Hands every event to all feeds. `n_max`: clients at once."""

    def __init__(self, *, n_max: int) -> None:
        self._n_max = n_max
        self._feeds: set[Feed] = set()
        self._finals: deque[str] = deque(maxlen=_N_KEPT)
        self._n_lost = {"provisional": 0, "final": 0}
        self.latest = "null"
        """The newest event's JSON."""
        self.latest_s: float | None = None
        """When it came, on the loop's clock."""

    @property
    def full(self) -> bool:
        """Whether nobody may join."""
        return len(self._feeds) >= self._n_max

    @property
    def stats(self) -> dict[str, object]:
        """Clients now, and what slow ones have lost."""
        lost = dict(self._n_lost)
        for feed in self._feeds:
            for kind, n in feed.n_lost.items():
                lost[kind] += n
        return {"clients": len(self._feeds), "lost": lost}

    def join(self, *, provisional: bool, last: int, state: str | None = None) -> Feed:
        """A new client's feed: the `state`, if it wants to know it, then the `last` finals."""
        last = min(last, len(self._finals))
        backlog = list(self._finals)[len(self._finals) - last :]
        wants_state = state is not None
        if state is not None:
            backlog.insert(0, state)
        feed = Feed(provisional=provisional, state=wants_state, backlog=backlog)
        self._feeds.add(feed)
        return feed

    def leave(self, feed: Feed) -> None:
        """The client has gone."""
        self._feeds.discard(feed)
        for kind, n in feed.n_lost.items():
            self._n_lost[kind] += n

    def add(self, event: EmotionEvent) -> None:
        """A new event."""
        self.latest, self.latest_s = event.to_json(), asyncio.get_running_loop().time()
        if event.type == "final":
            self._finals.append(self.latest)
        for feed in self._feeds:
            feed.put(event.type, self.latest)

    def watchers(self) -> list[Feed]:
        """Who wants to know the state."""
        return [feed for feed in self._feeds if feed.wants_state]
