"""Transcribing at once or beside the stream: `Inline` for files, `Background` for live devices."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import DmdLiveError
from ..system.threads import join
from ..utterances.segmenter import Segment
from .base import Answer, SpeechToText

__all__ = ["Background", "Inline", "Stage", "Transcriber"]

Float = NDArray[np.float32]

Stage = Literal["early", "likely", "final"]
"""How sure the end of a segment is: the utterance goes on; it probably ends there; it does."""

_N_ANSWERS = 16
_N_WAITING = 8  # finals; words of older ones would come too late for any use
_STUCK_S = 10.0
_N_ABANDONED = 3  # threads that hang, with their recognisers: no more of them
_RETRY_S, _RETRY_MAX_S = 0.5, 10.0
_JOIN_S = 1.0


class Transcriber(Protocol):
    """Takes the sound of segments, gives their words now or later."""

    anticipates: bool
    """Whether it is worth asking for a segment before it is sure to be one."""
    streams: bool
    """Whether it wants the sound of an utterance while it goes on, wanted or not its words."""

    def ask(self, segment: Segment, samples: Float, stage: Stage) -> None:
        """Want the words of (n,) `samples`, float32 at 16 kHz. Asked again, nothing more happens.

        What is not final gives way to whatever is asked after it.
        """
        ...

    def answer(self, segment: Segment) -> Answer | None:
        """What was understood of a segment that was asked for as likely or final; None before."""
        ...

    def early(self, start_s: float) -> Answer:
        """The newest answer, of any stage, on the utterance that began then."""
        ...

    def close(self) -> None:
        """Release the recogniser."""
        ...


class Inline:
    """Transcribes when asked: the caller waits, and the same sound always gives the same words."""

    anticipates = streams = False

    def __init__(self, recogniser: SpeechToText) -> None:
        self._recogniser = recogniser
        self._last = Segment(0.0, 0.0), Answer(())

    def ask(self, segment: Segment, samples: Float, stage: Stage) -> None:
        """See `Transcriber.ask`. Raises SpeechError when the engine fails."""
        final = stage == "final"
        words = self._recogniser.transcribe(samples, segment.start_s, final=final)
        self._last = segment, Answer(words, embedding=self._recogniser.embedding)

    def answer(self, segment: Segment) -> Answer | None:
        """See `Transcriber.answer`; the last segment's only."""
        return self._last[1] if self._last[0] == segment else None

    def early(self, start_s: float) -> Answer:
        """See `Transcriber.early`; the last segment's only."""
        return self._last[1] if self._last[0].start_s == start_s else Answer(())

    def close(self) -> None:
        """Release the recogniser."""
        self._recogniser.close()


@dataclass
class _Job:
    segment: Segment
    samples: Float
    whole: bool  # its words shall be final ones
    sure: bool  # nothing takes its turn


