"""What a bundle is worth on people of your own: `python -m export.evaluate --data FOLDER`.

Every item goes the product's own way: its features, its running statistics, its prior and its
calibration. torch is not needed.

| In the folder | What |
| --- | --- |
| `texts.csv` | columns `text` and `emotion`, `sentiment` in [-3, 3] or `arousal` in [-1, 1] |
| `voices/EMOTION/*` | sound files: the longest utterance, without its words |
| `faces/EMOTION/*` | pictures, shown for 2 s |
| `clips/EMOTION/*` | sound or video, words recognised: the longest utterance; by subset as well |
"""

import csv
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics as sk
from tqdm import tqdm

from runtime.config import option, parse
from runtime.engines.ort import OrtEngine
from runtime.errors import DmdLiveError, SourceError, UsageError
from runtime.features.audio import audio_rows
from runtime.features.spec import MODALITIES, SPEC
from runtime.features.text import TextFeatures
from runtime.features.tracking import FaceTracker
from runtime.features.vision import VisionFeatures
from runtime.judging.calibration import CONVERSATION, PRIORS, SUBSETS
from runtime.judging.evidence import PRESENT, Evidence
from runtime.judging.judge import Judge
from runtime.schemas import EmotionEvent
from runtime.sources.base import AudioChunk
from runtime.sources.file import FileSource
from runtime.speech import open_recogniser
from runtime.speech.background import Inline
from runtime.speech.base import Word
from runtime.store import models
from runtime.store.bundle import Bundle
from runtime.system.files import write_file
from runtime.utterances.recognizer import Recognizer

