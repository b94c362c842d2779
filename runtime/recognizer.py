"""From packets to events: features, voice activity, words, inference. No threads, no devices."""

import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .bundle import Bundle
from .engines.base import Engine
from .features.pack import Rows, pack
from .features.spec import MODALITIES, SPEC
from .features.text import TextFeatures
from .features.vision import VisionFeatures
from .quality import PictureQuality, sound_notes
from .schemas import EmotionEvent
from .sources.base import AudioChunk, Packet
from .speech.background import Answer, Transcriber
from .speech.base import Word
from .speech.vad import VoiceActivity
from .timeline import Timeline
from .utterance import Segment, Segmenter, split_words

__all__ = ["Recognizer"]

PRESENT = "present"

_FIRST_S = 1.0  # of speech before the first provisional event
_GAP_S = 0.25  # sound that is missing: a device was replaced
_STEADY = 0.1  # a provisional label yields only to one that is this much likelier
_SMOOTH = 0.5  # weight of the newest provisional estimate


@dataclass(frozen=True)
class _Closed:
    """An utterance that has ended and waits for its words. Times of `time.monotonic()`."""

    number: int
    segment: Segment
    arrived: float


@dataclass
class _Speaking:
    """The utterance that goes on: provisional events so far, and the words of the newest."""

    number: int
    n_events: int = 0
    next_s: float = _FIRST_S
    asked: Segment | None = None
    words: tuple[Word, ...] = ()
    probabilities: NDArray[np.float64] | None = None
    label: int = -1


