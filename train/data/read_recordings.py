"""Readers of the corpora of voices and faces; `corpora.py` says which there are."""

import csv
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from .labels import (
    NAMES,
    NEUTRAL,
    RAVDESS_EMOTIONS,
    RAVDESS_HELD_OUT,
    UNKNOWN,
    VOTES,
    DataError,
    Recording,
    split_by_half,
    split_by_hash,
)

__all__ = ["ckplus48", "digits", "emodb", "ferplus", "nemo", "plain", "ravdess"]

_EMODB = {
    "W": "anger",
    "E": "disgust",
    "A": "fear",
    "F": "happiness",
    "T": "sadness",
    "N": "neutral",
}
# A woman and a man each for test, and one of either for validation, which leaves more to learn
# from. EmoDB: 15 is a man, 14 and 16 are women.
_HELD_OUT = {
    "emodb": {"14": "valid", "15": "test", "16": "test"},
    "ravdess": RAVDESS_HELD_OUT,
    "nemo": {"MP0": "valid", "IC0": "test", "TP0": "test"},  # a man; a woman and a man
    "digits": {"theo": "test"},  # of three men
}
# Salts the hash: the first that gives validation and test 4 people of each emotion at least. The
# unsalted one leaves a single sad person for validation.
_CKPLUS_SALT = "9"
# RAVDESS's two intensities, normal and strong.
_INTENSITY = {"01": 0.8, "02": 1.2}
_FERPLUS = {"FER2013Train": "train", "FER2013Valid": "valid", "FER2013Test": "test"}


def emodb(data: Path) -> Iterator[Recording]:
    """Acted German speech; boredom is left out."""
    for path in sorted((data / "emodb").glob("*.flac")):
        if len(path.stem) != 7 or path.stem[5] not in {*_EMODB, "L"}:  # L: boredom, dropped
            raise DataError(f"{path}: not an EmoDB name (such as 03a01Fa.flac)")
        if path.stem[5] in _EMODB:
            yield _recording(path, "emodb", _EMODB[path.stem[5]], path.stem[:2])


def ravdess(data: Path) -> Iterator[Recording]:
    """Acted English speech; calm is left out."""
    for path in sorted((data / "ravdess").glob("*.flac")):
        fields = path.stem.split("-")
        if len(fields) != 7 or fields[2] not in {*RAVDESS_EMOTIONS, "02"}:
            raise DataError(f"{path}: not a RAVDESS name (such as 03-01-05-01-01-01-12.flac)")
        if fields[2] in RAVDESS_EMOTIONS:
            recording = _recording(path, "ravdess", RAVDESS_EMOTIONS[fields[2]], fields[6])
            yield replace(recording, intensity=_INTENSITY.get(fields[3], 1.0))


def nemo(data: Path) -> Iterator[Recording]:
    """Acted Polish speech."""
    path = data / "nemo" / "data.tsv"
    if not path.exists():
        return
    with path.open(encoding="utf-8", newline="") as rows:
        for n, row in enumerate(csv.DictReader(rows, delimiter="\t"), 2):
            try:
                clip, emotion, person = row["file_id"], row["emotion"], row["speaker_id"]
                yield _recording(path.parent / clip, "nemo", emotion, person)
            except (KeyError, TypeError) as error:
                raise DataError(f"{path}:{n}: unknown or missing {error}") from error


def digits(data: Path) -> Iterator[Recording]:
    """Each person's digits in a shuffled order, three to six a time, all of them twice."""
    by_person: dict[str, list[Path]] = {}
    for path in sorted((data / "digits").glob("*.flac")):
        fields = path.stem.split("_")
        if len(fields) != 3:
            raise DataError(f"{path}: not the name of a digit (such as 7_jackson_32.flac)")
        by_person.setdefault(fields[1], []).append(path)
    for person, paths in by_person.items():
        rng = random.Random(person)
        for _ in range(2):
            rng.shuffle(paths)
            rest = list(paths)
            while len(rest) >= 3:
                n = rng.randint(3, 6)
                parts, rest = tuple(rest[:n]), rest[n:]
                recording = _recording(parts[0], "digits", "neutral", person)
                yield replace(recording, parts=parts)


def plain(data: Path) -> Iterator[Recording]:
    """A synthesiser's voices, neutral."""
    for path in sorted((data / "plain").glob("*_*.wav")):
        voice = path.stem.split("_")[0]
        recording = _recording(path, "plain", "neutral", voice)
        yield replace(recording, split=split_by_hash(voice))


def ckplus48(data: Path) -> Iterator[Recording]:
    """Posed faces."""
    for folder in sorted((data / "ckplus48").glob("*")):
        if folder.name in NAMES:
            for path in sorted(folder.glob("*.png")):
                yield _recording(path, "ckplus48", folder.name, path.stem.split("_")[0])


def ferplus(data: Path) -> Iterator[Recording]:
    """All pictures of ferplus; the emotion is the most frequent of its votes, UNKNOWN where that is
    none of the seven. It is unknown who is in them: each picture counts as a person of its own.
    Its intensity is the share of its votes among those and the votes for neutral. Half of the
    validation pictures serve as the test split, since the official test pictures may be
    missing."""
    for folder, split in _FERPLUS.items():
        path = data / "ferplus" / folder / "label.csv"
        if not path.exists():
            continue
        with path.open(encoding="utf-8", newline="") as rows:
            for n, row in enumerate(csv.reader(rows), 1):
                counts = row[2:]
                if len(counts) != len(VOTES) or not all(c.isdigit() for c in counts):
                    raise DataError(f"{path}:{n}: expected file, box and {len(VOTES)} vote counts")
                votes = tuple(int(count) for count in counts)
                halved = split == "valid" and split_by_half(row[0]) == "test"
                most = max(votes)
                emotion = NAMES.get(VOTES[votes.index(most)], UNKNOWN)
                calm = 0 if emotion == NEUTRAL else votes[VOTES.index("neutral")]
                yield Recording(
                    path=path.parent / row[0],
                    emotion=emotion,
                    person=row[0],
                    split="test" if halved else split,
                    corpus="ferplus",
                    votes=votes,
                    intensity=most / max(1, most + calm),
                )


def _recording(path: Path, corpus: str, emotion: str, person: str) -> Recording:
    held_out = _HELD_OUT.get(corpus)
    split = held_out.get(person, "train") if held_out else split_by_hash(f"{_CKPLUS_SALT}:{person}")
    return Recording(path=path, emotion=NAMES[emotion], person=person, split=split, corpus=corpus)
