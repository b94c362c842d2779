"""From the evidence of an utterance to its event: the model, smoothing, the speaker's baseline."""

import time
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..engines.base import Engine
from ..features.normal import SpeechStatistics
from ..features.pack import Rows, pack
from ..features.spec import MODALITIES
from ..features.text import TextFeatures
from ..schemas import EmotionEvent
from ..speech.base import Word
from ..store.bundle import Bundle
from .baseline import Baseline
from .calibration import CONVERSATION, subset_name

__all__ = ["PRESENT", "Evidence", "Judge", "newest_that_fit"]

Float = NDArray[np.float32]

PRESENT = "present"

_STEADY = 0.1  # a provisional label yields only to one that is this much likelier
_SMOOTH = 0.5  # weight of the newest provisional estimate


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """All that one event depends on, but for the model and what was judged before.

    `audio`: (Ta, 43) raw, `vision`: (Tv, Dv) float32 rows, none where the modality is absent;
    `modalities`: "present" or the reason of absence; `arrived_s` and `known_s`: when the last
    packet came, after waiting for `queued_s`, and when the words were known, by
    `time.monotonic()`; `baseline_reset`: what is known of the speaker, baseline and voice, is
    forgotten before this one is judged. The rest is as in `EmotionEvent`.
    """

    type: str
    utterance: int
    start_s: float
    end_s: float
    words: tuple[Word, ...]
    audio: Float
    vision: Float
    modalities: dict[str, str]
    quality: tuple[str, ...]
    queued_s: float = 0.0
    arrived_s: float = 0.0
    known_s: float = 0.0
    baseline_reset: bool = False


class Judge:
    """Evidence in, events out, in order; the same evidence always gives the same events.

    Provisional events are smoothed over their utterance, with a label that does not flicker.
    Voices are heard against the speech of the final events before (`SpeechStatistics`). `prior`:
    how common emotions are, one of `calibration.PRIORS`. `baseline` corrects what is left of a
    speaker's habits after that, and learns from the final events too; None leaves them.
    """

    def __init__(
        self,
        bundle: Bundle,
        engine: Engine,
        text: TextFeatures,
        baseline: Baseline | None = None,
        prior: str = CONVERSATION,
    ) -> None:
        self._emotions, self._calibration = bundle.emotions, bundle.calibration
        self._calibration.prior(prior)  # a wrong name is told now
        self._prior, self._speech = prior, SpeechStatistics()
        self._engine, self._text, self._baseline = engine, text, baseline
        self._utterance = 0  # of the provisional events below
        self._revision = 0
        self._smooth: NDArray[np.float64] | None = None
        self._label = -1

    def event(self, evidence: Evidence) -> EmotionEvent:
        """The event of one piece of evidence."""
        if evidence.baseline_reset:
            self._speech.reset()
            if self._baseline is not None:
                self._baseline.reset()
        words, modalities = self._words(evidence)
        text = " ".join(word.text for word in words)
        ids = self._text.ids(text) if words else np.zeros(0, np.int64)
        audio = self._speech.normalise(evidence.audio)
        out = self._engine.infer(pack(Rows(text=ids, audio=audio, vision=evidence.vision)))
        present = [len(ids) > 0, len(audio) > 0, len(evidence.vision) > 0]
        probabilities = self._calibration.probabilities(
            out["emotion"], np.array([present]), self._prior
        )[0]
        needed = self._calibration.uncertain_below.get(subset_name(present), 0.0)
        uncertain_below = needed if any(present) else 1.0  # nothing is known: a guess by the prior
        sentiment = float(out["sentiment"][0])
        if evidence.type == "final":
            self._speech.learn(evidence.audio)
        probabilities, sentiment = self._corrected(evidence, probabilities, sentiment)
        own = dict(zip(MODALITIES, out["modality_sentiment"][0].tolist(), strict=True))
        best = int(probabilities.argmax())
        event = EmotionEvent(
            type=evidence.type,
            utterance=evidence.utterance,
            revision=0,
            start_s=evidence.start_s,
            end_s=evidence.end_s,
            text=text,
            words=words,
            sentiment=sentiment,
            arousal=float(out["arousal"][0]),
            emotion=self._emotions[best],
            uncertain=bool(probabilities[best] < uncertain_below),
            probabilities=dict(zip(self._emotions, probabilities.tolist(), strict=True)),
            modality_sentiment={
                m: value if modalities[m] == PRESENT else None for m, value in own.items()
            },
            modality_weight=dict(zip(MODALITIES, out["modality_weight"][0].tolist(), strict=True)),
            modalities=modalities,
            quality=evidence.quality,
            latency_ms={},
        )
        if event.type == "provisional":
            event = self._steady(event, probabilities, uncertain_below)
        return replace(event, latency_ms=_latency_ms(evidence, time.monotonic()))

    def _corrected(
        self, evidence: Evidence, probabilities: NDArray[np.float64], sentiment: float
    ) -> tuple[NDArray[np.float64], float]:
        """Against the person's own baseline, which then learns from what is final."""
        if self._baseline is None:
            return probabilities, sentiment
        corrected = self._baseline.correct(probabilities, sentiment)
        if evidence.type == "final":
            self._baseline.learn(probabilities, sentiment)
        return corrected

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
            probabilities=dict(zip(self._emotions, new.tolist(), strict=True)),
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