class Background:
    """Transcribes in a thread of its own; a recogniser that fails or hangs is replaced.

    `reopen` makes another recogniser: 0.5 s after one failed, then ever more rarely up to every
    10 s. One that is at the same segment for 10 s is abandoned with its thread when the next one is
    asked for. While three hang there is no other. Answers say what is wrong meanwhile;
    `n_restarts` counts.
    """

    anticipates = True

    def __init__(self, recogniser: SpeechToText, reopen: Callable[[], SpeechToText | None]) -> None:
        self.streams = recogniser.streams
        self._reopen = reopen
        self._change = threading.Condition()
        self._jobs: list[_Job] = []
        self._answers: dict[Segment, Answer] = {}  # final ones
        self._fed: Segment | None = None  # the newest other one
        self._early = 0.0, Answer(())  # the newest answer: since when
        self._current: _Job | None = None
        self._busy_since = 0.0
        self._closed = False
        self._abandoned: list[threading.Thread] = []
        self.n_restarts = 0
        with self._change:  # a thread looks at `_thread` to see whether it has been replaced
            self._thread = self._start(recogniser)

    def ask(self, segment: Segment, samples: Float, stage: Stage) -> None:
        """See `Transcriber.ask`."""
        # Who streams has done most of the work at a likely end, and cannot go on after a real one.
        whole = stage == "final" or (stage == "likely" and not self.streams)
        with self._change:
            now = self._current
            if segment in self._answers or (now and now.segment == segment and now.whole >= whole):
                return
            if not whole and segment == self._fed:
                return
            same = [job for job in self._jobs if (job.segment, job.whole) == (segment, whole)]
            job = same[0] if same else _Job(segment, samples, whole, False)
            job.sure |= stage == "final"
            self._jobs = [*(other for other in self._jobs if other.sure and other is not job), job]
            del self._jobs[:-_N_WAITING]
            if self._is_stuck():
                self._replace()
            self._change.notify_all()

    def answer(self, segment: Segment) -> Answer | None:
        """See `Transcriber.answer`; the last 16 are kept."""
        with self._change:
            return self._answers.get(segment)

    def early(self, start_s: float) -> Answer:
        """See `Transcriber.early`."""
        with self._change:
            return self._early[1] if self._early[0] == start_s else Answer(())

    def close(self) -> None:
        """End the thread; one that hangs is left behind."""
        with self._change:
            self._closed = True
            self._change.notify_all()
        join([self._thread], _JOIN_S)

    def _is_stuck(self) -> bool:
        if not self._thread.is_alive():
            return True
        return self._current is not None and time.monotonic() - self._busy_since > _STUCK_S

    def _replace(self) -> None:
        """Leave the thread that hangs to itself; with too many of them, give up what was asked."""
        self._abandoned = [t for t in (*self._abandoned, self._thread) if t.is_alive()]
        if len(self._abandoned) > _N_ABANDONED:
            self._abandoned.pop()
            for job in self._jobs:
                self._keep(job, Answer((), "speech recogniser hangs"))
            self._jobs = []
            return
        self._current = None
        self._thread = self._start(None)

    def _keep(self, job: _Job, answer: Answer) -> None:
        if answer.words:
            self._early = job.segment.start_s, answer
        if not job.whole:
            self._fed = job.segment
            return
        self._answers[job.segment] = answer
        while len(self._answers) > _N_ANSWERS:
            del self._answers[next(iter(self._answers))]

    def _start(self, recogniser: SpeechToText | None) -> threading.Thread:
        thread = threading.Thread(
            target=self._run, args=(recogniser,), name="dmd-live-speech", daemon=True
        )
        thread.start()
        return thread

    def _run(self, recogniser: SpeechToText | None) -> None:
        me = threading.current_thread()
        answer, retry_s, delay_s = Answer(()), 0.0, _RETRY_S
        while (job := self._next(me)) is not None:
            if recogniser is not None or time.monotonic() >= retry_s:
                try:
                    recogniser = recogniser or self._open_again()
                    start_s = job.segment.start_s
                    words = recogniser.transcribe(job.samples, start_s, final=job.whole)
                    answer = Answer(words, embedding=recogniser.embedding)
                    delay_s = _RETRY_S
                except Exception as error:  # a recogniser of any make must not end the stream
                    recogniser, answer = None, Answer((), _reason(error))
                    retry_s, delay_s = time.monotonic() + delay_s, min(2 * delay_s, _RETRY_MAX_S)
            with self._change:
                if self._thread is not me:
                    break  # abandoned meanwhile
                self._current = None
                self._keep(job, answer)
        if recogniser is not None:
            recogniser.close()

    def _open_again(self) -> SpeechToText:
        self.n_restarts += 1
        recogniser = self._reopen()
        assert recogniser is not None
        return recogniser

    def _next(self, me: threading.Thread) -> _Job | None:
        with self._change:
            while not self._jobs:
                if self._closed or (self._thread is not me and self._thread.is_alive()):
                    return None
                self._change.wait()
            if self._closed:
                return None
            job = self._jobs.pop(0)
            self._current, self._busy_since = job, time.monotonic()
            return job


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, DmdLiveError) else f"{type(error).__name__}: {error}"
