"""From the evidence of an utterance to its event: the model, smoothing, the speaker's baseline."""

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..engines.base import Engine
from ..features.normal import SpeechStatistics
from ..features.pack import Rows, pack
from ..features.spec import MODALITIES
from ..features.text import TextFeatures
from ..schemas import EmotionEvent, Person
from ..speech.base import Word
from ..store.bundle import Bundle
from .baseline import Baseline
from .calibration import CONVERSATION
from .evidence import PRESENT, Evidence
from .reading import read
from .reasons import MOST, Rest, disagreement, face_reason, voice_reason, word_reason

__all__ = ["Judge", "newest_that_fit"]

Float = NDArray[np.float32]

_STEADY = 0.1  # a provisional label yields only to one that is this much likelier
_MOST_KNOWN = 32  # people whose voices are kept apart
_SMOOTH = 0.5  # weight of the newest provisional estimate


@dataclass(frozen=True, eq=False)
class _Habits:
    """How somebody usually sounds, and usually reads to the model."""

    speech: SpeechStatistics
    rest: Rest
    baseline: Baseline | None


@dataclass(frozen=True, kw_only=True, eq=False)
class _Estimate:
    """`probabilities`: (n_emotions,); `alone` and `weight`: by modality, as in the event."""

    probabilities: NDArray[np.float64]
    sentiment: float
    uncertain_below: float
    alone: dict[str, float | None]
    weight: dict[str, float]
    disagree: tuple[str, ...]


