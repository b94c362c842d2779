"""Utterances that have ended: their words, their parts, and what they join."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..features.embedding import blended
from ..features.text import TextFeatures
from ..judging.evidence import Evidence
from ..speech.background import Transcriber
from ..speech.base import Answer, Word
from ..speech.understood import sensible
from .scene import Moment, Scene
from .segmenter import Segment, SegmenterConfig, split_words
from .timeline import Sound

__all__ = ["Before", "Closed", "Finals"]


@dataclass(frozen=True)
class Closed:
    """An utterance that has ended and waits for its words."""

    number: int
    segment: Segment
    moment: Moment
    sound: Sound
    notes: tuple[str, ...] = ()
    joins_s: float | None = None  # the end of the utterance that it may belong to


@dataclass(frozen=True)
class Before:
    """The utterance that was judged last, which another may join."""

    number: int
    revision: int
    segment: Segment
    answer: Answer
    person: int | None

    def followed_by(self, answer: Answer, segment: Segment) -> Answer:
        """What was said in both, of what was said in the second, `segment`."""
        embedding = blended(
            (self.answer.embedding, self.segment.end_s - self.segment.start_s),
            (answer.embedding, segment.end_s - segment.start_s),
        )
        return Answer(self.answer.words + answer.words, answer.error, embedding)


class Finals:
    """The evidence of ended utterances, in order, once their words are known.

    `stt_wait_s`: how long that may take. An utterance that begins within `join_s` after another of
    the same person is judged again with it. `keep` is given number, interval and (n,) samples of
    each.
    """

    def __init__(
        self,
        scene: Scene,
        text: TextFeatures,
        transcriber: Transcriber | None,
        turns: SegmenterConfig,
        *,
        stt_wait_s: float,
        join_s: float,
        keep: Callable[[int, Segment, NDArray[np.float32]], None] | None,
    ) -> None:
        self._scene, self._text, self._transcriber, self._turns = scene, text, transcriber, turns
        self._stt_wait_s, self._join_s, self._keep = stt_wait_s, join_s, keep
        self._closed: deque[Closed] = deque()
        self.before: Before | None = None
        """The utterance that was judged last."""

    @property
    def waiting(self) -> bool:
        """Whether an utterance waits for its words."""
        return bool(self._closed)

    def add(self, closed: Closed) -> None:
        """An utterance has ended."""
        self._closed.append(closed)

    def may_join(self, start_s: float) -> float | None:
        """The end of the utterance before, when one that begins then may belong to it."""
        before = self._closed[-1] if self._closed else self.before
        if before is None or not self._join_s:
            return None
        pause_s = start_s - before.segment.end_s + 2.0 * self._turns.pad_s
        return before.segment.end_s if 0.0 <= pause_s <= self._join_s else None

    def joined_by(self, joins_s: float | None, end_s: float) -> Before | None:
        """The utterance before, where another until `end_s` belongs to it (`joins_s` as in
        `Closed`) and both together are not too long."""
        before = self.before
        if before is None or joins_s != before.segment.end_s:
            return None
        too_long = end_s - before.segment.start_s > self._turns.max_utterance_s
        return None if too_long else before

    def ready(self) -> Iterator[Evidence]:
        """Events of the utterances, in order, whose words are known or have been waited for."""
        while self._closed:
            closed = self._closed[0]
            answer: Answer | None = Answer(())
            if self._transcriber is not None:
                answer = self._transcriber.answer(closed.segment)
                waited_s = time.monotonic() - closed.moment.arrived_s
                if answer is None and waited_s >= self._stt_wait_s:
                    answer = Answer((), "words came too late")
            if answer is None:
                return
            self._closed.popleft()
            if answer.words:
                length_s = closed.segment.end_s - closed.segment.start_s
                answer = sensible(answer, self._text, length_s)
            if (joined := self._joined(closed, answer)) is not None:
                yield joined
                continue
            for part, said in self._fit(closed.segment, answer.words):
                yield self._final(closed, part, replace(answer, words=said))

    def _final(self, closed: Closed, part: Segment, answer: Answer) -> Evidence:
        """What is judged of a closed utterance, or of a part of it."""
        found = self._scene.evidence(
            "final", closed.number, part, answer, closed.moment, closed.sound
        )
        return self._judged(found, closed, revision=0)

    def _joined(self, closed: Closed, answer: Answer) -> Evidence | None:
        """The utterance together with the one before, where they belong and fit together."""
        before = self.joined_by(closed.joins_s, closed.segment.end_s)
        if before is None:
            return None
        whole = Segment(before.segment.start_s, closed.segment.end_s)
        both = before.followed_by(answer, closed.segment)
        if both.words and not self._text.fits([word.text for word in both.words]):
            return None
        found = self._scene.evidence(
            "final", before.number, whole, both, closed.moment, closed.sound
        )
        persons = {before.person, None if found.person is None else found.person.id}
        if len(persons - {None}) > 1:
            return None
        found = replace(found, replaces=before.revision)
        return self._judged(found, closed, revision=before.revision + 1)

    def _judged(self, found: Evidence, closed: Closed, *, revision: int) -> Evidence:
        """The evidence with the notes, kept as what the next one may join."""
        segment = Segment(found.start_s, found.end_s)
        if self._keep is not None:
            samples = closed.sound.samples(segment.start_s, segment.end_s)
            self._keep(found.utterance, segment, samples)
        person = None if found.person is None else found.person.id
        answer = Answer(found.words, embedding=found.audio_embedding)
        self.before = Before(found.utterance, revision, segment, answer, person)
        return replace(found, quality=(*found.quality, *closed.notes))

    def _fit(
        self, segment: Segment, words: tuple[Word, ...]
    ) -> list[tuple[Segment, tuple[Word, ...]]]:
        """One part, or more when the words are too many for one utterance."""
        if len(words) < 2 or self._text.fits([word.text for word in words]):
            return [(segment, words)]
        first, second, cut = split_words(segment, words)
        return self._fit(first, words[:cut]) + self._fit(second, words[cut:])
