"""Sentences, voices, faces and clips of people, each judged as the product judges it."""

import csv
import hashlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from runtime.engines.ort import OrtEngine
from runtime.errors import SourceError, UsageError
from runtime.features.audio import audio_rows
from runtime.features.embedding import no_embedding
from runtime.features.spec import MODALITIES, SPEC
from runtime.features.text import TextFeatures
from runtime.features.tracking import FaceTracker
from runtime.features.vision import VisionFeatures
from runtime.judging.calibration import SUBSETS
from runtime.judging.evidence import PRESENT, Evidence
from runtime.judging.judge import Judge
from runtime.sources.base import AudioChunk
from runtime.sources.file import FileSource
from runtime.speech import open_recogniser
from runtime.speech.background import Inline
from runtime.speech.base import Word
from runtime.store import models
from runtime.store.bundle import Bundle
from runtime.utterances.recognizer import Recognizer
from runtime.utterances.segmenter import Segment

from .scores import Item, emotion_scores, sentiment_scores

__all__ = ["Product"]

_SHOWN_S = 2.0  # a picture is looked at for this long
_ABSENT = "not given"
_NAMES = {
    "angry": "anger",
    "disgusted": "disgust",
    "fearful": "fear",
    "afraid": "fear",
    "scared": "fear",
    "happy": "happiness",
    "joy": "happiness",
    "calm": "neutral",
    "sad": "sadness",
    "surprised": "surprise",
}


class Product:
    """The parts of the product that judge a file. Raises DmdLiveError.

    `folder`, `precision`: of the bundle, None for the built-in one; `prior`, `stt`: as the device
    takes them; `together`: voices come one after the other, as of one session; `words_share`: what
    the words' own reading counts, None for as the bundle says.
    """

    def __init__(
        self,
        folder: Path | None,
        precision: str | None,
        *,
        prior: str,
        stt: str,
        together: bool,
        words_share: float | None = None,
    ) -> None:
        self._bundle = Bundle.load(folder, precision)
        if words_share is not None:
            counted = {**self._bundle.info["calibration"], "words_share": words_share}
            self._bundle = replace(self._bundle, info={**self._bundle.info, "calibration": counted})
        self._engine = OrtEngine(self._bundle.model)
        self._text = TextFeatures(self._bundle.tokenizer_json)
        self._prior, self._stt, self._together = prior, stt, together
        self.emotions = self._bundle.emotions
        self.words_share = self._bundle.calibration.words_share
        self.model_sha256 = hashlib.sha256(self._bundle.model).hexdigest()

    @cached_property
    def _networks(self) -> VisionFeatures:
        return VisionFeatures(models.resolve("face-landmarker"))

    @cached_property
    def _transcriber(self) -> Inline | None:
        recogniser = open_recogniser(self._stt)
        return None if recogniser is None else Inline(recogniser)

    @cached_property
    def _listener(self) -> Inline | None:
        """The recogniser for voices alone, where the graph reads what its encoder hears."""
        return self._transcriber if "audio_embedding" in self._bundle.info["inputs"] else None

    def judge(self) -> Judge:
        """A judge that has heard nobody."""
        return Judge(self._bundle, self._engine, self._text, prior=self._prior)

    def texts(self, path: Path) -> dict[str, Any]:
        """texts.csv, each sentence alone."""
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                rows = list(csv.DictReader(file))
        except (UnicodeDecodeError, csv.Error) as error:
            raise UsageError(f"{path}: not a CSV file in UTF-8 ({error})") from error
        if (
            not rows
            or "text" not in rows[0]
            or not {"emotion", "sentiment", "arousal"} & {*rows[0]}
        ):
            raise UsageError(f"{path}: needs columns text, and emotion or sentiment")
        items, ratings = [], {name: ([], []) for name in ("sentiment", "arousal")}  # type: ignore[var-annotated]
        for n, row in enumerate(tqdm(rows, "texts", unit="sentence", leave=False), 2):
            label = self._label(row.get("emotion") or "", f"{path}:{n}")
            words = tuple(Word(text=w, start_s=0.0, end_s=0.0) for w in (row["text"] or "").split())
            event = self.judge().event(_evidence(words=words))
            if label:
                items.append(Item(label, event))
            for name, (told, said) in ratings.items():
                if row.get(name):
                    try:
                        told.append(float(row[name]))
                    except ValueError:
                        raise UsageError(f"{path}:{n}: {name} {row[name]!r} is no number") from None
                    said.append(getattr(event, name))
        found: dict[str, Any] = {"n": len(rows)}
        if items:
            found = emotion_scores(items, self.emotions)
        for name, (told, said) in ratings.items():
            if told:
                scores = sentiment_scores(np.array(said), np.array(told))
                kept = (
                    scores if name == "sentiment" else {k: scores[k] for k in ("n", "mae", "corr")}
                )
                found[name] = kept
        return found | {"unreadable": 0}

    def voices(self, folder: Path) -> dict[str, Any]:
        """voices/EMOTION/*: without words and pictures."""
        files = list(self._files(folder))
        if self._together:
            files = [files[k] for k in np.random.default_rng(0).permutation(len(files))]
        judge, items, unreadable, unheard = self.judge(), [], 0, 0
        for label, path in tqdm(files, "voices", unit="clip", leave=False):
            try:
                evidence, heard = self._utterance(path, self._listener, pictures=False)
            except SourceError as error:
                unreadable += _complain(error)
                continue
            unheard += not heard
            evidence = _only(evidence, ("audio",))
            items.append(Item(label, (judge if self._together else self.judge()).event(evidence)))
        return emotion_scores(items, self.emotions) | {
            "unreadable": unreadable,
            "not_heard_as_speech": unheard,
        }

    def faces(self, folder: Path) -> dict[str, Any]:
        """faces/EMOTION/*: each shown for 2 s."""
        import cv2

        items, unreadable, faceless = [], 0, 0
        n_rows = round(_SHOWN_S * SPEC.vision_rate_hz)
        for label, path in tqdm(list(self._files(folder)), "faces", unit="picture", leave=False):
            picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
            if picture is None:
                unreadable += _complain(f"{path}: not a picture")
                continue
            row = self._networks.row(np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8))
            shown = row[-1] > 0
            faceless += not shown
            evidence = _evidence(vision=np.tile(row, (n_rows if shown else 0, 1)))
            items.append(Item(label, self.judge().event(evidence)))
        return emotion_scores(items, self.emotions) | {
            "unreadable": unreadable,
            "without_face": faceless,
        }

    def clips(self, folder: Path) -> dict[str, Any]:
        """clips/EMOTION/*: the whole path, and each subset of what is there."""
        items, unreadable = [], 0
        by_subset: dict[str, list[Item]] = {subset: [] for subset in SUBSETS}
        for label, path in tqdm(list(self._files(folder)), "clips", unit="clip", leave=False):
            try:
                evidence, _ = self._utterance(path, self._transcriber, pictures=True)
            except SourceError as error:
                unreadable += _complain(error)
                continue
            items.append(Item(label, self.judge().event(evidence)))
            for subset in SUBSETS:
                names = tuple(subset.split("+"))
                if all(evidence.modalities[m] == PRESENT for m in names):
                    event = self.judge().event(_only(evidence, names))
                    by_subset[subset].append(Item(label, event))
        subsets = {s: emotion_scores(part, self.emotions) for s, part in by_subset.items() if part}
        scores = emotion_scores(items, self.emotions)
        return scores | {"unreadable": unreadable, "subsets": subsets}

    def _utterance(
        self, path: Path, transcriber: Inline | None, *, pictures: bool
    ) -> tuple[Evidence, bool]:
        """The longest utterance of a file, and whether the device hears one in it; if not, all of
        its sound counts as one. Raises SourceError."""
        source = FileSource(path)
        with source:
            pictures = pictures and "vision" in source.modalities
            recognizer = Recognizer(
                self._text,
                vision=FaceTracker(self._networks) if pictures else None,
                transcriber=transcriber,
                no_text=_ABSENT,
                no_vision=_ABSENT,
            )
            found: list[Evidence] = []
            sound: list[NDArray[np.float32]] = []
            for packet in source.packets():
                if packet is None:
                    continue
                if isinstance(packet, AudioChunk):
                    sound.append(packet.samples)
                found += recognizer.push(packet)
            found += recognizer.flush()
        if found:
            return max(found, key=lambda evidence: evidence.end_s - evidence.start_s), True
        samples = np.concatenate([np.zeros(0, np.float32), *sound])
        most = round(SPEC.max_utterance_s * SPEC.sample_rate_hz)
        samples = samples[:most]
        embedding = no_embedding()
        if transcriber is not None:
            whole = Segment(0.0, len(samples) / SPEC.sample_rate_hz)
            transcriber.ask(whole, samples, "final")
            embedding = transcriber.early(0.0).embedding
        return _evidence(audio=audio_rows(samples), embedding=embedding), False

    def _files(self, folder: Path) -> Iterator[tuple[str, Path]]:
        """(emotion, file) pairs. Raises UsageError for a folder that is no emotion."""
        for part in sorted(p for p in folder.iterdir() if p.is_dir() and p.name[:1] != "."):
            label = self._label(part.name, str(part))
            for path in sorted(p for p in part.rglob("*") if p.is_file() and p.name[:1] != "."):
                yield label, path

    def _label(self, name: str, where: str) -> str:
        name = name.strip().lower()
        label = _NAMES.get(name, name)
        if label and label not in self.emotions:
            known = ", ".join(self.emotions)
            raise UsageError(
                f"{where}: {name!r} is not an emotion of this bundle; it knows {known}"
            )
        return label


