"""From one clip of a manifest to utterances: features by the runtime's own code."""

from collections.abc import Iterator
from functools import cache

import numpy as np

from runtime.features.embedding import no_embedding
from runtime.features.spec import SPEC
from runtime.features.text import TextFeatures
from runtime.features.vision import VisionFeatures
from runtime.sources.base import AudioChunk, Packet
from runtime.sources.file import FileSource
from runtime.speech.base import Answer, SpeechToText
from runtime.speech.understood import sensible
from runtime.store import models
from runtime.store.bundle import DEFAULT
from runtime.utterances.cutter import Cutter
from runtime.utterances.segmenter import Segment
from runtime.utterances.timeline import ALONE, Timeline, alone

from .data.corpora import DataError
from .data.manifest import Clip
from .data.shards import Item

__all__ = ["VERSION", "extract"]

VERSION = 2  # part of every part's name: raise it when this file makes other rows


def extract(clip: Clip, speech_to_text: SpeechToText | None) -> list[Item]:
    """The utterances of a clip: one, or several if it is too long for one and speech-to-text cuts
    it as the device would. Raises DmdLiveError when there are none."""
    with FileSource(clip.path) as source:
        timeline, cut = Timeline(), Cutter()
        end_s, items = clip.start_s, []
        for packet in _inside(source.packets(), clip):
            if isinstance(packet, AudioChunk):
                timeline.add_audio(packet.start_s, packet.samples)
                end_s = max(end_s, packet.start_s + len(packet.samples) / SPEC.sample_rate_hz)
                if not clip.text:
                    for segment in cut.push(packet):
                        items += _item(clip, segment, timeline, speech_to_text)
            else:
                timeline.add_vision(packet.time_s, alone(_networks().row(packet.rgb)))
                end_s = max(end_s, packet.time_s)
    whole = Segment(clip.start_s, min(end_s, clip.end_s))
    if whole.end_s - whole.start_s <= SPEC.max_utterance_s:
        return _item(clip, whole, timeline, speech_to_text)
    if clip.text:
        raise DataError(
            f"{end_s - clip.start_s:.1f} s long: an utterance has at most "
            f"{SPEC.max_utterance_s:g} s; split it, or leave its text empty"
        )
    for segment in cut.flush():
        items += _item(clip, segment, timeline, speech_to_text)
    if not items:
        raise DataError("nobody speaks in this clip")
    return items


def _inside(packets: Iterator[Packet], clip: Clip) -> Iterator[Packet]:
    """What lies between the clip's start and end; chunks of sound are trimmed."""
    for packet in packets:
        if not isinstance(packet, AudioChunk):
            if clip.start_s <= packet.time_s < clip.end_s:
                yield packet
            continue
        if packet.start_s >= clip.end_s:
            return
        begin, end = (
            max(0, round((t - packet.start_s) * SPEC.sample_rate_hz))
            for t in (clip.start_s, min(clip.end_s, packet.start_s + 60.0))
        )
        samples = packet.samples[begin:end]
        if len(samples):
            yield AudioChunk(start_s=packet.start_s + begin / SPEC.sample_rate_hz, samples=samples)


def _item(
    clip: Clip, segment: Segment, timeline: Timeline, speech_to_text: SpeechToText | None
) -> list[Item]:
    samples = timeline.samples(segment.start_s, segment.end_s)
    text, answer = clip.text, Answer(())
    if not text and speech_to_text is not None and len(samples):
        heard = speech_to_text.transcribe(samples, segment.start_s)
        answer = Answer(heard, embedding=speech_to_text.embedding)
        answer = sensible(answer, _tokenizer(), segment.end_s - segment.start_s)
        text = " ".join(word.text for word in answer.words)
    n_pieces = len(_tokenizer().ids(text)) if text else 0
    if n_pieces > SPEC.max_pieces:
        raise DataError(
            f"{n_pieces} word pieces of text, at most {SPEC.max_pieces} fit; split the clip"
        )
    audio = np.zeros((0, SPEC.audio_dim), np.float32)
    if len(samples):
        audio = timeline.audio_rows(segment.start_s, segment.end_s)
    vision = timeline.vision_rows(segment.start_s, segment.end_s, ALONE)
    if not vision[:, -1].any():  # no face: absent, as on the device
        vision = vision[:0]
    if not (text or len(audio) or len(vision)):
        raise DataError("the clip has no words, no sound and no face")
    return [
        Item(
            id=f"{clip.path.stem}_{segment.start_s:.3f}_{segment.end_s:.3f}",
            text=text,
            audio=audio,
            audio_embedding=answer.embedding if len(audio) else no_embedding(),
            vision=vision,
            sentiment=clip.sentiment,
            emotion=clip.emotion,
            speaker=clip.speaker,
            text_from="manifest" if clip.text else "stt",
        )
    ]


@cache
def _networks() -> VisionFeatures:
    return VisionFeatures(models.resolve("face-landmarker"))


@cache
def _tokenizer() -> TextFeatures:
    return TextFeatures(DEFAULT / "tokenizer.json")
