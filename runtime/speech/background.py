"""Transcribing at once or beside the stream: `Inline` for files, `Background` for live devices."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import DmdLiveError
from ..threads import join
from ..utterance import Segment
from .base import SpeechToText, Word

__all__ = ["Answer", "Background", "Inline", "Transcriber"]

Float = NDArray[np.float32]

_N_ANSWERS = 16
_STUCK_S = 10.0
_JOIN_S = 1.1


@dataclass(frozen=True)
class Answer:
    """The words of a segment; or none, and what went wrong."""

    words: tuple[Word, ...]
    error: str = ""


class Transcriber(Protocol):
    """Takes the sound of segments, gives their words now or later."""

    anticipates: bool
    """Whether it is worth asking for a segment before it is sure to be one."""

    def ask(self, segment: Segment, samples: Float, *, final: bool) -> None:
        """Want the words of (n,) `samples`, float32 at 16 kHz. Asked again, nothing more happens.

        One that is not `final` gives way to whatever is asked after it.
        """
        ...

    def answer(self, segment: Segment) -> Answer | None:
        """What was understood; None while it is not known."""
        ...

    def close(self) -> None:
        """Release the recogniser."""
        ...


class Inline:
    """Transcribes when asked: the caller waits, and the same sound always gives the same words."""

    anticipates = False

    def __init__(self, recogniser: SpeechToText) -> None:
        self._recogniser = recogniser
        self._last: tuple[Segment, Answer] | None = None

    def ask(self, segment: Segment, samples: Float, *, final: bool) -> None:
        """See `Transcriber.ask`. Raises SpeechError when the engine fails."""
        words = self._recogniser.transcribe(samples, segment.start_s)
        self._last = segment, Answer(words)

    def answer(self, segment: Segment) -> Answer | None:
        """See `Transcriber.answer`; the last segment's only."""
        return self._last[1] if self._last and self._last[0] == segment else None

    def close(self) -> None:
        """Release the recogniser."""
        self._recogniser.close()


@dataclass
class _Job:
    segment: Segment
    samples: Float
    final: bool


class Background:
    """Transcribes in a thread of its own; a recogniser that fails or hangs is replaced.

    `reopen` makes another recogniser. One that is at the same segment for 10 s is abandoned with
    its thread when the next one is asked for.
    """

    anticipates = True

    def __init__(self, recogniser: SpeechToText, reopen: Callable[[], SpeechToText | None]) -> None:
        self._reopen = reopen
        self._change = threading.Condition()
        self._jobs: list[_Job] = []
        self._answers: dict[Segment, Answer] = {}
        self._current: Segment | None = None
        self._busy_since = 0.0
        self._closed = False
        self.n_restarts = 0
        with self._change:  # a thread looks at `_thread` to see whether it has been replaced
            self._thread = self._start(recogniser)

    def ask(self, segment: Segment, samples: Float, *, final: bool) -> None:
        """See `Transcriber.ask`."""
        with self._change:
            if segment in self._answers or segment == self._current:
                return
            queued = any(job.segment == segment for job in self._jobs)
            self._jobs = [job for job in self._jobs if job.final or job.segment == segment]
            if queued:
                for job in self._jobs:
                    job.final |= final and job.segment == segment
            else:
                self._jobs.append(_Job(segment, samples, final))
            stuck = self._current is not None and (time.monotonic() - self._busy_since > _STUCK_S)
            if stuck or not self._thread.is_alive():
                self.n_restarts += 1
                self._current = None
                self._thread = self._start(None)
            self._change.notify_all()

    def answer(self, segment: Segment) -> Answer | None:
        """See `Transcriber.answer`; the last 16 are kept."""
        with self._change:
            return self._answers.get(segment)

    def close(self) -> None:
        """End the thread; one that hangs is left behind."""
        with self._change:
            self._closed = True
            self._change.notify_all()
        join([self._thread], _JOIN_S)

    def _start(self, recogniser: SpeechToText | None) -> threading.Thread:
        thread = threading.Thread(
            target=self._run, args=(recogniser,), name="dmd-live-speech", daemon=True
        )
        thread.start()
        return thread

    def _run(self, recogniser: SpeechToText | None) -> None:
        me = threading.current_thread()
        while (job := self._next(me)) is not None:
            try:
                recogniser = recogniser or self._reopen()
                assert recogniser is not None
                answer = Answer(recogniser.transcribe(job.samples, job.segment.start_s))
            except DmdLiveError as error:
                recogniser, answer = None, Answer((), str(error))
            except Exception as error:  # a recogniser of any make must not end the stream
                recogniser, answer = None, Answer((), f"{type(error).__name__}: {error}")
            with self._change:
                if self._thread is not me:
                    break  # abandoned meanwhile
                self._current = None
                self._answers[job.segment] = answer
                while len(self._answers) > _N_ANSWERS:
                    del self._answers[next(iter(self._answers))]
        if recogniser is not None:
            recogniser.close()

    def _next(self, me: threading.Thread) -> _Job | None:
        with self._change:
            while not self._jobs:
                if self._closed or (self._thread is not me and self._thread.is_alive()):
                    return None
                self._change.wait()
            if self._closed:
                return None
            job = self._jobs.pop(0)
            self._current, self._busy_since = job.segment, time.monotonic()
            return job
