"""What is seen and heard, and the evidence of a part of it."""

import time
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..features.embedding import no_embedding
from ..features.spec import SPEC
from ..features.tracking import FaceTracker, Seen
from ..judging.evidence import PRESENT, Evidence
from ..schemas import Person
from ..sources.base import VideoFrame
from ..speech.base import Answer
from .quality import ASKEW, FROZEN, PictureQuality, sound_notes, word_notes
from .segmenter import Segment
from .speaker import Speaker, who_speaks
from .timeline import Look, Sound, Timeline

__all__ = ["Moment", "Scene"]

_AROUND_S = 0.3  # silence around an utterance tells as much about lips as the sound in it
_ENERGY = SPEC.n_mels + 2  # column of an audio row


class Moment(NamedTuple):
    """When, by `time.monotonic()`, a packet was taken up, and how long it had waited for that."""

    arrived_s: float
    queued_s: float


class Scene:
    """Sound and pictures of the last 30 s.

    `vision` is None when the source has no pictures; `no_text` and `no_vision` are the reasons that
    events report for what nothing delivers, `down` those of devices that fail at the moment.
    `av_offset_s` is added to the time of pictures.
    """

    def __init__(
        self,
        vision: FaceTracker | None,
        *,
        no_text: str,
        no_vision: str,
        down: Mapping[str, str],
        av_offset_s: float,
    ) -> None:
        self._vision, self._av_offset_s = vision, av_offset_s
        self._no_text, self._no_vision, self._down = no_text, no_vision, down
        self._pictures = PictureQuality()
        self._spoke_last: int | None = None
        self.timeline = Timeline()
        self.seen: Seen | None = None

    def see(self, frame: VideoFrame) -> None:
        """Take a picture."""
        if self._vision is None:
            return
        at_s = frame.time_s + self._av_offset_s
        self.seen = self._vision.look(frame.rgb, at_s)
        self.timeline.add_vision(at_s, _looks(self.seen))
        self._pictures.add(at_s, frame.rgb, self.seen.n_faces, self.seen.upright)

    def evidence(
        self, kind: str, number: int, segment: Segment, answer: Answer, moment: Moment, sound: Sound
    ) -> Evidence:
        """What there is of an interval, with the words that were recognised in its `sound`."""
        known = time.monotonic()
        start_s, end_s = segment.start_s, segment.end_s
        audio = sound.audio_rows(start_s, end_s)
        faces = self.timeline.faces(start_s, end_s)
        speaker = self._speaker(faces, start_s, end_s, sound)
        vision = self.timeline.vision_rows(start_s, end_s, speaker.id)
        pictures = self._pictures.notes(start_s, end_s) if self._vision is not None else ()
        text = PRESENT if answer.words else answer.error or "no words recognised"
        modalities = {
            "text": self._no_text or text,
            "audio": PRESENT if len(audio) else "no sound",
            "vision": self._vision_presence(vision, pictures, n_faces=len(faces)),
        }
        person = None
        if modalities["vision"] == PRESENT and speaker.id is not None:
            self._spoke_last = speaker.id
            person = Person(
                id=speaker.id,
                confidence=speaker.confidence,
                n_in_view=len(faces),
                box=faces[speaker.id][-1][1].box,
            )
        return Evidence(
            type=kind,
            utterance=number,
            start_s=start_s,
            end_s=end_s,
            words=answer.words,
            audio=audio,
            audio_embedding=answer.embedding if len(audio) else no_embedding(),
            vision=vision if modalities["vision"] == PRESENT else vision[:0],
            modalities=modalities,
            quality=(
                *sound_notes(sound.samples(start_s, end_s)),
                *word_notes(answer.words),
                *pictures,
            ),
            person=person,
            queued_s=moment.queued_s,
            arrived_s=moment.arrived_s,
            known_s=known,
        )

    def _speaker(
        self, faces: dict[int, list[tuple[float, Look]]], start_s: float, end_s: float, sound: Sound
    ) -> Speaker:
        """Whose lips move with the sound between two times."""
        if not faces:
            return Speaker(None, 1.0)
        begin_s = start_s - _AROUND_S
        loudness = sound.audio_rows(begin_s, end_s + _AROUND_S)[:, _ENERGY]
        lips = {
            face: (np.array([t for t, _ in looks]), np.array([look.lips for _, look in looks]))
            for face, looks in faces.items()
        }
        at_s = begin_s + np.arange(len(loudness)) / SPEC.audio_rate_hz
        return who_speaks(lips, at_s, loudness.astype(np.float64), self._spoke_last)

    def _vision_presence(
        self, rows: NDArray[np.float32], notes: tuple[str, ...], *, n_faces: int
    ) -> str:
        if self._vision is None:
            return self._no_vision
        if not len(rows):
            return self._down.get("vision", "no picture")
        if ASKEW in notes:
            return ASKEW
        if not n_faces:
            return "no face in view"
        if FROZEN in notes:
            return FROZEN
        return PRESENT if rows[:, -1].any() else "nobody in view speaks"


def _looks(seen: Seen) -> dict[int, Look]:
    """The faces of a picture, by number."""
    height, width = seen.rgb.shape[:2]
    looks = {}
    for face in seen.faces:
        x, y, w, h = face.box
        box = ((x - w / 2) / width, (y - h / 2) / height, w / width, h / height)
        looks[face.id] = Look(face.row, face.lips, box)
    return looks