__all__ = ["Options", "emotion_scores", "main", "run", "sentiment_scores"]

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


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measure a bundle on your own sentences, voices, faces and clips, as the product judges them.

    FOLDER holds any of texts.csv (columns text, emotion, sentiment), voices/EMOTION/*,
    faces/EMOTION/* and clips/EMOTION/*. EMOTION is anger, disgust, fear, happiness, neutral,
    sadness or surprise.
    """

    data: str = option(metavar="FOLDER", help="your people; see above")
    bundle: str | None = option(None, metavar="FOLDER", help="default: the built-in one")
    precision: str | None = option(None, metavar="NAME", help="of the bundle's models")
    prior: str = option(CONVERSATION, choices=PRIORS, help="how common emotions are")
    session: str = option(
        "file",
        choices=("file", "folder"),
        help="file: each voice is the first that the device hears; folder: all of voices/ come one "
        "after the other, in a shuffled order, and are heard against the speech before them",
    )
    stt: str = option(
        "auto", choices=("auto", "vosk", "moonshine", "none"), help="who recognises words of clips"
    )
    json: str | None = option(None, metavar="FILE", help="write all numbers there")


@dataclass(frozen=True)
class Item:
    """One thing that was judged: the label, or "" where there is none, and what was said."""

    label: str
    event: EmotionEvent


def main() -> int:
    """Run the command; returns the exit code."""
    options = parse(Options, None, prog="python -m export.evaluate")
    try:
        found = run(options)
        if options.json is not None:
            text = json.dumps(_without_nan(found), indent=1, allow_nan=False)
            write_file(Path(options.json), (text + "\n").encode())
    except DmdLiveError as error:
        print(f"export.evaluate: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"export.evaluate: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    return 0


def run(options: Options) -> dict[str, Any]:
    """Measure what there is and print it. Raises DmdLiveError."""
    folder = Path(options.data)
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder")
    product = _Product(options)
    parts: dict[str, Callable[[Path], dict[str, Any]]] = {
        "texts": product.texts,
        "voices": product.voices,
        "faces": product.faces,
        "clips": product.clips,
    }
    found = {}
    for name, measure in parts.items():
        path = folder / ("texts.csv" if name == "texts" else name)
        if path.exists():
            found[name] = measure(path)
    if not any(part["n"] or part["unreadable"] for part in found.values()):
        raise UsageError(
            f"{folder}: nothing to measure; it may hold texts.csv, voices/EMOTION/*, "
            "faces/EMOTION/* and clips/EMOTION/*"
        )
    _show(found)
    return found


class _Product:
    """The parts of the product that judge a file."""

    def __init__(self, options: Options) -> None:
        folder = None if options.bundle is None else Path(options.bundle)
        self._bundle = Bundle.load(folder, options.precision)
        self._engine = OrtEngine(self._bundle.model)
        self._text = TextFeatures(self._bundle.tokenizer_json)
        self._options = options
        self.emotions = self._bundle.emotions

    @cached_property
    def _networks(self) -> VisionFeatures:
        return VisionFeatures(models.resolve("face-landmarker"))

    @cached_property
    def _transcriber(self) -> Inline | None:
        recogniser = open_recogniser(self._options.stt)
        return None if recogniser is None else Inline(recogniser)

    def judge(self) -> Judge:
        """A judge that has heard nobody."""
        return Judge(self._bundle, self._engine, self._text, prior=self._options.prior)

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
        together = self._options.session == "folder"
        if together:
            files = [files[k] for k in np.random.default_rng(0).permutation(len(files))]
        judge, items, unreadable, unheard = self.judge(), [], 0, 0
        for label, path in tqdm(files, "voices", unit="clip", leave=False):
            try:
                evidence, heard = self._utterance(path, words=False)
            except SourceError as error:
                unreadable += _complain(error)
                continue
            unheard += not heard
            evidence = _only(evidence, ("audio",))
            items.append(Item(label, (judge if together else self.judge()).event(evidence)))
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
                evidence, _ = self._utterance(path, words=True)
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

    def _utterance(self, path: Path, *, words: bool) -> tuple[Evidence, bool]:
        """The longest utterance of a file, and whether the device hears one in it; else all of its
        sound is taken for one. Raises SourceError."""
        source = FileSource(path)
        with source:
            pictures = words and "vision" in source.modalities
            recognizer = Recognizer(
                self._text,
                vision=FaceTracker(self._networks) if pictures else None,
                transcriber=self._transcriber if words else None,
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
        return _evidence(audio=audio_rows(samples[:most])), False

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
            raise UsageError(f"{where}: {name!r} is no emotion of this bundle; it knows {known}")
        return label


def emotion_scores(items: Sequence[Item], emotions: Sequence[str]) -> dict[str, Any]:
    """All that is said of emotions; shares in [0, 1].

    `uar` and `macro_f1` are over the emotions that occur; `ece` over ten bins of the confidence;
    `sure_and_wrong`: wrong and not uncertain, among all; `false_alarms`: something else than
    neutral and not uncertain, among the neutral ones, null without any; `confusion`: of the label
    (outer), how often each was said.
    """
    labels = [item.label for item in items]
    said = [item.event.emotion for item in items]
    occurring = [e for e in emotions if e in labels]
    right = np.array([a == b for a, b in zip(labels, said, strict=True)], float)
    sure = np.array([not item.event.uncertain for item in items], bool)
    confidence = np.array([item.event.confidence for item in items])
    neutral = np.array([label == "neutral" for label in labels], bool)
    if not items:
        return {"n": 0}
    recall = {
        e: float(np.mean([s == e for s, label in zip(said, labels, strict=True) if label == e]))
        for e in occurring
    }
    table = sk.confusion_matrix(labels, said, labels=list(emotions))
    return {
        "n": len(items),
        "accuracy": float(right.mean()),
        "uar": float(np.mean(list(recall.values()))),
        "macro_f1": float(
            sk.f1_score(labels, said, labels=occurring, average="macro", zero_division=0.0)
        ),
        "ece": _calibration_error(confidence, right),
        "uncertain": float((~sure).mean()),
        "sure_and_wrong": float((sure & (right == 0)).mean()),
        "false_alarms": float((sure & (right == 0))[neutral].mean()) if neutral.any() else None,
        "recall": recall,
        "confusion": {
            e: {s: int(n) for s, n in zip(emotions, row, strict=True)}
            for e, row in zip(emotions, table, strict=True)
            if e in occurring
        },
    }


def sentiment_scores(said: NDArray[Any], told: NDArray[Any]) -> dict[str, float]:
    """MMSA's metrics of `said` (n,) against `told` (n,), both in [-3, 3].

    `acc2_nonzero`: the sign, where it is not 0; `acc2_haszero`: negative or not; `acc5`, `acc7`:
    clipped to [-2, 2], [-3, 3] and rounded, half to even. NaN where there is nothing to count.
    """

    def rounded(limit: float) -> float:
        both = (np.round(np.clip(values, -limit, limit)) for values in (said, told))
        return float(np.mean(np.equal(*both)))

    signed = told != 0
    spread = min(said.std(), told.std()) if len(told) > 1 else 0.0
    return {
        "n": len(told),
        "mae": float(np.abs(said - told).mean()),
        "corr": float(np.corrcoef(said, told)[0, 1]) if spread > 1e-6 else float("nan"),
        "acc2_nonzero": float(np.mean((said > 0)[signed] == (told > 0)[signed]))
        if signed.any()
        else float("nan"),
        "acc2_haszero": float(np.mean((said >= 0) == (told >= 0))),
        "acc5": rounded(2.0),
        "acc7": rounded(3.0),
    }


def _calibration_error(confidence: NDArray[Any], right: NDArray[Any]) -> float:
    """Expected calibration error over ten bins of equally many answers (Nguyen and O'Connor 2015),
    as `train.metrics` has it; this command runs without the trainer."""
    bins = np.array_split(np.argsort(confidence, kind="stable"), min(10, len(confidence)))
    gaps = [abs(confidence[k].mean() - right[k].mean()) * len(k) for k in bins]
    return float(np.sum(gaps)) / len(confidence)


def _evidence(
    *,
    words: tuple[Word, ...] = (),
    audio: NDArray[np.float32] | None = None,
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
        vision=evidence.vision if "vision" in names else evidence.vision[:0],
        modalities={m: w if m in names else _ABSENT for m, w in evidence.modalities.items()},
    )


def _without_nan(found: Any) -> Any:
    """The same with null for what is undefined, for JSON knows no NaN."""
    if isinstance(found, dict):
        return {name: _without_nan(value) for name, value in found.items()}
    return None if isinstance(found, float) and np.isnan(found) else found


def _complain(error: object) -> int:
    print(f"export.evaluate: {error}; left out", file=sys.stderr)
    return 1


def _show(found: dict[str, Any]) -> None:
    """A table for people."""
    names = (
        "n",
        "accuracy",
        "uar",
        "macro_f1",
        "ece",
        "uncertain",
        "sure_and_wrong",
        "false_alarms",
    )
    print(f"{'':<28}" + "".join(f"{name:>15}" for name in names))
    for part, scores in found.items():
        rows = {part: scores, **{f"  {s}": v for s, v in scores.get("subsets", {}).items()}}
        for name, values in rows.items():
            cells = [values.get(metric) for metric in names]
            print(f"{name:<28}" + "".join(f"{_cell(value):>15}" for value in cells))
        for name in ("sentiment", "arousal"):
            if name in scores:
                shown = "  ".join(f"{k} {_cell(v)}" for k, v in scores[name].items())
                print(f"  {name}: {shown}")
        left = {k: scores[k] for k in ("unreadable", "without_face", "not_heard_as_speech")
                if scores.get(k)}  # fmt: skip
        if left:
            print("  " + ", ".join(f"{n} {k.replace('_', ' ')}" for k, n in left.items()))


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else f"{value:.3f}"


if __name__ == "__main__":
    sys.exit(main())