class Recognizer:
    """Push packets in order of time; get the events of the utterances that they complete.

    The same packets give the same final events however fast they come. `vision` is None when the
    source has no pictures, `transcriber` is None when words are not wanted or cannot be had;
    `no_text` and `no_vision` are then the reasons that events report; `down` has the modalities
    whose device fails at the moment, with the reason, and may change at any time. `hop_s`: seconds
    between provisional events, None for none. `stt_wait_s`: how long a final event waits for words
    that a `Background` transcriber still owes. `av_offset_s` is added to the time of pictures.
    """

    def __init__(
        self,
        bundle: Bundle,
        engine: Engine,
        *,
        vision: VisionFeatures | None,
        transcriber: Transcriber | None,
        no_text: str,
        no_vision: str,
        down: Mapping[str, str] | None = None,
        hop_s: float | None = None,
        stt_wait_s: float = 1.5,
        av_offset_s: float = 0.0,
    ) -> None:
        self._emotions, self._uncertain_below = bundle.emotions, bundle.uncertain_below
        self._engine = engine
        self._text = TextFeatures(bundle.tokenizer_json)
        self._vision = vision
        self._transcriber = transcriber
        self._no_text, self._no_vision = no_text, no_vision
        self._down = {} if down is None else down
        self._hop_s, self._stt_wait_s, self._av_offset_s = hop_s, stt_wait_s, av_offset_s
        self._timeline = Timeline()
        self._pictures = PictureQuality()
        self._voice = VoiceActivity()
        self._segmenter: Segmenter | None = None
        self._unheard = np.zeros(0, np.float32)  # samples short of a whole VAD chunk
        self._expected_s = 0.0  # where the next chunk of sound should begin
        self._n_utterances = 0
        self._speaking: _Speaking | None = None
        self._closed: deque[_Closed] = deque()

    def push(self, packet: Packet) -> list[EmotionEvent]:
        """Take one packet; returns the events that it, or the words known by now, allow."""
        arrived = time.monotonic()
        events: list[EmotionEvent] = []
        if isinstance(packet, AudioChunk):
            events += self._hear(packet, arrived)
        elif self._vision is not None:
            at_s = packet.time_s + self._av_offset_s
            self._timeline.add_vision(at_s, self._vision.row(packet.rgb))
            self._pictures.add(at_s, packet.rgb)
        return events + list(self._finals())

    def tick(self) -> list[EmotionEvent]:
        """Nothing came for a while: the events whose words are known, or waited for too long."""
        return list(self._finals())

    def flush(self) -> list[EmotionEvent]:
        """The stream ended: judge the utterance that is still open, and those that wait."""
        if self._segmenter is not None and (segment := self._segmenter.flush()) is not None:
            self._close(segment, time.monotonic())
        events = list(self._finals())
        while self._closed:
            time.sleep(0.01)
            events += self._finals()
        return events

    def _hear(self, chunk: AudioChunk, arrived: float) -> Iterator[EmotionEvent]:
        if self._segmenter is None or chunk.start_s > self._expected_s + _GAP_S:
            self._restart(chunk.start_s, arrived)
        assert self._segmenter is not None
        self._expected_s = chunk.start_s + len(chunk.samples) / SPEC.sample_rate_hz
        self._timeline.add_audio(chunk.start_s, chunk.samples)
        samples = np.concatenate([self._unheard, chunk.samples])
        n = len(samples) // VoiceActivity.CHUNK * VoiceActivity.CHUNK
        self._unheard = samples[n:]
        for piece in samples[:n].reshape(-1, VoiceActivity.CHUNK):
            segment = self._segmenter.push(self._voice.probability(piece))
            if segment is not None:
                self._close(segment, arrived)
            yield from self._early(self._segmenter, arrived)

    def _restart(self, start_s: float, arrived: float) -> None:
        """Sound begins, or begins again after a gap."""
        if self._segmenter is not None:
            if (segment := self._segmenter.flush()) is not None:
                self._close(segment, arrived)
            self._timeline.restart_audio()
            self._voice.reset()
            self._unheard = self._unheard[:0]
        self._segmenter = Segmenter(VoiceActivity.CHUNK / SPEC.sample_rate_hz, start_s)

    def _early(self, segmenter: Segmenter, arrived: float) -> Iterator[EmotionEvent]:
        """What can be said or prepared while somebody speaks."""
        speech = segmenter.speech
        if speech is None:
            self._speaking = None
            return
        if self._speaking is None:
            self._n_utterances += 1
            self._speaking = _Speaking(self._n_utterances)
        likely = segmenter.likely
        if likely is not None:
            if self._transcriber is not None and self._transcriber.anticipates:
                self._ask(likely, final=False)
        elif self._hop_s is not None and speech.end_s - speech.start_s >= self._speaking.next_s:
            self._speaking.next_s += self._hop_s
            yield self._provisional(self._speaking, speech, arrived)

    def _provisional(self, speaking: _Speaking, speech: Segment, arrived: float) -> EmotionEvent:
        """An estimate of the utterance so far, with the words that are known by now."""
        if self._transcriber is not None:
            self._ask(speech, final=False)
            for segment in (speaking.asked, speech):  # the newest that is known
                if segment and (answer := self._transcriber.answer(segment)) and answer.words:
                    speaking.words = answer.words
            speaking.asked = speech
        words = speaking.words
        while words and not self._text.fits([word.text for word in words]):
            words = words[1:]
        event = self._event("provisional", speaking.number, speech, Answer(words), arrived)
        return self._steady(speaking, event)

    def _steady(self, speaking: _Speaking, event: EmotionEvent) -> EmotionEvent:
        """The event, smoothed over the utterance, with a label that does not flicker."""
        new = np.array(list(event.probabilities.values()))
        if speaking.probabilities is not None:
            new = _SMOOTH * new + (1.0 - _SMOOTH) * speaking.probabilities
        speaking.probabilities = new
        best = int(new.argmax())
        if speaking.label < 0 or new[best] > new[speaking.label] + _STEADY:
            speaking.label = best
        revision, speaking.n_events = speaking.n_events, speaking.n_events + 1
        return replace(
            event,
            revision=revision,
            emotion=self._emotions[speaking.label],
            uncertain=bool(new[speaking.label] < self._uncertain_below),
            probabilities=dict(zip(self._emotions, new.tolist(), strict=True)),
        )

    def _close(self, segment: Segment, arrived: float) -> None:
        """An utterance has ended: want its words."""
        if self._speaking is None:  # the rest of one that was too long
            self._n_utterances += 1
            number = self._n_utterances
        else:
            number = self._speaking.number
        self._speaking = None
        self._closed.append(_Closed(number, segment, arrived))
        if self._transcriber is not None:
            self._ask(segment, final=True)

    def _ask(self, segment: Segment, *, final: bool) -> None:
        assert self._transcriber is not None
        samples = self._timeline.samples(segment.start_s, segment.end_s)
        self._transcriber.ask(segment, samples, final=final)

    def _finals(self) -> Iterator[EmotionEvent]:
        """Events of the utterances, in order, whose words are known or have been waited for."""
        while self._closed:
            closed = self._closed[0]
            answer: Answer | None = Answer(())
            if self._transcriber is not None:
                answer = self._transcriber.answer(closed.segment)
                if answer is None and time.monotonic() - closed.arrived >= self._stt_wait_s:
                    answer = Answer((), "words came too late")
            if answer is None:
                return
            self._closed.popleft()
            for part, said in self._fit(closed.segment, answer.words):
                yield self._event(
                    "final", closed.number, part, Answer(said, answer.error), closed.arrived
                )

    def _fit(
        self, segment: Segment, words: tuple[Word, ...]
    ) -> list[tuple[Segment, tuple[Word, ...]]]:
        """One part, or more when the words are too many for one utterance."""
        if len(words) < 2 or self._text.fits([word.text for word in words]):
            return [(segment, words)]
        first, second, cut = split_words(segment, words)
        return self._fit(first, words[:cut]) + self._fit(second, words[cut:])

    def _event(
        self, kind: str, number: int, segment: Segment, answer: Answer, arrived: float
    ) -> EmotionEvent:
        begun = time.monotonic()
        text = " ".join(word.text for word in answer.words)
        rows = Rows(
            text=self._text.ids(text) if answer.words else np.zeros(0, np.int64),
            audio=self._timeline.audio_rows(segment.start_s, segment.end_s),
            vision=self._timeline.vision_rows(segment.start_s, segment.end_s),
        )
        modalities = self._presence(rows, answer.error)
        if modalities["vision"] != PRESENT:
            rows = Rows(text=rows.text, audio=rows.audio, vision=rows.vision[:0])
        out = self._engine.infer(pack(rows))
        probabilities = dict(zip(self._emotions, out["emotion"][0].tolist(), strict=True))
        own = dict(zip(MODALITIES, out["modality_sentiment"][0].tolist(), strict=True))
        ended = time.monotonic()
        return EmotionEvent(
            type=kind,
            utterance=number,
            revision=0,
            start_s=segment.start_s,
            end_s=segment.end_s,
            text=text,
            words=answer.words,
            sentiment=float(out["sentiment"][0]),
            emotion=max(probabilities, key=probabilities.__getitem__),
            uncertain=max(probabilities.values()) < self._uncertain_below,
            probabilities=probabilities,
            modality_sentiment={
                m: value if modalities[m] == PRESENT else None for m, value in own.items()
            },
            modality_weight=dict(zip(MODALITIES, out["modality_weight"][0].tolist(), strict=True)),
            modalities=modalities,
            quality=(
                *sound_notes(self._timeline.samples(segment.start_s, segment.end_s)),
                *(self._pictures.notes(segment.start_s, segment.end_s) if self._vision else ()),
            ),
            latency_ms={
                "words": (begun - arrived) * 1e3,
                "inference": (ended - begun) * 1e3,
                "total": (ended - arrived) * 1e3,
            },
        )

    def _presence(self, rows: Rows, error: str) -> dict[str, str]:
        """Each modality -> "present" or the reason of its absence."""
        text = PRESENT if len(rows.text) else error or "no words recognised"
        if self._transcriber is None:
            text = self._no_text
        return {
            "text": text,
            "audio": PRESENT if len(rows.audio) else "no sound",
            "vision": self._vision_presence(rows.vision),
        }

    def _vision_presence(self, rows: NDArray[np.float32]) -> str:
        if self._vision is None:
            return self._no_vision
        if not len(rows):
            return self._down.get("vision", "no picture")
        return PRESENT if rows[:, -1].any() else "no face in view"