def _evidence(
    *,
    words: tuple[Word, ...] = (),
    audio: NDArray[np.float32] | None = None,
    embedding: NDArray[np.float32] | None = None,
    vision: NDArray[np.float32] | None = None,
) -> Evidence:
    """Of an utterance of which nothing else is known."""
    audio = np.zeros((0, SPEC.audio_dim), np.float32) if audio is None else audio
    vision = np.zeros((0, SPEC.vision_dim), np.float32) if vision is None else vision
    there = {"text": len(words), "audio": len(audio), "vision": len(vision)}
    return Evidence(
        type="final",
        utterance=1,
        start_s=0.0,
        end_s=_SHOWN_S,
        words=words,
        audio=audio,
        audio_embedding=no_embedding() if embedding is None else embedding,
        vision=vision,
        modalities={m: PRESENT if there[m] else _ABSENT for m in MODALITIES},
        quality=(),
    )


def _only(evidence: Evidence, names: Sequence[str]) -> Evidence:
    """The evidence of these modalities alone."""
    return replace(
        evidence,
        words=evidence.words if "text" in names else (),
        audio=evidence.audio if "audio" in names else evidence.audio[:0],
        audio_embedding=evidence.audio_embedding if "audio" in names else no_embedding(),
        vision=evidence.vision if "vision" in names else evidence.vision[:0],
        modalities={m: w if m in names else _ABSENT for m, w in evidence.modalities.items()},
    )


def _complain(error: object) -> int:
    print(f"export.evaluate: {error}; left out", file=sys.stderr)
    return 1