class Judge:
    """Evidence in, events out, in order; the same evidence always gives the same events.

    Provisional events are smoothed over their utterance, with a label that does not flicker.
    Voices are heard against the speech of the final events before (`SpeechStatistics`). `prior`:
    how common emotions are, one of `calibration.PRIORS`. `baseline` corrects what is left of a
    speaker's habits after that, and learns from the final events too; None leaves them. With
    `per_person`, both are kept apart for each person in view. With
    `explain`, reasons name the words that count most.
    """

    def __init__(
        self,
        bundle: Bundle,
        engine: Engine,
        text: TextFeatures,
        baseline: Baseline | None = None,
        prior: str = CONVERSATION,
        *,
        per_person: bool = False,
        explain: bool = False,
    ) -> None:
        self._emotions, self._calibration = bundle.emotions, bundle.calibration
        self._calibration.prior(prior)  # a wrong name is told now
        self._prior, self._per_person, self._explain = prior, per_person, explain
        self._engine, self._text = engine, text
        self._anybody = _Habits(SpeechStatistics(), Rest(), baseline)
        self._known: dict[int, _Habits] = {}
        self._n_rows = 0  # of sound in the last final event
        self._utterance = 0  # of the provisional events below
        self._revision = 0
        self._smooth: NDArray[np.float64] | None = None
        self._label = -1

    @property
    def engine(self) -> Engine:
        """The one that judges now."""
        return self._engine

    def use(self, engine: Engine) -> None:
        """Go on with another engine of the same bundle."""
        self._engine = engine

    def event(self, evidence: Evidence) -> EmotionEvent:
        """The event of one piece of evidence."""
        if evidence.baseline_reset:
            self._forget()
        habits = self._habits(evidence.person)
        words, modalities = self._words(evidence)
        text = " ".join(word.text for word in words)
        rows = Rows(
            text=self._text.ids(text) if words else np.zeros(0, np.int64),
            audio=habits.speech.normalise(evidence.audio),
            audio_embedding=evidence.audio_embedding,
            vision=evidence.vision,
        )
        out = self._read(pack(rows))
        estimate = self._estimate(out, rows, modalities)
        reasons = self._because(evidence, rows, words, habits, estimate)
        estimate = self._learn(evidence, words, habits, estimate)
        best = int(estimate.probabilities.argmax())
        event = EmotionEvent(
            type=evidence.type,
            utterance=evidence.utterance,
            revision=0 if evidence.replaces is None else evidence.replaces + 1,
            start_s=evidence.start_s,
            end_s=evidence.end_s,
            text=text,
            words=words,
            sentiment=estimate.sentiment,
            arousal=float(out["arousal"][0]),
            emotion=self._emotions[best],
            uncertain=bool(estimate.probabilities[best] < estimate.uncertain_below),
            probabilities=self._named(estimate.probabilities),
            modality_sentiment=estimate.alone,
            modality_weight=estimate.weight,
            modalities=modalities,
            quality=evidence.quality,
            latency_ms={},
            person=evidence.person,
            reasons=reasons,
            mixed=bool(estimate.disagree),
            disagree=estimate.disagree,
            replaces=evidence.replaces,
        )
        if event.type == "provisional":
            event = self._steady(event, estimate.probabilities, estimate.uncertain_below)
        return replace(event, latency_ms=_latency_ms(evidence, time.monotonic()))

    def _forget(self) -> None:
        """What is known of the speakers."""
        self._known.clear()
        self._anybody.speech.reset()
        self._anybody = replace(self._anybody, rest=Rest())
        if self._anybody.baseline is not None:
            self._anybody.baseline.reset()

    def _estimate(
        self, out: dict[str, NDArray[Any]], rows: Rows, modalities: dict[str, str]
    ) -> "_Estimate":
        """What the model says, before the speaker's baseline."""
        present = [len(rows.text) > 0, len(rows.audio) > 0, len(rows.vision) > 0]
        heard = bool(rows.audio_embedding.any())
        needed = self._calibration.needed(present, heard=heard)
        own = dict(zip(MODALITIES, out["modality_sentiment"][0].tolist(), strict=True))
        alone = {m: value if modalities[m] == PRESENT else None for m, value in own.items()}
        weight = dict(zip(MODALITIES, out["modality_weight"][0].tolist(), strict=True))
        return _Estimate(
            probabilities=self._calibrated(out["emotion"], present, heard)[0],
            sentiment=float(out["sentiment"][0]),
            # Where nothing is known, the answer is a guess by the prior.
            uncertain_below=needed if any(present) else 1.0,
            alone=alone,
            weight=weight,
            disagree=disagreement(alone, weight),
        )

    def _read(self, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Graph inputs -> graph outputs."""
        return read(self._engine, inputs, self._calibration, self._prior)

    def _calibrated(self, logits: Float, present: list[bool], heard: bool) -> NDArray[np.float64]:
        """(n, n_emotions) logits -> probabilities."""
        return self._calibration.probabilities(
            logits, np.array([present] * len(logits)), self._prior, heard=heard
        )

    def _because(
        self,
        evidence: Evidence,
        rows: Rows,
        words: tuple[Word, ...],
        habits: "_Habits",
        estimate: "_Estimate",
    ) -> tuple[str, ...]:
        """Reasons from the modalities that are present, of the one that counts most first."""
        reasons: dict[str, str] = {}
        length_s = evidence.end_s - evidence.start_s
        if len(rows.vision):
            reasons["vision"] = face_reason(rows.vision, habits.rest)
        if len(rows.audio):
            reasons["audio"] = voice_reason(
                evidence.audio, habits.speech, habits.rest, len(words), length_s
            )
        if self._explain and len(rows.text) and evidence.type == "final":
            present = [True, len(rows.audio) > 0, len(rows.vision) > 0]
            reasons["text"] = word_reason(
                [word.text for word in words],
                rows,
                self._text,
                lambda inputs: self._calibrated(
                    self._read(inputs)["emotion"], present, bool(rows.audio_embedding.any())
                ),
            )
        order = sorted(reasons, key=lambda name: -estimate.weight[name])
        return tuple(reasons[name] for name in order if reasons[name])[:MOST]

    def _learn(
        self,
        evidence: Evidence,
        words: tuple[Word, ...],
        habits: "_Habits",
        estimate: "_Estimate",
    ) -> "_Estimate":
        """The estimate without the speaker's habit; what a final one shows of it is learned."""
        if evidence.type == "final":
            # What replaces another begins with its sound, which is known already.
            n_known = 0 if evidence.replaces is None else self._n_rows
            habits.speech.learn(evidence.audio[n_known:])
            self._n_rows = len(evidence.audio)
            if evidence.replaces is None:
                length_s = evidence.end_s - evidence.start_s
                habits.rest.learn(evidence.vision, len(words), length_s)
        if habits.baseline is None:
            return estimate
        raw = estimate.probabilities, estimate.sentiment
        probabilities, sentiment = habits.baseline.correct(*raw)
        if evidence.type == "final" and evidence.replaces is None:
            habits.baseline.learn(*raw)
        return replace(estimate, probabilities=probabilities, sentiment=sentiment)

    def _named(self, probabilities: NDArray[np.float64]) -> dict[str, float]:
        return dict(zip(self._emotions, probabilities.tolist(), strict=True))

    def _habits(self, person: Person | None) -> "_Habits":
        """What is known of whoever speaks."""
        if not self._per_person or person is None:
            return self._anybody
        habits = self._known.pop(person.id, None)
        if habits is None:
            fresh = None if self._anybody.baseline is None else Baseline(self._emotions)
            habits = _Habits(SpeechStatistics(), Rest(), fresh)
        self._known[person.id] = habits  # at the end: in front is who has not spoken for longest
        if len(self._known) > _MOST_KNOWN:
            del self._known[next(iter(self._known))]
        return habits

    def _words(self, evidence: Evidence) -> tuple[tuple[Word, ...], dict[str, str]]:
        """The words that the model can take, and which modalities are there."""
        # They were cut to fit when they were recognised, but maybe for another tokenizer.
        words = newest_that_fit(self._text, evidence.words)
        modalities = dict(evidence.modalities)
        if evidence.words and not words:  # a single "word" that is no word
            modalities["text"] = "words do not fit"
        return words, modalities

    def _steady(
        self, event: EmotionEvent, new: NDArray[np.float64], uncertain_below: float
    ) -> EmotionEvent:
        """A provisional event, smoothed over the utterance, whose label does not flicker."""
        if event.utterance != self._utterance:
            self._utterance, self._revision, self._smooth = event.utterance, 0, None
        if self._smooth is None:
            self._label = int(new.argmax())
        else:
            new = _SMOOTH * new + (1.0 - _SMOOTH) * self._smooth
        self._smooth = new
        best = int(new.argmax())
        if new[best] > new[self._label] + _STEADY:
            self._label = best
        revision, self._revision = self._revision, self._revision + 1
        return replace(
            event,
            revision=revision,
            emotion=self._emotions[self._label],
            uncertain=bool(new[self._label] < uncertain_below),
            probabilities=self._named(new),
        )


def newest_that_fit(text: TextFeatures, words: tuple[Word, ...]) -> tuple[Word, ...]:
    """The last of `words`, as many as the model takes."""
    while words and not text.fits([word.text for word in words]):
        words = words[1:]
    return words


def _latency_ms(evidence: Evidence, ended_s: float) -> dict[str, float]:
    """`EmotionEvent.latency_ms` of an answer that was there at `ended_s`."""
    return {
        "queue": evidence.queued_s * 1e3,
        "words": (evidence.known_s - evidence.arrived_s) * 1e3,
        "inference": (ended_s - evidence.known_s) * 1e3,
        "total": (ended_s - evidence.arrived_s + evidence.queued_s) * 1e3,
    }
