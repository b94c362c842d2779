"""From packets to events: features, voice activity, words, inference. No threads, no devices."""

import time

import numpy as np
from numpy.typing import NDArray

from .bundle import Bundle
from .engines.base import Engine
from .features.pack import Rows, pack
from .features.spec import MODALITIES, SPEC
from .features.text import TextFeatures
from .features.vision import VisionFeatures
from .schemas import EmotionEvent
from .sources.base import AudioChunk, Packet
from .speech.base import SpeechToText, Word
from .speech.vad import VoiceActivity
from .timeline import Timeline
from .utterance import Segment, Segmenter, split_words

__all__ = ["Recognizer"]

PRESENT = "present"


class Recognizer:
    """Push packets in order of time; get the events of the utterances that they complete.

    The same packets give the same events however fast they come. `vision` is None when the source
    has no pictures, `speech_to_text` is None when words are not wanted or cannot be had; `no_text`
    and `no_vision` are then the reasons that events report.
    """

    def __init__(
        self,
        bundle: Bundle,
        engine: Engine,
        *,
        vision: VisionFeatures | None,
        speech_to_text: SpeechToText | None,
        no_text: str,
        no_vision: str,
    ) -> None:
        self._emotions, self._uncertain_below = bundle.emotions, bundle.uncertain_below
        self._engine = engine
        self._text = TextFeatures(bundle.tokenizer_json)
        self._vision = vision
        self._speech_to_text = speech_to_text
        self._no_text, self._no_vision = no_text, no_vision
        self._timeline = Timeline()
        self._voice = VoiceActivity()
        self._segmenter: Segmenter | None = None
        self._unheard = np.zeros(0, np.float32)  # samples short of a whole VAD chunk

    def push(self, packet: Packet) -> list[EmotionEvent]:
        """Take one packet; returns the events of utterances that it closed, in order."""
        arrived = time.monotonic()
        if isinstance(packet, AudioChunk):
            segments = self._hear(packet)
            return [event for segment in segments for event in self._judge(segment, arrived)]
        if self._vision is not None:
            self._timeline.add_vision(packet.time_s, self._vision.row(packet.rgb))
        return []

    def flush(self) -> list[EmotionEvent]:
        """The stream ended: judge the utterance that is still open, if any."""
        segment = self._segmenter.flush() if self._segmenter else None
        return self._judge(segment, time.monotonic()) if segment else []

    def _hear(self, chunk: AudioChunk) -> list[Segment]:
        self._timeline.add_audio(chunk.start_s, chunk.samples)
        if self._segmenter is None:
            self._segmenter = Segmenter(VoiceActivity.CHUNK / SPEC.sample_rate_hz, chunk.start_s)
        samples = np.concatenate([self._unheard, chunk.samples])
        n = len(samples) // VoiceActivity.CHUNK * VoiceActivity.CHUNK
        self._unheard = samples[n:]
        closed = [
            self._segmenter.push(self._voice.probability(piece))
            for piece in samples[:n].reshape(-1, VoiceActivity.CHUNK)
        ]
        return [segment for segment in closed if segment is not None]

    def _judge(self, segment: Segment, arrived: float) -> list[EmotionEvent]:
        """Events of one segment: one, or more when its words do not fit into one utterance."""
        words: tuple[Word, ...] = ()
        if self._speech_to_text is not None:
            samples = self._timeline.samples(segment.start_s, segment.end_s)
            words = self._speech_to_text.transcribe(samples, segment.start_s)
        return [self._event(part, said, arrived) for part, said in self._fit(segment, words)]

    def _fit(
        self, segment: Segment, words: tuple[Word, ...]
    ) -> list[tuple[Segment, tuple[Word, ...]]]:
        if len(words) < 2 or self._text.fits([word.text for word in words]):
            return [(segment, words)]
        first, second, cut = split_words(segment, words)
        return self._fit(first, words[:cut]) + self._fit(second, words[cut:])

    def _event(self, segment: Segment, words: tuple[Word, ...], arrived: float) -> EmotionEvent:
        text = " ".join(word.text for word in words)
        rows = Rows(
            text=self._text.ids(text) if words else np.zeros(0, np.int64),
            audio=self._timeline.audio_rows(segment.start_s, segment.end_s),
            vision=self._timeline.vision_rows(segment.start_s, segment.end_s),
        )
        modalities = self._presence(rows)
        if modalities["vision"] != PRESENT:
            rows = Rows(text=rows.text, audio=rows.audio, vision=rows.vision[:0])
        out = self._engine.infer(pack(rows))
        probabilities = dict(zip(self._emotions, out["emotion"][0].tolist(), strict=True))
        own = dict(zip(MODALITIES, out["modality_sentiment"][0].tolist(), strict=True))
        return EmotionEvent(
            type="final",
            start_s=segment.start_s,
            end_s=segment.end_s,
            text=text,
            words=words,
            sentiment=float(out["sentiment"][0]),
            emotion=max(probabilities, key=probabilities.__getitem__),
            uncertain=max(probabilities.values()) < self._uncertain_below,
            probabilities=probabilities,
            modality_sentiment={
                m: value if modalities[m] == PRESENT else None for m, value in own.items()
            },
            modality_weight=dict(zip(MODALITIES, out["modality_weight"][0].tolist(), strict=True)),
            modalities=modalities,
            latency_ms=(time.monotonic() - arrived) * 1e3,
        )

    def _presence(self, rows: Rows) -> dict[str, str]:
        """Each modality -> "present" or the reason of its absence."""
        text = PRESENT if len(rows.text) else "no words recognised"
        if self._speech_to_text is None:
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
            return "no picture"
        return PRESENT if rows[:, -1].any() else "no face in view"
