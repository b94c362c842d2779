"""From packets to evidence: features, voice activity, words. No threads, no devices."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..features.spec import SPEC
from ..features.text import TextFeatures
from ..features.tracking import FaceTracker, Seen
from ..judging.evidence import Evidence
from ..judging.judge import newest_that_fit
from ..sources.base import AudioChunk, Packet
from ..speech.background import Stage, Transcriber
from ..speech.base import Answer
from ..speech.understood import sensible
from ..speech.vad import VoiceActivity
from .finals import Closed, Finals
from .muting import Muting
from .scene import Moment, Scene
from .segmenter import Segment, Segmenter, SegmenterConfig

__all__ = ["MUTED", "Recognizer"]

MUTED = "muted before its end"
"""Note on an utterance that was open when the stream was muted."""

_FIRST_S = 1.0  # of speech before the first provisional event
_FEED_S = 0.25  # of speech between what a streaming recogniser is given
_MUTE_STEP = 160  # samples: sound is muted in steps of 10 ms
_GAP_S = 0.25  # sound that is missing, or a clock that was set: a device was replaced
_SILENT_DEVICE_S = 1.0  # without sound, later than it usually comes: nobody is heard any more


@dataclass
class _Speaking:
    """The utterance that goes on, and when the next estimate is due."""

    number: int
    joins_s: float | None = None  # as in `Closed`
    next_s: float = _FIRST_S
    fed_s: float = 0.0  # seconds of it that the recogniser has


class Recognizer:
    """Push packets in order of time; get the evidence of the utterances that they complete.

    The same packets give the same final evidence however fast they come. `vision` is None when the
    source has no pictures, `transcriber` is None when words are not wanted or cannot be had;
    `no_text` and `no_vision` are then the reasons that events report; `down` has the modalities
    whose device fails at the moment, with the reason, and may change at any time. `hop_s`: seconds
    between provisional events, None for none. `stt_wait_s`: how long a final event waits for words
    that a `Background` transcriber still owes. `av_offset_s` is added to the time of pictures.
    `monotonic`: the packets' clock is `time.monotonic()`, which tells how long they had to wait.
    `turns`: when utterances begin and end. An utterance that begins within `join_s` after another
    of the same person is judged again with it. `muting` says when sound does not count. `keep` is
    given number, interval and (n,) samples of every utterance that is judged.
    """

    def __init__(
        self,
        text: TextFeatures,
        *,
        vision: FaceTracker | None,
        transcriber: Transcriber | None,
        no_text: str,
        no_vision: str,
        down: Mapping[str, str] | None = None,
        hop_s: float | None = None,
        stt_wait_s: float = 1.5,
        av_offset_s: float = 0.0,
        monotonic: bool = False,
        turns: SegmenterConfig | None = None,
        join_s: float = 0.0,
        muting: Muting | None = None,
        keep: Callable[[int, Segment, NDArray[np.float32]], None] | None = None,
    ) -> None:
        self._text, self._transcriber = text, transcriber
        self._hop_s, self._monotonic = hop_s, monotonic
        self._turns = SegmenterConfig() if turns is None else turns
        self._muting = Muting() if muting is None else muting
        self._scene = Scene(
            vision,
            no_text=no_text if transcriber is None else "",
            no_vision=no_vision,
            down={} if down is None else down,
            av_offset_s=av_offset_s,
        )
        self._finals = Finals(
            self._scene,
            text,
            transcriber,
            self._turns,
            stt_wait_s=stt_wait_s,
            join_s=join_s,
            keep=keep,
        )
        self._silenced = False
        self.n_dropped = 0
        """Utterances that were thrown away because they were open when the stream was muted."""
        self.muted_s = 0.0
        """How long the sound has been exactly zero, as no open microphone's is."""
        self._voice = VoiceActivity()
        self._segmenter: Segmenter | None = None
        self._unheard = np.zeros(0, np.float32)  # samples short of a whole VAD chunk
        self._expected_s = 0.0  # where the next chunk of sound should begin
        self._late_s = 0.0  # how long after its end the last one came
        self._n_utterances = 0
        self._speaking: _Speaking | None = None

    @property
    def seen(self) -> Seen | None:
        """The newest picture and the faces that are followed in it."""
        return self._scene.seen

    def push(self, packet: Packet) -> list[Evidence]:
        """Take one packet; returns what it, or the words known by now, allow to judge."""
        found: list[Evidence] = []
        if isinstance(packet, AudioChunk):
            found += self._hear(packet)
        else:
            self._end_without_sound(min(packet.time_s, time.monotonic()))
            self._scene.see(packet)
        return found + list(self._finals.ready())

    def tick(self) -> list[Evidence]:
        """Nothing came for a while: utterances whose words are known or waited for too long, and
        one that is open, if no sound comes any more."""
        self._end_without_sound(time.monotonic())
        return list(self._finals.ready())

    def flush(self) -> list[Evidence]:
        """The stream ended: judge the utterance that is still open, and those that wait."""
        self._end_open(Moment(time.monotonic(), 0.0))
        found = list(self._finals.ready())
        while self._finals.waiting:
            time.sleep(0.01)
            found += self._finals.ready()
        return found

    def _hear(self, chunk: AudioChunk) -> Iterator[Evidence]:
        now_s, length_s = time.monotonic(), len(chunk.samples) / SPEC.sample_rate_hz
        queued_s = now_s - chunk.start_s - length_s if self._monotonic else 0.0
        self._late_s = max(0.0, queued_s)
        moment = Moment(now_s, self._late_s)
        if self._segmenter is None or abs(chunk.start_s - self._expected_s) > _GAP_S:
            self._restart(chunk.start_s, moment)
            self._expected_s = chunk.start_s
        assert self._segmenter is not None
        # Counted on, so that many small gaps are noticed as well.
        self._expected_s += length_s
        self.muted_s = 0.0 if chunk.samples.any() else self.muted_s + length_s
        at_s = chunk.start_s - len(self._unheard) / SPEC.sample_rate_hz
        samples = self._audible(chunk)
        self._scene.timeline.add_audio(chunk.start_s, samples)
        samples = np.concatenate([self._unheard, samples])
        n = len(samples) // VoiceActivity.CHUNK * VoiceActivity.CHUNK
        self._unheard = samples[n:]
        for piece in samples[:n].reshape(-1, VoiceActivity.CHUNK):
            silent = self._silence(at_s, moment)
            at_s += VoiceActivity.CHUNK / SPEC.sample_rate_hz
            segment = self._segmenter.push(0.0 if silent else self._voice.probability(piece))
            if segment is not None:
                self._close(segment, moment)
            yield from self._early(self._segmenter, moment)

    def _audible(self, chunk: AudioChunk) -> NDArray[np.float32]:
        """Its (n,) samples, zero where they do not count."""
        samples = chunk.samples
        for first in range(0, len(samples), _MUTE_STEP):
            if self._muted(chunk.start_s + first / SPEC.sample_rate_hz) is not None:
                samples = samples.copy() if samples is chunk.samples else samples
                samples[first : first + _MUTE_STEP] = 0.0
        return samples

    def _muted(self, at_s: float) -> bool | None:
        """`Muting.at` of a time on the stream's clock, or of now where that is another clock."""
        return self._muting.at(at_s if self._monotonic else time.monotonic())

    def _silence(self, at_s: float, moment: Moment) -> bool:
        """Whether sound of that time does not count; where that begins, end what is open."""
        drop = self._muted(at_s)
        if drop is not None and not self._silenced:
            assert self._segmenter is not None
            if (segment := self._segmenter.flush()) is not None:
                if drop:
                    self.n_dropped += 1
                    self._speaking = None
                else:
                    self._close(segment, moment, (MUTED,))
            self._voice.reset()
        self._silenced = drop is not None
        return self._silenced

    def _restart(self, start_s: float, moment: Moment) -> None:
        """Sound begins, or begins again after a gap or a jump of its clock."""
        if self._segmenter is not None:
            self._end_open(moment)
            self._scene.timeline.restart_audio()
            self._voice.reset()
            self._unheard = self._unheard[:0]
        self._segmenter = Segmenter(VoiceActivity.CHUNK / SPEC.sample_rate_hz, start_s, self._turns)

    def _end_open(self, moment: Moment) -> None:
        """End the utterance that is open, if any, where its sound ends."""
        if self._segmenter is not None and (segment := self._segmenter.flush()) is not None:
            self._close(segment, moment)
        self._speaking = None

    def _end_without_sound(self, now_s: float) -> None:
        """A live device that gives no sound does not keep an utterance open. Packets come in order
        of time: sound of before `now_s` would have come by now."""
        missing_s = now_s - self._expected_s - self._late_s
        is_open = self._segmenter is not None and self._segmenter.speech is not None
        if self._monotonic and is_open and missing_s > _SILENT_DEVICE_S:
            self._end_open(Moment(time.monotonic(), 0.0))

    def _early(self, segmenter: Segmenter, moment: Moment) -> Iterator[Evidence]:
        """What can be said or prepared while somebody speaks."""
        speech = segmenter.speech
        if speech is None:
            self._speaking = None
            return
        if self._speaking is None:
            self._n_utterances += 1
            self._speaking = _Speaking(self._n_utterances, self._finals.may_join(speech.start_s))
        likely = segmenter.likely
        if likely is not None:
            if self._transcriber is not None and self._transcriber.anticipates:
                self._ask(likely, "likely")
            return
        length_s = speech.end_s - speech.start_s
        due = length_s >= self._speaking.next_s and segmenter.voiced
        if self._hop_s is not None and due:
            n_hops = 1 + (length_s - self._speaking.next_s) // self._hop_s
            self._speaking.next_s += n_hops * self._hop_s
            yield self._provisional(self._speaking, speech, moment)
        streams = self._transcriber is not None and self._transcriber.streams
        if streams and length_s >= self._speaking.fed_s + _FEED_S:
            self._speaking.fed_s = length_s
            self._ask(speech, "early")

    def _provisional(self, speaking: _Speaking, speech: Segment, moment: Moment) -> Evidence:
        """What there is of the utterance so far, with the words that are known by now."""
        answer = Answer(())
        if self._transcriber is not None:
            self._ask(speech, "early")
            answer = self._transcriber.early(speech.start_s)
            answer = sensible(answer, self._text, speech.end_s - speech.start_s)
            answer = Answer(newest_that_fit(self._text, answer.words), embedding=answer.embedding)
        before = self._finals.joined_by(speaking.joins_s, speech.end_s)
        if before is None:
            return self._estimate(speaking.number, speech, answer, moment)
        answer = before.followed_by(answer, speech)
        answer = replace(answer, words=newest_that_fit(self._text, answer.words))
        whole = Segment(before.segment.start_s, speech.end_s)
        return self._estimate(before.number, whole, answer, moment)

    def _estimate(self, number: int, part: Segment, answer: Answer, moment: Moment) -> Evidence:
        """Evidence of an early estimate."""
        sound = self._scene.timeline.sound
        return self._scene.evidence("provisional", number, part, answer, moment, sound)

    def _close(self, segment: Segment, moment: Moment, notes: tuple[str, ...] = ()) -> None:
        """An utterance has ended: want its words."""
        speaking, self._speaking = self._speaking, None
        if speaking is None:  # the rest of one that was too long
            self._n_utterances += 1
            speaking = _Speaking(self._n_utterances)
        sound = self._scene.timeline.sound
        self._finals.add(Closed(speaking.number, segment, moment, sound, notes, speaking.joins_s))
        if self._transcriber is not None:
            self._ask(segment, "final")

    def _ask(self, segment: Segment, stage: Stage) -> None:
        assert self._transcriber is not None
        samples = self._scene.timeline.samples(segment.start_s, segment.end_s)
        self._transcriber.ask(segment, samples, stage)
